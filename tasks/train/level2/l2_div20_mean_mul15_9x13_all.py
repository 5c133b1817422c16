# tags: reduction, fused, elementwise
import torch
import torch.nn as nn

M = 9
N = 13


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x / 2.0
        x = torch.mean(x)
        x = x * 1.5
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
