# tags: elementwise, fused
import torch
import torch.nn as nn

M = 8
N = 64


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x * 0.5
        x = x + self.bias
        x = torch.abs(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
