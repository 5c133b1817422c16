# tags: softmax, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 33
N = 8


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.softplus(x)
        x = torch.log_softmax(x, dim=0)
        x = torch.log1p(torch.abs(x))
        x = x * 3.0
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
