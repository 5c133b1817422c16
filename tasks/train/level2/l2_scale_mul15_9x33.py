# tags: elementwise, fused
import torch
import torch.nn as nn

M = 9
N = 33


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x * self.weight
        x = x * 1.5
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
