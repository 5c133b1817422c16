# tags: attention, matmul
import torch
import torch.nn as nn

B = 2
M = 16
N = 16


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, q, k, v):
        x = torch.matmul(q, k.transpose(-2, -1))
        x = torch.relu(x)
        x = torch.matmul(x, v)
        x = x * 0.25
        return x


def get_inputs():
    return [torch.randn(B, M, N), torch.randn(B, M, N), torch.randn(B, M, N)]


def get_init_inputs():
    return []
