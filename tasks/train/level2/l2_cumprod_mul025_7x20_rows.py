# tags: cumulative, fused, elementwise
import torch
import torch.nn as nn

M = 7
N = 20


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.cumprod(x, dim=1)
        x = x * 0.25
        return x


def get_inputs():
    return [torch.randn(M, N) * 0.25 + 1.0]


def get_init_inputs():
    return []
