# tags: matmul, fused, elementwise
import torch
import torch.nn as nn

M = 32
N = 32
K = 32


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x, y):
        x = torch.matmul(x, y)
        x = x + self.bias
        x = x * 0.25
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(K, N)]


def get_init_inputs():
    return [N]
