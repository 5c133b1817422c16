# tags: norm, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 3
M = 4
N = 30


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.group_norm(x, 2)
        x = x * 0.5
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
