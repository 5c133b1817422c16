# tags: pooling, fused, elementwise
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
        x = F.max_pool2d(x, 3, 1)
        x = torch.log1p(torch.abs(x))
        x = torch.sqrt(torch.abs(x) + 1.0)
        return x


def get_inputs():
    return [torch.randn(B, C, H, W)]


def get_init_inputs():
    return []
