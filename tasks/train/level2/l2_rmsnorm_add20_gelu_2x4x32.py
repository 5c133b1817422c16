# tags: norm, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 4
N = 32


class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, x):
        x = F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)
        x = x + 2.0
        x = F.gelu(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return [N]
