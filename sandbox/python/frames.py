"""Frames and tensors as raw bytes: the only language spoken between the harness processes. Never pickle.

A frame is `u32 header length | header (UTF-8 JSON) | u64 blob length | blob`, all little-endian.
A tensor is described in a header by `{"dtype", "shape", "at", "len"}`: bytes `at..at+len` of the blob, C order.
"""
import json
import math
import os
import struct

import torch

import plain

DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
        torch.complex64, torch.complex128,
    )
}


# No tensor has more dimensions or a longer one. A forged shape of a million numbers, each of a thousand bits, takes hours to multiply.
MAX_DIMENSIONS, MAX_LENGTH = 64, 1 << 48


def shape_of(entry):
    """The shape of a description that may be forged: a list of few, plain, small numbers."""
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a shape is a list of at most {MAX_DIMENSIONS} lengths")
    if not all(type(n) is int and 0 <= n <= MAX_LENGTH for n in shape):
        raise ValueError("a length is a whole number")
    return shape


def write_all(fd, data):
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view[: 1 << 20]):]


def read_exact(fd, size):
    """`size` bytes, or None when the stream ends before the first one."""
    parts, left = [], size
    while left:
        part = os.read(fd, min(left, 1 << 20))
        if not part:
            if left == size:
                return None
            raise EOFError(f"stream ended {left} bytes early")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def write_frame(fd, header, blob=b""):
    head = json.dumps(header).encode()
    write_all(fd, struct.pack("<I", len(head)) + head + struct.pack("<Q", len(blob)))
    if len(blob):
        write_all(fd, blob)


def read_frame(fd):
    size = read_exact(fd, 4)
    if size is None:
        return None
    header = json.loads(read_exact(fd, struct.unpack("<I", size)[0]) or b"{}")
    (length,) = struct.unpack("<Q", read_exact(fd, 8))
    return header, bytearray(read_exact(fd, length) if length else b"")


class Blob:
    """Collects tensors into one blob; every tensor starts at a multiple of 64 bytes."""

    def __init__(self):
        self.parts, self.size = [], 0

    def add(self, tensor):
        return self.put(tensor, raw(tensor))

    def put(self, tensor, data):
        """One whose elements are known already."""
        pad = -self.size % 64
        if pad:
            self.parts.append(bytes(pad))
            self.size += pad
        entry = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "at": self.size,
            "len": len(data),
        }
        self.parts.append(data)
        self.size += len(data)
        return entry

    def bytes(self):
        return b"".join(self.parts)


def raw(tensor):
    """A tensor's elements in C order, as bytes."""
    # Through a tensor of its own: one that a candidate has held may have methods of the candidate's.
    tensor = plain.alias(tensor)
    with torch._C.DisableTorchFunction():
        flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
        if flat.numel() == 0:
            return b""
        return flat.view(torch.uint8).numpy().tobytes()


def tensor_from(entry, blob):
    """A fresh tensor from its description. Raises ValueError when the description and the bytes disagree."""
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise ValueError(f"dtype {entry['dtype']!r} is not supported")
    shape = shape_of(entry)
    count = math.prod(shape)
    size = count * torch.empty((), dtype=dtype).element_size()
    at, length = int(entry["at"]), int(entry["len"])
    if size != length or at < 0 or at + length > len(blob):
        raise ValueError(f"{length} bytes for shape {shape} of {entry['dtype']}")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    data = torch.frombuffer(bytearray(memoryview(blob)[at: at + length]), dtype=torch.uint8)
    return data.view(dtype).reshape(shape)


def pack(value, blob):
    """A tree of lists, tuples, dicts, numbers, strings and tensors as JSON plus bytes in `blob`."""
    if isinstance(value, torch.Tensor):
        return {"tensor": blob.add(value)}
    if value is None or isinstance(value, (bool, str)):
        return {"plain": value}
    if isinstance(value, int):
        return {"int": str(value)}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [pack(v, blob) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(k, blob), pack(v, blob)] for k, v in value.items()]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    raise TypeError(f"a task's inputs may not hold a {type(value).__name__}")


def unpack(tree, blob):
    """What was packed. `blob`: bytes, or something with a method `tensor` that knows where tensors are."""
    (kind, value), = tree.items()
    if kind == "tensor":
        return blob.tensor(value) if hasattr(blob, "tensor") else tensor_from(value, blob)
    if kind == "plain":
        return value
    if kind == "int":
        return int(value)
    if kind == "float":
        return float.fromhex(value)
    if kind == "list":
        return [unpack(v, blob) for v in value]
    if kind == "tuple":
        return tuple(unpack(v, blob) for v in value)
    if kind == "dict":
        return {unpack(k, blob): unpack(v, blob) for k, v in value}
    if kind == "dtype":
        return DTYPES[value]
    raise ValueError(kind)
