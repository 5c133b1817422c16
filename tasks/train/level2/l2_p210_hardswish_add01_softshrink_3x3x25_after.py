# tags: transpose, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 3
M = 3
N = 25


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.permute(2, 1, 0).contiguous()
        x = F.hardswish(x)
        x = x + 0.1
        x = F.softshrink(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
