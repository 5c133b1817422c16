# tags: elementwise, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 8
N = 128


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.sqrt(torch.abs(x) + 1.0)
        x = F.silu(x)
        x = F.hardswish(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
