# tags: matmul, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 33
N = 50
K = 40


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = torch.bmm(x, y)
        x = F.softsign(x)
        x = x / 3.0
        return x


def get_inputs():
    return [torch.randn(2, M, K), torch.randn(2, K, N)]


def get_init_inputs():
    return []
