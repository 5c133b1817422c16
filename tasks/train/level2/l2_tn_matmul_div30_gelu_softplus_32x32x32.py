# tags: matmul, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 32
N = 32
K = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.matmul(x.t(), y)
        x = x / 3.0
        x = F.gelu(x)
        x = F.softplus(x)
        return x


def get_inputs():
    return [torch.randn(K, M), torch.randn(K, N)]


def get_init_inputs():
    return []
