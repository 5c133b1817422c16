"""Reductions and scans with a function of the candidate's own, in another bracketing than from left to right.

A device combines a few neighbours in each lane and the lanes in a tree; how many are neighbours is the compiler's choice. Triton's
interpreter goes from left to right, which a function that is not associative may be right in.
"""
import numpy as np
import triton.language as tl
from triton.runtime.interpreter import ReduceOps, ScanOps

import order

# Neighbours that one lane combines before others do: one of these, by the draw.
NEIGHBOURS = (1, 2, 4)
neighbours = 1


def turn(draw):
    """`draw`: the seed of the draw that is answered now."""
    global neighbours
    neighbours = NEIGHBOURS[draw % len(NEIGHBOURS)]


def _function(op, dtypes):
    """The candidate's function, of arrays."""
    def whole(left, right):
        given = [op.to_tensor(part, dtype) for side in (left, right) for part, dtype in zip(side, dtypes)]
        made = op.combine_fn.fn(*given)
        made = made if isinstance(made, tuple) else (made,)
        shape = left[0].shape
        return [np.broadcast_to(m.handle.data if isinstance(m, tl.core.tensor) else m, shape).astype(part.dtype)
                for m, part in zip(made, left, strict=True)]

    def each(left, right):
        """One by one, as the compiler sees it: a function may ask whether a number is larger."""
        out = [np.empty_like(part) for part in left]
        for at in np.ndindex(left[0].shape):
            for part, one in zip(out, whole([p[at].reshape(1) for p in left], [p[at].reshape(1) for p in right])):
                part[at] = one.item()
        return out

    def combined(left, right):
        try:
            return whole(left, right)
        except Exception:
            return each(left, right)
    return combined


def _by_neighbours(parts):
    """Arrays (.., n) as (.., n / neighbours, neighbours)."""
    few = min(neighbours, parts[0].shape[-1])
    return [p.reshape(*p.shape[:-1], -1, few) for p in parts], few


def reduced(combined, parts):
    """Arrays (.., n), n a power of two, to (..)."""
    groups, few = _by_neighbours(parts)
    out = [g[..., 0] for g in groups]
    for n in range(1, few):
        out = combined(out, [g[..., n] for g in groups])
    while out[0].shape[-1] > 1:
        out = combined([p[..., 0::2] for p in out], [p[..., 1::2] for p in out])
    return [p[..., 0] for p in out]


def scanned(combined, parts):
    """Arrays (.., n), n a power of two, each element combined with all before it."""
    n = parts[0].shape[-1]
    if n == 1:
        return parts
    few = min(max(2, neighbours), n)
    groups = [p.reshape(*p.shape[:-1], n // few, few) for p in parts]
    runs = [[g[..., 0] for g in groups]]
    for at in range(1, few):
        runs.append(combined(runs[-1], [g[..., at] for g in groups]))
    before = scanned(combined, runs[-1])
    # The first group has nothing before it; sizes stay powers of two.
    first = np.arange(n // few) == 0
    before = [np.roll(p, 1, axis=-1) for p in before]
    runs = [[np.where(first, own, with_all) for own, with_all in zip(run, combined(before, run))] for run in runs]
    return [np.stack([run[k] for run in runs], axis=-1).reshape(p.shape) for k, p in enumerate(parts)]


def _reduce(self, inputs):
    axis, dtypes = self.axis, [i.dtype for i in inputs]
    parts = [i.handle.data for i in inputs]
    dims = parts[0].ndim
    parts = [p.reshape(-1) if axis is None else np.moveaxis(p, axis, -1) for p in parts]
    # Never without an axis: Triton's blocks have at least one.
    out = [p[0] for p in reduced(_function(self, dtypes), [p[None] for p in parts])]
    if self.keep_dims:
        out = [p.reshape((1,) * dims) if axis is None else np.expand_dims(p, axis) for p in out]
    return [self.to_tensor(p if p.shape else p.item(), dtype) for p, dtype in zip(out, dtypes)]


def _scan(self, inputs):
    dtypes = [i.dtype for i in inputs]
    parts = [np.moveaxis(i.handle.data, self.axis, -1) for i in inputs]
    out = scanned(_function(self, dtypes), parts)
    return [self.to_tensor(np.moveaxis(p, -1, self.axis), dtype) for p, dtype in zip(out, dtypes)]


def _met(apply):
    """What lanes tell each other, they wait for."""
    def applied(self, inputs):
        order.barrier()
        return apply(self, inputs)
    return applied


def install():
    ReduceOps.generic_reduce, ScanOps.generic_scan = _reduce, _scan
    for kind in (ReduceOps, ScanOps):
        kind.apply_impl = _met(kind.apply_impl)
