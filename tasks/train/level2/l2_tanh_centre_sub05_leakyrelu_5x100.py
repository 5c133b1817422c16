# tags: norm, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 5
N = 100


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.tanh(x)
        x = x - torch.mean(x, dim=1, keepdim=True)
        x = x - 0.5
        x = F.leaky_relu(x, 0.1)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
