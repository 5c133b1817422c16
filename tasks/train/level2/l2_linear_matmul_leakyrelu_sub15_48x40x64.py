# tags: matmul, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 48
N = 40
K = 64


class Model(nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, features))

    def forward(self, x):
        x = F.linear(x, self.weight)
        x = F.leaky_relu(x, 0.1)
        x = x - 1.5
        return x


def get_inputs():
    return [torch.randn(M, K)]


def get_init_inputs():
    return [K, N]
