# tags: transpose, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 6
N = 64


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.t().contiguous()
        x = F.silu(x)
        x = torch.cos(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
