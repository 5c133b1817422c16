# tags: matmul, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 20
N = 36
K = 70


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.matmul(x.t(), y)
        x = F.hardswish(x)
        x = torch.sqrt(torch.abs(x) + 1.0)
        return x


def get_inputs():
    return [torch.randn(K, M), torch.randn(K, N)]


def get_init_inputs():
    return []
