# tags: softmax, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 6
N = 40


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.elu(x)
        x = torch.log_softmax(x, dim=1)
        x = torch.square(x)
        x = torch.log1p(torch.abs(x))
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return []
