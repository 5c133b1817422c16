# tags: transpose, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 7
N = 50


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x / 2.0
        x = F.elu(x)
        x = x.flip(1)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
