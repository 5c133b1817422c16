# tags: elementwise, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 13
N = 77


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x + 2.0
        x = torch.log1p(torch.abs(x))
        x = F.softshrink(x)
        x = 1.0 / (1.0 + x * x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
