# tags: elementwise, fused
import torch
import torch.nn as nn

B = 2
M = 16
N = 24


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x, y):
        x = x + 2.0
        x = torch.maximum(x, y)
        x = torch.square(x)
        x = x + 1.5
        return x


def get_inputs():
    return [torch.randn(B, M, N), torch.randn(B, M, N)]


def get_init_inputs():
    return []
