# tags: transpose, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 5
N = 20


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.permute(2, 1, 0).contiguous()
        x = F.hardsigmoid(x)
        x = torch.tanh(x)
        x = x + 0.5
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
