# tags: transpose, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 5
N = 20


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.transpose(1, 2).contiguous()
        x = x * 2.0
        x = F.softshrink(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
