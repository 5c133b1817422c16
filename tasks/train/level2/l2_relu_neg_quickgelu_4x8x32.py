# tags: elementwise, fused, activation
import torch
import torch.nn as nn

B = 4
M = 8
N = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.relu(x)
        x = torch.neg(x)
        x = x * torch.sigmoid(1.7 * x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
