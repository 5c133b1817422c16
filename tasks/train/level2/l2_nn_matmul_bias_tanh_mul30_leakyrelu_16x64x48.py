# tags: matmul, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

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
        x = torch.tanh(x)
        x = x * 3.0
        x = F.leaky_relu(x, 0.1)
        return x


def get_inputs():
    return [torch.randn(M, K), torch.randn(K, N)]


def get_init_inputs():
    return [N]
