# tags: norm, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 3
N = 41


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.layer_norm(x, (x.shape[-1],))
        x = F.hardsigmoid(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
