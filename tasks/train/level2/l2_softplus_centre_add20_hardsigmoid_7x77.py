# tags: norm, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 7
N = 77


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.softplus(x)
        x = x - torch.mean(x, dim=1, keepdim=True)
        x = x + 2.0
        x = F.hardsigmoid(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
