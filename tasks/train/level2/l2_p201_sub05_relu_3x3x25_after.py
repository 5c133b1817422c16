# tags: transpose, fused, elementwise, activation
import torch
import torch.nn as nn

B = 3
M = 3
N = 25


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.permute(2, 0, 1).contiguous()
        x = x - 0.5
        x = torch.relu(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
