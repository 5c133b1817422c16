"""The box: memory of a device that the referee and one candidate both map. It holds the candidate's inputs, the reference's
weights, and the outputs that the candidate puts there; nothing that the candidate may not know.

The referee believes nothing in it: inputs are compared with its own copies, outputs are copied before they are looked at.
"""
import math

import torch

import frames
import plain

ALIGN = 512
# Where torch's allocator puts a tensor of this size: in memory of its own, which begins at a page. Two streams that are as far apart as
# their tensors' starts can be slower than others by 2 % (the memory's channels), so places that no user has would be another measurement.
LARGE, PAGE = 10 << 20, 2 << 20
# What an altered shape may need more than the task's own.
ROOM = 1.5
# A call's outputs may have another dtype and still be worth an exact complaint.
SPARE = 1 << 20


class Full(Exception):
    """Does not fit into its part of the box."""


def aligned(size):
    return -(-size // ALIGN) * ALIGN


def grain(size):
    """What the start of something of `size` bytes is a multiple of."""
    return PAGE if size >= LARGE else ALIGN


def whole(*sizes):
    """Parts of at least these sizes that lie behind each other, wherever large tensors are in them."""
    step = max(map(grain, sizes))
    return [-(-size // step) * step for size in sizes]


def laid(at, sizes):
    """The starts of tensors of these sizes, one after the other from `at` on, and where the last one ends."""
    starts = []
    for size in sizes:
        at = -(-at // grain(size)) * grain(size)
        starts.append(at)
        at += aligned(size)
    return starts, at


class Layout:
    """Where the parts are: the weights, then for each set its inputs and its outputs. All in bytes."""

    def __init__(self, state, inputs, outputs, sets):
        starts, end = laid(0, [state, *[inputs, outputs] * sets])
        parts = [(at, aligned(size)) for at, size in zip(starts, [state, *[inputs, outputs] * sets])]
        self.state, self.inputs, self.outputs = parts[0], parts[1::2], parts[2::2]
        self.size = max(end, ALIGN)

    def wire(self):
        return {"state": self.state, "inputs": self.inputs, "outputs": self.outputs}


class Shelf:
    """Puts tensors into one part, one after the other; `frames.pack` takes it for its blob."""

    def __init__(self, memory, part):
        self.memory, self.at, self.end = memory, part[0], part[0] + part[1]

    def room(self, size):
        """Where the next tensor is; what comes after it is behind it."""
        (start,), self.at = laid(self.at, [size])
        return start

    def add(self, tensor):
        tensor, before = plain.alias(tensor), self.at
        start = self.room(tensor.nbytes)
        if start + tensor.nbytes > self.end:
            self.at = before
            raise Full(f"{tensor.nbytes} bytes where {self.end - before} are left")
        self.keep(start, tensor)
        return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "at": start,
                "len": tensor.nbytes}

    def keep(self, at, tensor):
        place(self.memory, at, tensor.nbytes, tensor.dtype, tensor.shape).copy_(tensor)


class Later(Shelf):
    """A shelf that says where everything will be, and puts it there when it is told to."""

    def __init__(self, memory, part):
        super().__init__(memory, part)
        self.held = []

    def keep(self, at, tensor):
        self.held.append((at, tensor))

    def put(self):
        for at, tensor in self.held:
            super().keep(at, tensor)
        self.held.clear()


def place(memory, at, size, dtype, shape):
    """The tensor that stands there."""
    return memory[at: at + size].view(dtype).view(shape)


class View:
    """Tensors by their descriptions, for `frames.unpack`. Of a candidate's word: `part` is where they may be."""

    def __init__(self, memory, part=None):
        self.memory, self.part = memory, part or (0, memory.numel())

    def tensor(self, entry):
        dtype = frames.DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"dtype {entry['dtype']!r} is not supported")
        shape = frames.shape_of(entry)
        size, at, length = dtype.itemsize * math.prod(shape), int(entry["at"]), int(entry["len"])
        low, high = self.part[0], self.part[0] + self.part[1]
        if size != length or at < low or at + length > high or at % dtype.itemsize:
            raise ValueError(f"{length} bytes at {at} for shape {shape} of {entry['dtype']}")
        return place(self.memory, at, size, dtype, shape)


class Shapes:
    """Tensors of these descriptions with nothing in them: memory that nobody touches costs nothing."""

    def tensor(self, entry):
        dtype = frames.DTYPES[entry["dtype"]]
        make = torch.empty if dtype.is_floating_point else torch.zeros
        return make(entry["shape"], dtype=dtype)
