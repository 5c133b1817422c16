# tags: elementwise, fused
import torch
import torch.nn as nn

M = 24
N = 40


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x - 1.5
        x = 1.0 / (1.0 + x * x)
        x = torch.square(x)
        x = x + 2.0
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
