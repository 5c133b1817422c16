# tags: transpose, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 4
N = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.elu(x)
        x = x.permute(2, 0, 1).contiguous()
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
