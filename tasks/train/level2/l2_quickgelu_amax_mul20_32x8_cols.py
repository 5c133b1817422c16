# tags: reduction, fused, activation, elementwise
import torch
import torch.nn as nn

M = 32
N = 8


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x * torch.sigmoid(1.7 * x)
        x = torch.amax(x, dim=0)
        x = x * 2.0
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
