# tags: matmul, fused, activation, elementwise
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
        x = torch.matmul(x, y)
        x = F.hardswish(x)
        x = torch.square(x)
        x = x * 2.0
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(K, N)]


def get_init_inputs():
    return []
