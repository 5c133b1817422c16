# tags: elementwise, fused
import torch
import torch.nn as nn

M = 13
N = 77


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x * 0.5
        x = torch.neg(x)
        x = torch.clamp(x, -0.5, 1.5)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
