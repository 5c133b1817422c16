# tags: reduction, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 6
N = 40


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.cos(x)
        x = torch.amin(x, dim=1, keepdim=True)
        x = torch.tanh(x)
        x = F.elu(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
