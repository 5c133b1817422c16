# tags: pooling, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
C = 4
N = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.max_pool1d(x, 4, 2)
        x = torch.abs(x)
        return x


def get_inputs():
    return [torch.randn(B, C, N)]


def get_init_inputs():
    return []
