# tags: elementwise, fused, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 4
M = 8
N = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = F.hardtanh(x)
        x = torch.sigmoid(x)
        x = F.gelu(x)
        x = F.softsign(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
