# tags: transpose, fused, elementwise
import torch
import torch.nn as nn

B = 2
M = 4
N = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.permute(2, 1, 0).contiguous()
        x = x + 0.1
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
