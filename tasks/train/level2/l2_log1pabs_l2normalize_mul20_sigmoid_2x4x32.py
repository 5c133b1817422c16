# tags: norm, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 4
N = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.log1p(torch.abs(x))
        x = F.normalize(x, dim=-1)
        x = x * 2.0
        x = torch.sigmoid(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
