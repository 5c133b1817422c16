# tags: reduction, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 9
N = 33


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.elu(x)
        x = torch.linalg.vector_norm(x, ord=2, dim=1)
        x = x * 3.0
        x = torch.sin(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
