# tags: matmul, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 16
N = 64
K = 48


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.matmul(x, y.t())
        x = F.silu(x)
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(N, K)]


def get_init_inputs():
    return []
