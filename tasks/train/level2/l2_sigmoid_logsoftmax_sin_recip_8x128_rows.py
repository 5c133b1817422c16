# tags: softmax, fused, activation, elementwise
import torch
import torch.nn as nn

M = 8
N = 128


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.sigmoid(x)
        x = torch.log_softmax(x, dim=1)
        x = torch.sin(x)
        x = 1.0 / (1.0 + x * x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
