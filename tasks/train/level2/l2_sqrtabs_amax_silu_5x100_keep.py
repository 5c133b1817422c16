# tags: reduction, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 5
N = 100


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.sqrt(torch.abs(x) + 1.0)
        x = torch.amax(x, dim=1, keepdim=True)
        x = F.silu(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
