"""Imports everything a candidate may need and runs one tiny kernel through compiler and interpreter, so that no fork
pays for first use."""
import os
import tempfile

os.environ.pop("TRITON_INTERPRET", None)

import numpy
import torch
import triton
import triton.language as tl
import triton.language.extra.cuda.libdevice

torch.set_num_threads(1)

import child
import device_child
import interp
import standin


@triton.jit
def _warm(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0.0)
    total = tl.sum(tl.exp(value - tl.max(value, axis=0)), axis=0)
    tl.store(out + at, value / total, mask=at < n)


def up(cuda):
    """Target, ptxas path and version, dialects, LLVM: all cached in this process afterwards. Returns the versions and
    what a child runs, for candidates that are interpreted and for those on a device."""
    standin.install()
    interp.prepare()
    with tempfile.TemporaryDirectory() as home:
        os.environ["TRITON_CACHE_DIR"] = home
        x = torch.zeros(64)
        _warm[(1,)](x, torch.empty_like(x), 64, BLOCK=64)
        if cuda:
            # Built and loaded once; makes no context.
            from triton.backends.nvidia.driver import CudaUtils
            CudaUtils()
            # There is one, and it is made again whenever somebody asks for it: a C compiler's run in an empty cache.
            CudaUtils.__init__ = lambda self: None
        del os.environ["TRITON_CACHE_DIR"]
    standin.reset()
    return {"torch": torch.__version__, "triton": triton.__version__}, child.run, device_child.run
