# tags: elementwise, fused, activation
import torch
import torch.nn as nn

B = 2
M = 16
N = 24


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x + 1.5
        x = torch.cos(x)
        x = x - 1.5
        x = x * torch.sigmoid(1.7 * x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
