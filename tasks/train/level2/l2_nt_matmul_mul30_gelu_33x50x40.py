# tags: matmul, fused, elementwise, activation
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
        x = torch.matmul(x, y.t())
        x = x * 3.0
        x = F.gelu(x)
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(N, K)]


def get_init_inputs():
    return []
