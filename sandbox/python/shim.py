"""Makes code written for CUDA tensors run on CPU tensors, in a candidate's own process only.

`torch.cuda` looks like one H100, `device="cuda"` means the CPU, tensors say that they are on `cuda:0`, and memory that
`torch.empty` would leave as it was is filled with a poison, so that stale memory is never the right answer.
"""
import contextlib
import types

import torch
from torch.overrides import TorchFunctionMode

import interp
import plain

DEVICE = torch.device("cuda", 0)
EMPTY = {torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty, torch.Tensor.new_empty_strided}
# What hands a tensor's elements to the host; a CUDA tensor would refuse most of these.
ESCAPES = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.__dlpack__}
TEXT = "__repr__"
# Memory of tensors that were moved to the host by name.
host = set()
# Which of them were used on more than one element, for `watch`.
escaped = {}
# What makes tensors of numbers in Python.
LITERALS = {torch.tensor, torch.as_tensor, torch.asarray}
TO = {torch.Tensor.to, torch.Tensor.type}
CUDA = {torch.Tensor.cuda, torch.Tensor.pin_memory}


def cpu(device):
    if isinstance(device, bool) or device is None:
        return device
    if isinstance(device, int):
        return torch.device("cpu")
    if isinstance(device, str) and device.startswith("cuda"):
        return torch.device("cpu")
    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.device("cpu")
    return device


def names_the_host(device):
    return isinstance(device, (str, torch.device)) and str(device).startswith("cpu")


def poison(tensor):
    if tensor.is_floating_point() or tensor.is_complex():
        return tensor.fill_(float("nan"))
    if tensor.dtype == torch.bool:
        return tensor.fill_(True)
    return tensor.fill_(torch.iinfo(tensor.dtype).max)


def left(name, tensor):
    """A tensor's elements went to the host. One of them is a number that was read, as by `item`."""
    if not plain.is_tensor(tensor) or interp.inside and not interp.programs:
        return
    with torch._C.DisableTorchFunction():
        size = plain.numel(tensor)
    if size > 1:
        escaped[name] = max(size, escaped.get(name, 0))
    elif interp.watch is not None:
        interp.watch.reads += size


def see_texts():
    """Whatever asks for a tensor's text, comes through here: torch makes it with nobody watching."""
    made = torch._tensor_str._str

    def text(self, *, tensor_contents=None):
        if tensor_contents is None:
            left(TEXT, self)
        return made(self, tensor_contents=tensor_contents)
    torch._tensor_str._str = text


class CudaIsCpu(TorchFunctionMode):
    """`fill` is what happens to memory that is allocated but not written."""

    def __init__(self, fill):
        super().__init__()
        self.fill = fill

    def __torch_function__(self, func, types_, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        leaves = func is torch.Tensor.cpu or names_the_host(kwargs.get("device")) or (
            func in TO and len(args) > 1 and names_the_host(args[1]))
        if kwargs.get("device") is not None:
            kwargs["device"] = cpu(kwargs["device"])
        kwargs.pop("pin_memory", None)
        if func in CUDA:
            return args[0]
        if func in ESCAPES:
            left(func.__name__, args[0])
        if func in TO and len(args) > 1:
            args = (args[0], *[cpu(a) if isinstance(a, (str, torch.device, int)) and not isinstance(a, bool)
                               and (i == 0 or not isinstance(a, int)) else a for i, a in enumerate(args[1:])])
        out = func(*args, **kwargs)
        if leaves and isinstance(out, torch.Tensor) and not interp.inside:
            with torch._C.DisableTorchFunction():
                # A tensor on the device stays where it is.
                out = out.clone() if args and out is args[0] else out
                host.add(out.untyped_storage().data_ptr())
        if func in LITERALS and interp.watch is not None and not interp.inside:
            interp.watch.literal(out, args[0] if args else kwargs.get("data"))
        if func in EMPTY and interp.watch is None:
            with torch._C.DisableTorchFunction():
                self.fill(out)
        return out


class _Device:
    def __init__(self, device=None):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


class _Event:
    def __init__(self, *_, **__):
        pass

    def record(self, *_):
        pass

    wait = synchronize = record

    def elapsed_time(self, _):
        return 1.0

    def query(self):
        return True


class _Stream(_Event):
    cuda_stream = 0
    device = DEVICE

    def wait_stream(self, *_):
        pass

    wait_event = wait_stream

    def record_event(self, *_):
        return _Event()


PROPERTIES = types.SimpleNamespace(
    multi_processor_count=132, name="NVIDIA H100 80GB HBM3", major=9, minor=0, total_memory=80 << 30, warp_size=32,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472, regs_per_multiprocessor=65536,
    L2_cache_size=50 << 20)


def install():
    """Patches `torch` for this process. Costs no compilation and touches no device."""
    cuda = torch.cuda

    # A function each: `torch._dynamo`, which `torch.compiler.disable` and `torch.library` import, refuses one under two names.
    def nothing():
        return lambda *_, **__: None

    cuda.is_available = lambda: True
    cuda.is_initialized = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.get_device_name = lambda device=None: PROPERTIES.name
    cuda.get_device_capability = lambda device=None: (9, 0)
    cuda.get_device_properties = lambda device=None: PROPERTIES
    cuda.memory_allocated, cuda.max_memory_allocated = lambda device=None: 0, lambda device=None: 0
    for name in ("set_device", "synchronize", "empty_cache", "manual_seed", "manual_seed_all", "init",
                 "reset_peak_memory_stats", "set_stream"):
        setattr(cuda, name, nothing())
    cuda.device, cuda.device_of = _Device, _Device
    cuda.Event, cuda.Stream = _Event, _Stream
    cuda.current_stream, cuda.default_stream = lambda device=None: _Stream(), lambda device=None: _Stream()
    cuda.stream = lambda stream: contextlib.nullcontext()
    torch.Tensor.is_cuda = property(lambda self: True)
    torch.Tensor.is_cpu = property(lambda self: False)
    torch.Tensor.device = property(lambda self: DEVICE)
    torch.Tensor.get_device = lambda self: 0
    see_texts()
    move = torch.nn.Module.to
    torch.nn.Module.to = lambda self, *a, **k: move(
        self, *[cpu(x) for x in a], **{n: (cpu(v) if n == "device" else v) for n, v in k.items()})
    torch.nn.Module.cuda = lambda self, device=None: self
    # Rearranges the weights of recurrent layers for cuDNN.
    torch.nn.RNNBase.flatten_parameters = nothing()
