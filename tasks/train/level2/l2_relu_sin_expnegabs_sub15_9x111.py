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
        x = torch.sin(x)
        x = torch.exp(-torch.abs(x))
        x = x - 1.5
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
