# tags: cumulative, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 9
N = 17


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.cumprod(x, dim=1)
        x = F.softplus(x)
        return x


def get_inputs():
    return [torch.randn(M, N) * 0.25 + 1.0]


def get_init_inputs():
    return []
