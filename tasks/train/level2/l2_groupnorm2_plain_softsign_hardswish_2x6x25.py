# tags: norm, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 6
N = 25


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.group_norm(x, 2)
        x = F.softsign(x)
        x = F.hardswish(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
