"""A Triton driver with no GPU behind it: kernels are compiled for sm_90 for real, launches do nothing."""

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

LIMITS = {"max_shared_mem": 232448, "max_num_regs": 65536, "multiprocessor_count": 132, "warpSize": 32}
LAUNCHES = []


class Utils:
    def get_device_properties(self, device):
        return dict(LIMITS)

    def load_binary(self, name, kernel, shared, device):
        return (1, 1, 0, 0, 1024)

    def unload_module(self, module):
        pass


class Launcher:
    def __init__(self, src, metadata):
        self.name = metadata.name

    def __call__(self, grid0, grid1, grid2, *rest):
        LAUNCHES.append((self.name, (grid0, grid1, grid2)))


class StandIn(DriverBase):
    def __init__(self):
        self.utils = Utils()
        self.launcher_cls = Launcher

    @classmethod
    def is_active(cls):
        return True

    def map_python_to_cpp_type(self, ty):
        return "void*"

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_current_device(self):
        return 0

    def set_current_device(self, device):
        pass

    def get_current_stream(self, device=None):
        return 0

    def get_device_capability(self, device=0):
        return (9, 0)

    def get_benchmarker(self):
        raise NotImplementedError("nothing is timed here")


def install():
    triton.runtime.driver.set_active(StandIn())
