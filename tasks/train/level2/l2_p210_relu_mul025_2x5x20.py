# tags: transpose, fused, activation, elementwise
import torch
import torch.nn as nn

B = 2
M = 5
N = 20


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.relu(x)
        x = x * 0.25
        x = x.permute(2, 1, 0).contiguous()
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
