# tags: attention, matmul, softmax
import torch
import torch.nn as nn
import torch.nn.functional as F

B = 2
M = 16
N = 9


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, q, k, v):
        x = torch.matmul(q, k.transpose(-2, -1))
        x = x * 0.25
        x = torch.softmax(x, dim=-1)
        x = torch.matmul(x, v)
        x = F.leaky_relu(x, 0.1)
        x = x - 0.5
        return x


def get_inputs():
    return [torch.randn(B, M, N), torch.randn(B, M, N), torch.randn(B, M, N)]


def get_init_inputs():
    return []
