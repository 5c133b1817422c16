# tags: transpose, fused, elementwise
import torch
import torch.nn as nn

B = 2
M = 5
N = 20


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x * 3.0
        x = torch.exp(-torch.abs(x))
        x = x + 0.5
        x = x.permute(2, 0, 1).contiguous()
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
