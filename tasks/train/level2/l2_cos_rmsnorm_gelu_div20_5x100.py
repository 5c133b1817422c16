# tags: norm, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 5
N = 100


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = torch.cos(x)
        x = F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)
        x = F.gelu(x)
        x = x / 2.0
        return x


def get_inputs():
    return [torch.randn(M, N)]


def get_init_inputs():
    return [N]
