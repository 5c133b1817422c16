# tags: reduction, fused, elementwise
import torch
import torch.nn as nn

M = 5
N = 100


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.std(x, dim=1)
        x = torch.square(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
