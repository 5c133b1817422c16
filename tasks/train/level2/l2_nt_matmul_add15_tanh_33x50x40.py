# tags: matmul, fused, elementwise, activation
import torch
import torch.nn as nn

M = 33
N = 50
K = 40


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.matmul(x, y.t())
        x = x + 1.5
        x = torch.tanh(x)
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(N, K)]


def get_init_inputs():
    return []
