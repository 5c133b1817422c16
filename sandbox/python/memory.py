"""Where interpreted kernels may read and write: inside the memory of the tensors their launch was given, nowhere else.

A stray store is kept from happening and counted; a stray load yields poison and is counted. On a device both would touch
somebody else's memory, or end the process.
"""
import ctypes

import numpy as np
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

import order
import watch

# Bytes that kernels read and wrote, and elements outside of every tensor, since `reset`.
traffic, stray_loads, stray_stores = 0, 0, 0
_spans = []
# Storages of this forward: inputs, the reference's own weights, and what was allocated in it. Everything else that a
# kernel is given has been there before.
_own = set()
# First address -> what was there at first sight, and which bytes this forward has written since.
_kept = {}
# Bytes of such memory that kernels read before this forward had written them.
_read = set()


class _Kept:
    def __init__(self, memory):
        # The storage is held, so that its address stays its own.
        self.memory, self.before = memory, bytes(_bytes(memory))
        self.written = np.zeros(memory.nbytes(), dtype=bool)


def _bytes(memory):
    return (ctypes.c_char * memory.nbytes()).from_address(memory.data_ptr())


def reset(own=()):
    global traffic, stray_loads, stray_stores
    traffic, stray_loads, stray_stores, order.raced = 0, 0, 0, 0
    _own.clear()
    _own.update(own)
    _kept.clear()
    _read.clear()


def fresh(address):
    """Allocated in this forward."""
    _own.add(address)


def overwritten(tensor):
    """Filled or copied over by torch in this forward."""
    memory = tensor.untyped_storage()
    address = memory.data_ptr()
    whole = tensor.nbytes == memory.nbytes()
    if address in _kept:
        first = tensor.data_ptr() - address
        _kept[address].written[first: first + (tensor.nbytes if tensor.is_contiguous() else 0)] = True
    elif whole and address not in _own:
        _own.add(address)


def remembered():
    """Bytes that were read as an earlier call left them and that this call has changed: a counter, a kept answer."""
    return sum(low in _read and bytes(_bytes(kept.memory)) != kept.before and len(kept.before)
               for low, kept in _kept.items())


def allow(values, new=False):
    """Only this launch's tensors from here on; `new`: see `order`."""
    _spans.clear()
    for tensor in watch.tensors(values):
        memory = tensor.untyped_storage()
        low = memory.data_ptr()
        _spans.append((low, low + memory.nbytes()))
        if low not in _own and low not in _kept and memory.nbytes():
            _kept[low] = _Kept(memory)
    order.begin([(low, high - low) for low, high in _spans], new)


def _follow(handle, mask, reads, writes):
    """Keeps account of memory that has been there before."""
    size = max(1, handle.get_element_ty().primitive_bitwidth >> 3)
    for low, kept in _kept.items():
        at = handle.data[mask].astype(np.int64) - low
        at = at[(at >= 0) & (at + size <= kept.written.size)]
        if at.size == 0:
            continue
        if reads and not kept.written[at].all():
            _read.add(low)
        if writes:
            for byte in range(size):
                kept.written[at + byte] = True


def _strays(handle, mask):
    """Which of the active elements lie outside; None when none does. Counts the bytes of all."""
    global traffic
    size = max(1, handle.get_element_ty().primitive_bitwidth >> 3)
    active = handle.data[mask]
    traffic += active.size * size
    if active.size == 0:
        return None
    first, last = int(active.min()), int(active.max()) + size
    if any(low <= first and last <= high for low, high in _spans):
        return None
    inside = np.zeros(handle.data.shape, dtype=bool)
    for low, high in _spans:
        if high - low >= size:
            inside |= (handle.data >= np.uint64(low)) & (handle.data <= np.uint64(high - size))
    stray = mask & ~inside
    return stray if stray.any() else None


def install():
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    change, swap = builder.create_atomic_rmw, builder.create_atomic_cas

    def whole(mask, like):
        return np.broadcast_to(mask.data, like.data.shape).astype(bool, copy=False)

    def guarded_load(self, ptrs, mask, other, *rest, **kwargs):
        global stray_loads
        active = whole(mask, ptrs)
        stray = _strays(ptrs, active)
        if _kept:
            _follow(ptrs, active, True, False)
        order.step()
        if order.traced:
            order.reads(ptrs, active)
        if stray is None:
            return load(self, ptrs, mask, other, *rest, **kwargs)
        stray_loads += int(stray.sum())
        out = load(self, ptrs, TensorHandle(active & ~stray, tl.int1), other, *rest, **kwargs)
        out.data = np.array(out.data)
        out.data[stray] = np.nan if out.data.dtype.kind == "f" else np.iinfo(out.data.dtype).max \
            if out.data.dtype.kind in "iu" else True
        return out

    def guarded_store(self, ptrs, value, mask, *rest, **kwargs):
        global stray_stores
        active = whole(mask, ptrs)
        stray = _strays(ptrs, active)
        if _kept:
            _follow(ptrs, active, False, True)
        order.step()
        if order.traced:
            order.writes(ptrs, active if stray is None else active & ~stray, value)
        if stray is not None:
            stray_stores += int(stray.sum())
            mask = TensorHandle(active & ~stray, tl.int1)
        return store(self, ptrs, value, mask, *rest, **kwargs)

    def guarded_change(self, operation, ptrs, value, mask, *how):
        global stray_stores
        active = whole(mask, ptrs)
        stray = _strays(ptrs, active)
        if _kept:
            _follow(ptrs, active, True, True)
        order.step()
        order.changes(ptrs, active, operation == ir.ATOMIC_OP.XCHG, *how)
        if stray is not None:
            stray_stores += int(stray.sum())
            mask = TensorHandle(active & ~stray, tl.int1)
        return change(self, operation, ptrs, value, mask, *how)

    def guarded_swap(self, ptrs, old, new, *how):
        global stray_stores
        active = np.ones(ptrs.data.shape, dtype=bool)
        stray = _strays(ptrs, active)
        if _kept:
            _follow(ptrs, active, True, True)
        if stray is not None:
            stray_stores += int(stray.sum())
            raise IndexError("an atomic exchange outside the tensors of its launch")
        order.step()
        order.changes(ptrs, active, True, *how)
        return swap(self, ptrs, old, new, *how)

    order.install()
    builder.create_masked_load, builder.create_masked_store = guarded_load, guarded_store
    builder.create_atomic_rmw, builder.create_atomic_cas = guarded_change, guarded_swap
