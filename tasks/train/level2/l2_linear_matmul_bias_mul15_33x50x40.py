# tags: matmul, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 33
N = 50
K = 40


class Model(nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, features))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        x = F.linear(x, self.weight)
        x = x + self.bias
        x = x * 1.5
        return x


def get_inputs():
    return [torch.randn(M, K)]


def get_init_inputs():
    return [K, N]
