# tags: reduction, fused, activation
import torch
import torch.nn as nn

B = 2
M = 3
N = 41


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.tanh(x)
        x = torch.linalg.vector_norm(x, ord=1, dim=-1)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
