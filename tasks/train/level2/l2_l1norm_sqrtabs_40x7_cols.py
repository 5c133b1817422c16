# tags: reduction, fused, elementwise
import torch
import torch.nn as nn

M = 40
N = 7


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.linalg.vector_norm(x, ord=1, dim=0)
        x = torch.sqrt(torch.abs(x) + 1.0)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
