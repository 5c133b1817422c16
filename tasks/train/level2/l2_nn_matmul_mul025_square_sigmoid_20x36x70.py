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
        x = torch.matmul(x, y)
        x = x * 0.25
        x = torch.square(x)
        x = torch.sigmoid(x)
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(K, N)]


def get_init_inputs():
    return []
