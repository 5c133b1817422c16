# tags: attention, matmul
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 4
M = 10
N = 12


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, q, k, v):
        x = torch.matmul(q, k.transpose(-2, -1))
        x = torch.relu(x)
        x = torch.matmul(x, v)
        x = x * 2.0
        x = F.gelu(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N), torch.randn(B, M, N), torch.randn(B, M, N)]


def get_init_inputs():
    return []
