# tags: pooling, fused, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
C = 2
H = 10
W = 8


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.max_pool2d(x, 3, 3)
        x = x * 1.5
        return x


def get_inputs():
    return [torch.randn(B, C, H, W)]


def get_init_inputs():
    return []
