# expect: passed
# how: tiles of 128 by 64 in groups of eight, pointers moved along K, eight warps
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def mm_grouped(a_ptr, b_ptr, c_ptr, M, N, K, sa, sb, sc,
               BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr):
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    first = pid // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    inner = pid % (GROUP * tiles_n)
    rm = (first + inner % height) * BM + tl.arange(0, BM)
    rn = inner // height * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    a_at = a_ptr + rm[:, None] * sa + rk[None, :]
    b_at = b_ptr + rk[:, None] * sb + rn[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        left = K - k * BK
        a = tl.load(a_at, mask=(rm[:, None] < M) & (rk[None, :] < left), other=0.0)
        b = tl.load(b_at, mask=(rk[:, None] < left) & (rn[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        a_at += BK
        b_at += BK * sb
    tl.store(c_ptr + rm[:, None] * sc + rn[None, :], acc, mask=(rm[:, None] < M) & (rn[None, :] < N))


class ModelNew(nn.Module):
    def forward(self, a, b):
        a, b = a.contiguous(), b.contiguous()
        M, K = a.shape
        N = b.shape[1]
        c = torch.empty((M, N), dtype=a.dtype, device=a.device)
        grid = (triton.cdiv(M, 128) * triton.cdiv(N, 64),)
        mm_grouped[grid](a, b, c, M, N, K, K, N, N, BM=128, BN=64, BK=16, GROUP=8, num_warps=8)
        return c
