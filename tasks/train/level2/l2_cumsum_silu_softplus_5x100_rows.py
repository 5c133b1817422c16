# tags: cumulative, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 5
N = 100


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.cumsum(x, dim=1)
        x = F.silu(x)
        x = F.softplus(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
