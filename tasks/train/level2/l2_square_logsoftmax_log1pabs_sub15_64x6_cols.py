# tags: softmax, fused, elementwise
import torch
import torch.nn as nn

M = 64
N = 6


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.square(x)
        x = torch.log_softmax(x, dim=0)
        x = torch.log1p(torch.abs(x))
        x = x - 1.5
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
