# tags: norm, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 9
N = 33


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x * torch.sigmoid(1.7 * x)
        x = F.layer_norm(x, (x.shape[-1],))
        x = x - 1.5
        x = F.leaky_relu(x, 0.1)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
