# tags: softmax, fused, elementwise
import torch
import torch.nn as nn

M = 40
N = 7


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.log_softmax(x, dim=0)
        x = x + 0.1
        x = torch.cos(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
