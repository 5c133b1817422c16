# tags: elementwise, fused, activation
import torch
import torch.nn as nn

M = 8
N = 64


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x * 0.25
        x = x * self.weight
        x = x * torch.sigmoid(1.7 * x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
