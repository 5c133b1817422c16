"""A Triton driver with no GPU behind it: kernels are compiled for sm_90 for real, launches are logged, not executed.

Every launch is specialised and compiled through the bundled ptxas and checked against the limits of an H100.
"""
import torch
import triton
import triton.testing
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.cache import FileCacheManager
from triton.runtime.errors import OutOfResources

import shim
import tuners

ARCH = 90
LIMITS = {
    "max_shared_mem": 232448, "max_num_regs": 65536, "multiprocessor_count": 132, "warpSize": 32,
    "sm_clock_rate": 1980000, "mem_clock_rate": 2619000, "mem_bus_width": 5120,
}
MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_LOGGED = 256
HEAD_ARGUMENTS = 6

launches = []
count = 0
# Builds what a real driver will look for in the cache; None where no device will follow.
launcher = None


def become(facts):
    """Stands for this device from here on (`device.facts`)."""
    global ARCH, launcher
    if facts.get("capability"):
        major, minor = facts["capability"]
        ARCH = major * 10 + minor
        LIMITS.update(max_shared_mem=facts["shared_bytes"], multiprocessor_count=facts["processors"])
        from triton.backends.nvidia.driver import CudaLauncher
        launcher = CudaLauncher


# Triton's own, for whoever has a device.
TIMED = triton.testing.do_bench, triton.testing.do_bench_cudagraph


def bench(fn, *_, quantiles=None, return_mode="mean", **__):
    """In place of Triton's benchmarks: one call, and as many times as were asked for. In the interpreter they would be hundreds of calls."""
    fn()
    if quantiles is not None:
        return [1.0] * len(quantiles) if len(quantiles) > 1 else 1.0
    return [1.0] if return_mode == "all" else 1.0


class _Utils:
    def get_device_properties(self, device):
        return dict(LIMITS)

    def load_binary(self, name, kernel, shared, device):
        return 1, 1, 0, 0, MAX_THREADS

    def unload_module(self, module):
        pass


class _Launcher:
    def __init__(self, src, metadata):
        # The function's own name; a kernel may give itself another one for profilers.
        function = getattr(src, "fn", None)
        self.name = getattr(function, "__name__", None) or metadata.name
        if launcher is not None:
            launcher(src, metadata)

    def __call__(self, x, y, z, *rest):
        global count
        grid = (int(x), int(y), int(z))
        for axis, (n, limit) in enumerate(zip(grid, MAX_GRID)):
            if n > limit:
                raise OutOfResources(n, limit, f"grid axis {axis}")
            if n < 0:
                raise ValueError(f"negative grid {grid}")
        # An empty grid launches nothing on a device.
        if 0 in grid:
            return
        count += 1
        if len(launches) < MAX_LOGGED:
            # Behind the stream, the function, metadata and hooks come the kernel's own arguments.
            launches.append([self.name, list(grid), rest[HEAD_ARGUMENTS:]])


class StandIn(DriverBase):
    def __init__(self):
        self.utils = _Utils()
        self.launcher_cls = _Launcher

    @classmethod
    def is_active(cls):
        return True

    def map_python_to_cpp_type(self, ty):
        return "void*"

    def get_current_target(self):
        return GPUTarget("cuda", ARCH, 32)

    def get_active_torch_device(self):
        # As tensors say; `shim` knows what is meant where memory is allocated.
        return shim.DEVICE

    def get_current_device(self):
        return 0

    def set_current_device(self, device):
        pass

    def get_current_stream(self, device=None):
        return 0

    def get_device_capability(self, device=0):
        return ARCH // 10, ARCH % 10

    def get_benchmarker(self):
        return bench

    def get_device_interface(self):
        return torch.cuda

    def get_empty_cache_for_benchmark(self):
        return torch.empty(1024, dtype=torch.int32)

    def clear_cache(self, cache):
        cache.zero_()


class PrivateCache(FileCacheManager):
    """Nobody else writes to a candidate's cache: no temporary names, no renames."""

    def put(self, data, filename, binary=True):
        path = self._make_path(filename)
        with open(path, "wb") as f:
            f.write(data if isinstance(data, bytes) else str(data).encode())
        return path


def reset():
    global count
    count = 0
    launches.clear()


def install():
    triton.runtime.driver.set_active(StandIn())
    tuners.install()
    # What a candidate's tuner asks for by number of calls or with CUDA graphs does not go by the driver.
    triton.testing.do_bench = triton.testing.do_bench_cudagraph = bench
    triton.knobs.cache.manager_class = PrivateCache
    triton.knobs.compilation.store_binary_only = True
    triton.knobs.compilation.disable_line_info = True


def with_a_device():
    """Kernels run here, so a tuner's choice is measured: with the stand-in the first configuration would be everybody's best."""
    tuners.with_a_device()
    triton.testing.do_bench, triton.testing.do_bench_cudagraph = TIMED
