# tags: norm, fused, activation
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
        x = F.logsigmoid(x)
        x = x - torch.mean(x, dim=-1, keepdim=True)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
