# tags: cumulative, fused, activation, elementwise
import torch
import torch.nn as nn

M = 8
N = 128


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.sigmoid(x)
        x = torch.cumsum(x, dim=1)
        x = x * 0.25
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
