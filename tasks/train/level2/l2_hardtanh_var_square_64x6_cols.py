# tags: reduction, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 64
N = 6


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.hardtanh(x)
        x = torch.var(x, dim=0)
        x = torch.square(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
