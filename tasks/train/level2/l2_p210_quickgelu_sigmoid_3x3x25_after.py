# tags: transpose, fused, activation
import torch
import torch.nn as nn

B = 3
M = 3
N = 25


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.permute(2, 1, 0).contiguous()
        x = x * torch.sigmoid(1.7 * x)
        x = torch.sigmoid(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
