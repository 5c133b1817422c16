# tags: reduction, fused, elementwise, activation
import torch
import torch.nn as nn

M = 50
N = 9


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.sin(x)
        x = torch.mean(x, dim=0)
        x = x / 2.0
        x = torch.relu(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
