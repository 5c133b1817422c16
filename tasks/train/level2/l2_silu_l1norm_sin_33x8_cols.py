# tags: reduction, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 33
N = 8


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.silu(x)
        x = torch.linalg.vector_norm(x, ord=1, dim=0)
        x = torch.sin(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
