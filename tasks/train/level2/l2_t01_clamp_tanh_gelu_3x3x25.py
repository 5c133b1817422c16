# tags: transpose, fused, elementwise, activation
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 3
M = 3
N = 25


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = torch.clamp(x, -0.5, 1.5)
        x = torch.tanh(x)
        x = F.gelu(x)
        x = x.transpose(0, 1).contiguous()
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
