# tags: norm, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 5
N = 100


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.layer_norm(x, (x.shape[-1],))
        x = F.elu(x)
        x = x * 2.0
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
