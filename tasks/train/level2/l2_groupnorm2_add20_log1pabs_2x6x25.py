# tags: norm, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 6
N = 25


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = F.group_norm(x, 2, self.weight, self.bias)
        x = x + 2.0
        x = torch.log1p(torch.abs(x))
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return [M]
