# tags: elementwise, fused
import torch
import torch.nn as nn

M = 8
N = 64


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x * self.weight
        x = torch.sin(x)
        x = x + 0.5
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
