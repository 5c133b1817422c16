# tags: elementwise, fused
import torch
import torch.nn as nn

M = 12
N = 100


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x * 0.25
        x = torch.log1p(torch.abs(x))
        x = x * 3.0
        x = torch.sin(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
