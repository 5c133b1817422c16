"""Runs one tiny kernel through compiler and interpreter in the zygote, so that no fork pays for first use."""
import os
import tempfile

import torch
import triton
import triton.language as tl

import standin


@triton.jit
def _warm(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0.0)
    total = tl.sum(tl.exp(value - tl.max(value, axis=0)), axis=0)
    tl.store(out + at, value / total, mask=at < n)


def up():
    """Target, ptxas path and version, dialects, LLVM: all cached in this process afterwards."""
    standin.install()
    with tempfile.TemporaryDirectory() as home:
        os.environ["TRITON_CACHE_DIR"] = home
        x = torch.zeros(64)
        _warm[(1,)](x, torch.empty_like(x), 64, BLOCK=64)
        del os.environ["TRITON_CACHE_DIR"]
    standin.launches.clear()
    standin.count = 0
