# tags: transpose, fused, activation, elementwise
import torch
import torch.nn as nn

B = 2
M = 4
N = 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.permute(2, 0, 1).contiguous()
        x = x * torch.sigmoid(1.7 * x)
        x = torch.sqrt(torch.abs(x) + 1.0)
        x = x - 0.5
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
