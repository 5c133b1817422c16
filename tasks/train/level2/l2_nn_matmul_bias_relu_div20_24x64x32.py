# tags: matmul, fused, activation, elementwise
import torch
import torch.nn as nn

M = 24
N = 64
K = 32


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x, y):
        x = torch.matmul(x, y)
        x = x + self.bias
        x = torch.relu(x)
        x = x / 2.0
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(K, N)]


def get_init_inputs():
    return [N]
