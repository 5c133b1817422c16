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
        x = torch.clamp(x, -0.5, 1.5)
        x = torch.neg(x)
        x = x.transpose(0, 1).contiguous()
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
