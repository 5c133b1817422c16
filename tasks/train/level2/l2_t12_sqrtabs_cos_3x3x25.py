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
        x = torch.sqrt(torch.abs(x) + 1.0)
        x = torch.cos(x)
        x = x.transpose(1, 2).contiguous()
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
