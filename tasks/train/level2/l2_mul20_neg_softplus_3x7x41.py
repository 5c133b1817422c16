# tags: elementwise, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 3
M = 7
N = 41


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x * 2.0
        x = torch.neg(x)
        x = F.softplus(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
