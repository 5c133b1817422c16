# tags: softmax, fused, elementwise
import torch
import torch.nn as nn

M = 33
N = 8


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.log_softmax(x, dim=0)
        x = torch.square(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
