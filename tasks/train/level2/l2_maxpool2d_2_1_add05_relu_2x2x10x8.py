# tags: pooling, fused, elementwise, activation
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
        x = F.max_pool2d(x, 2, 1)
        x = x + 0.5
        x = torch.relu(x)
        return x


def get_inputs():
    return [torch.randn(B, C, H, W)]


def get_init_inputs():
    return []
