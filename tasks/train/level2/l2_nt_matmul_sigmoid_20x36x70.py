# tags: matmul, fused, activation
import torch
import torch.nn as nn

M = 20
N = 36
K = 70


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.matmul(x, y.t())
        x = torch.sigmoid(x)
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(N, K)]


def get_init_inputs():
    return []
