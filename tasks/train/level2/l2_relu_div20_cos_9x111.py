# tags: elementwise, fused, activation
import torch
import torch.nn as nn

M = 9
N = 111


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.relu(x)
        x = x / 2.0
        x = torch.cos(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
