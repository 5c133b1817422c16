# tags: loss, reduction, index
import torch
import torch.nn as nn
import torch.nn.functional as F

M = 8192
N = 2000

INTERPRETER_SHAPES = {"M": 16, "N": 976}


class Model(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, logits, labels):
        return F.cross_entropy(logits, labels)


def get_inputs():
    return [torch.randn(M, N), torch.randint(0, N, (M,))]


def get_init_inputs():
    return []
