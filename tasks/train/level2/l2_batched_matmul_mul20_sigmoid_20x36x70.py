# tags: matmul, fused, elementwise, activation
import torch
import torch.nn as nn

M = 20
N = 36
K = 70


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.bmm(x, y)
        x = x * 2.0
        x = torch.sigmoid(x)
        return x


def get_inputs():
    return [torch.randn(2, M, K), torch.randn(2, K, N)]


def get_init_inputs():
    return []
