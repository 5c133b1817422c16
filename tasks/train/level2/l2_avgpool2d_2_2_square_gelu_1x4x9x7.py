# tags: pooling, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 1
C = 4
H = 9
W = 7


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.avg_pool2d(x, 2, 2)
        x = torch.square(x)
        x = F.gelu(x)
        return x


def get_inputs():
    return [torch.randn(B, C, H, W)]


def get_init_inputs():
    return []
