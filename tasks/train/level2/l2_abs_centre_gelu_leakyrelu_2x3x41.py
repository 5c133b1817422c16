# tags: norm, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 3
N = 41


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.abs(x)
        x = x - torch.mean(x, dim=-1, keepdim=True)
        x = F.gelu(x)
        x = F.leaky_relu(x, 0.1)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
