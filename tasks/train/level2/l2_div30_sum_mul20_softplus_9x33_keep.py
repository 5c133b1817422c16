# tags: reduction, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 9
N = 33


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x / 3.0
        x = torch.sum(x, dim=1, keepdim=True)
        x = x * 2.0
        x = F.softplus(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
