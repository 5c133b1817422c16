# tags: norm, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 6
N = 20


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = F.group_norm(x, 2, self.weight, self.bias)
        x = x * 1.5
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return [M]
