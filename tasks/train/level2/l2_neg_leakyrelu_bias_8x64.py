# tags: elementwise, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 8
N = 64


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = torch.neg(x)
        x = F.leaky_relu(x, 0.1)
        x = x + self.bias
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
