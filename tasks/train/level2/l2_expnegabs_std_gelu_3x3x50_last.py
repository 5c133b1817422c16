# tags: reduction, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 3
M = 3
N = 50


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.exp(-torch.abs(x))
        x = torch.std(x, dim=-1)
        x = F.gelu(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
