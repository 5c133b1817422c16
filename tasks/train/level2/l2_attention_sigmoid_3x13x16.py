# tags: attention, matmul
import torch
import torch.nn as nn

B = 3
M = 13
N = 16


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, q, k, v):
        x = torch.matmul(q, k.transpose(-2, -1))
        x = torch.sigmoid(x)
        x = torch.matmul(x, v)
        return x


def get_inputs():
    return [torch.randn(B, M, N), torch.randn(B, M, N), torch.randn(B, M, N)]


def get_init_inputs():
    return []
