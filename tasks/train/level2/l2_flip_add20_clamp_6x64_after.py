# tags: transpose, fused, elementwise
import torch
import torch.nn as nn

M = 6
N = 64


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.flip(1)
        x = x + 2.0
        x = torch.clamp(x, -0.5, 1.5)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
