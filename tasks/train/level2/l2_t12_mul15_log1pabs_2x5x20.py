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
        x = x * 1.5
        x = torch.log1p(torch.abs(x))
        x = x.transpose(1, 2).contiguous()
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
