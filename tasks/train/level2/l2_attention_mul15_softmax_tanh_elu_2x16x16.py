# tags: attention, matmul, softmax
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 16
N = 16


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, q, k, v):
        x = torch.matmul(q, k.transpose(-2, -1))
        x = x * 1.5
        x = torch.softmax(x, dim=-1)
        x = torch.matmul(x, v)
        x = torch.tanh(x)
        x = F.elu(x)
        return x


def get_inputs():
    return [torch.randn(B, M, N), torch.randn(B, M, N), torch.randn(B, M, N)]


def get_init_inputs():
    return []
