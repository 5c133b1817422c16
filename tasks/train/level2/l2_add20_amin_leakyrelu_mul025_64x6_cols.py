# tags: reduction, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 64
N = 6


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x + 2.0
        x = torch.amin(x, dim=0)
        x = F.leaky_relu(x, 0.1)
        x = x * 0.25
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
