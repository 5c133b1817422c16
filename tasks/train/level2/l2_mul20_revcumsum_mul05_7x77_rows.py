# tags: cumulative, fused, elementwise
import torch
import torch.nn as nn

M = 7
N = 77


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x * 2.0
        x = torch.cumsum(x.flip(1), dim=1).flip(1)
        x = x * 0.5
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
