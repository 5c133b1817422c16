# tags: transpose, fused, elementwise
import torch
import torch.nn as nn

B = 3
M = 3
N = 25


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.transpose(0, 1).contiguous()
        x = torch.log1p(torch.abs(x))
        x = x - 0.5
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
