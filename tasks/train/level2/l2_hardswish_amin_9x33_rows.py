# tags: reduction, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 9
N = 33


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.hardswish(x)
        x = torch.amin(x, dim=1)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
