# tags: matmul, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 16
N = 64
K = 48


class Model(nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, features))

    def forward(self, x):
        x = F.linear(x, self.weight)
        x = x * 0.25
        return x


def get_inputs():
    return [torch.randn(M, K)]


def get_init_inputs():
    return [K, N]
