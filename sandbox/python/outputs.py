"""What forward returned, looked at closely: its tree, its tensors' types, whose memory they stand in."""
import ctypes

import torch

import frames
import plain
import shim
import watch

DEVICE = torch._C.TensorBase.device
# Where a tensor's memory has to be: the interpreter's device is the CPU.
device_type = "cpu"


class NotAnAnswer(Exception):
    """Forward returned something that is no tree of plain tensors."""


def flatten(value):
    """(tensors, tree): the tree names containers, so that a tuple of one is not a tensor. Tensors are aliases that the candidate does not
    have, so that their methods stay torch's."""
    found = []

    def walk(node):
        if type(node) is torch.Tensor:
            if plain.attributes(node):
                raise NotAnAnswer("forward returned a tensor with attributes of its own, expected a plain one")
            found.append(plain.alias(node))
            return "t"
        if type(node) is list or issubclass(type(node), tuple):
            # Not what a class of the candidate's makes of going through it.
            inner = list.__iter__(node) if type(node) is list else tuple.__iter__(node)
            return f"({','.join(map(walk, inner))})"
        if type(node) is dict and all(type(k) in (str, int) for k in node):
            return f"{{{','.join(f'{k!r}:{walk(node[k])}' for k in node)}}}"
        raise NotAnAnswer(f"forward returned a {type(node).__name__}, expected a plain torch.Tensor")

    tree = walk(value)
    for tensor in found:
        if tensor.layout is not torch.strided:
            raise NotAnAnswer(f"forward returned a tensor of layout {tensor.layout}, expected torch.strided")
        with torch._C.DisableTorchFunction():
            # Not what `shim` makes of it.
            device = DEVICE.__get__(tensor)
        if device.type != device_type:
            raise NotAnAnswer("forward returned a tensor without memory on this device" if device_type == "cpu" else
                              f"forward returned a tensor on {device}, expected {device_type}")
        if tensor.untyped_storage().data_ptr() in shim.host:
            raise NotAnAnswer("forward returned a tensor on the CPU")
        # Whoever reads it would have to compute it.
        if tensor.is_neg() or tensor.is_conj():
            raise NotAnAnswer("forward returned a lazy negation or conjugation, expected the elements themselves")
    return found, tree


def span(tensor):
    """First and last address of the memory behind a tensor."""
    memory = tensor.untyped_storage()
    return memory.data_ptr(), memory.data_ptr() + memory.nbytes()


def weights_of(model):
    return [span(t) for t in plain.weights(model)]


def oddities(tensor, others):
    """Whether it shares memory with an input, a weight or an earlier answer, whether elements share a place, and whether they stand in
    order."""
    low, high = span(tensor)
    shared = any(low < b and a < high for a, b in others)
    pairs = sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape) if n > 1)
    reach, overlaps = 0, False
    for stride, size in pairs:
        overlaps |= stride <= reach
        reach += stride * (size - 1)
    return {"shared": shared, "overlaps": overlaps and tensor.numel() > 0,
            "contiguous": tensor.is_contiguous()}


def overwrite(earlier, fresh):
    """Puts new contents into the memory of earlier arguments, so that neither address nor version tells them apart."""
    old, new = list(watch.tensors(earlier)), list(watch.tensors(fresh))
    same = [(t.shape, t.dtype, t.stride()) for t in old] == [(t.shape, t.dtype, t.stride()) for t in new]
    if not same:
        return fresh
    for target, source in zip(old, new):
        data = frames.raw(source)
        ctypes.memmove(target.data_ptr(), data, len(data))
    return earlier
