# tags: matmul, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 24
N = 64
K = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.bmm(x, y)
        x = F.leaky_relu(x, 0.1)
        return x


def get_inputs():
    return [torch.randn(2, M, K), torch.randn(2, K, N)]


def get_init_inputs():
    return []
