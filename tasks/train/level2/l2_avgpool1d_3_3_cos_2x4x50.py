# tags: pooling, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
C = 4
N = 50


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.avg_pool1d(x, 3, 3)
        x = torch.cos(x)
        return x


def get_inputs():
    return [torch.randn(B, C, N)]


def get_init_inputs():
    return []
