# tags: elementwise, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 9
N = 111


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x + 0.1
        x = F.gelu(x)
        x = torch.neg(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
