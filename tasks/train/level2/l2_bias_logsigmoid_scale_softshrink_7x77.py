# tags: elementwise, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 7
N = 77


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = x + self.bias
        x = F.logsigmoid(x)
        x = x * self.weight
        x = F.softshrink(x)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
