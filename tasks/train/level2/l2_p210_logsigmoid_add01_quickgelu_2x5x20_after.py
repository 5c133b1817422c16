# tags: transpose, fused, activation, elementwise
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 5
N = 20


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        x = x.permute(2, 1, 0).contiguous()
        x = F.logsigmoid(x)
        x = x + 0.1
        x = x * torch.sigmoid(1.7 * x)
        return x


def get_inputs():
    return [torch.randn(B, M, N)]


def get_init_inputs():
    return []
