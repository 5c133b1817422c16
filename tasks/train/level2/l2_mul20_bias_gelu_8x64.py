# tags: elementwise, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 8
N = 64


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x * 2.0
        x = x + self.bias
        x = F.gelu(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
