# tags: attention, matmul, softmax
import torch
import torch.nn as nn

B = 4
M = 10
N = 12


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, q, k, v):
        x = torch.matmul(q, k.transpose(-2, -1))
        x = torch.softmax(x, dim=-1)
        x = torch.matmul(x, v)
        x = torch.sqrt(torch.abs(x) + 1.0)
        x = torch.sin(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N), torch.randn(B, M, N), torch.randn(B, M, N)]


def get_init_inputs():
    return []
