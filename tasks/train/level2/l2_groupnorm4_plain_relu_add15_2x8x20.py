# tags: norm, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 8
N = 20


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.group_norm(x, 4)
        x = torch.relu(x)
        x = x + 1.5
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
