# tags: norm, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 6
N = 40


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.sin(x)
        x = F.normalize(x, dim=1)
        x = F.leaky_relu(x, 0.1)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
