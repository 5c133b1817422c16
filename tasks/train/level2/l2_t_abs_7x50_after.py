# tags: transpose, fused, elementwise
import torch
import torch.nn as nn

M = 7
N = 50


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.t().contiguous()
        x = torch.abs(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
