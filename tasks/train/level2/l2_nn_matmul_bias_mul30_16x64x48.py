# tags: matmul, fused, elementwise
import torch
import torch.nn as nn

M = 16
N = 64
K = 48


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x, y):
        x = torch.matmul(x, y)
        x = x + self.bias
        x = x * 3.0
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(K, N)]


def get_init_inputs():
    return [N]
