# tags: matmul, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 40
N = 33
K = 25


class Model(nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, features))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        x = F.linear(x, self.weight)
        x = x + self.bias
        x = x + 0.5
        x = torch.sqrt(torch.abs(x) + 1.0)
        x = x / 2.0
        return x


def get_inputs():
    return [torch.randn(M, K)]


def get_init_inputs():
    return [K, N]
