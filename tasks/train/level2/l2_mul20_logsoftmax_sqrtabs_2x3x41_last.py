# tags: softmax, fused, elementwise
import torch
import torch.nn as nn

B = 2
M = 3
N = 41


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x * 2.0
        x = torch.log_softmax(x, dim=-1)
        x = torch.sqrt(torch.abs(x) + 1.0)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
