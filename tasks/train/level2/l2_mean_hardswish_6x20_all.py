# tags: reduction, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 6
N = 20


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.mean(x)
        x = F.hardswish(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
