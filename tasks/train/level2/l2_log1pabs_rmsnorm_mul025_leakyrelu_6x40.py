# tags: norm, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 6
N = 40


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = torch.log1p(torch.abs(x))
        x = F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)
        x = x * 0.25
        x = F.leaky_relu(x, 0.1)
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
