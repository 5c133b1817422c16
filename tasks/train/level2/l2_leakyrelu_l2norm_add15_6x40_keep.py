# tags: reduction, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 6
N = 40


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.leaky_relu(x, 0.1)
        x = torch.linalg.vector_norm(x, ord=2, dim=1, keepdim=True)
        x = x + 1.5
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
