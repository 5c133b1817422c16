# tags: norm, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 8
N = 64


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.layer_norm(x, (x.shape[-1],))
        x = x * 1.5
        x = F.softplus(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
