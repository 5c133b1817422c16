"""What a candidate's own host code does to data while `forward` runs: every torch operation outside kernels, by name.

A second line behind the static rules: it sees work that they were talked out of. Like everything in this process it is
the candidate's word; Rust bounds it and `reward` weighs it.
"""
import itertools
import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import TensorWrapper
from triton.tools.tensor_descriptor import TensorDescriptor

import interp
import memory
import plain
import shim

MAX_NAMED = 8
# Single numbers that one forward may read to the host or compute with; more is going through elements one by one.
MAX_READS = 64

# Neither arithmetic nor a choice among elements: memory, constants, other views, copies, casts.
ALLOCATIONS = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "zeros", "zeros_like",
    "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full", "scalar_tensor", "arange",
    "eye", "linspace", "_efficientzerotensor", "tensor",
}
CONSTANTS = {"fill", "fill_", "zero", "zero_"}
COPIES = {"clone", "copy_", "_to_copy", "copy", "contiguous", "_pin_memory", "lift_fresh_copy", "slice_scatter",
          "_unsafe_view", "_reshape_copy", "view_copy", "_reshape_alias_copy"}
VIEWS = {
    # Of what there is: they are no allocation, although they come at the end of one.
    "lift_fresh", "lift",
    "view", "_unsafe_view", "_reshape_alias", "reshape", "as_strided", "as_strided_", "expand", "permute", "transpose",
    "transpose_", "t", "t_", "squeeze", "squeeze_", "unsqueeze", "unsqueeze_", "slice", "select", "split",
    "split_with_sizes", "unsafe_split", "unsafe_chunk", "chunk", "unbind", "narrow", "diagonal", "unfold", "alias",
    "detach", "detach_", "movedim", "view_as_real", "view_as_complex", "_conj", "_neg_view",
    "_local_scalar_dense", "is_same_size", "is_pinned", "numel", "sym_size", "sym_stride", "sym_numel", "size",
    "stride", "dim", "is_contiguous", "sym_storage_offset", "is_set_to", "record_stream", "real", "imag", "_version",
    "_has_compatible_shallow_copy_type", "_fw_primal", "_make_dual", "resolve_conj", "resolve_neg", "_assert_async",
}
# Other memory under a tensor, with what was there.
MOVES = {"set_", "resize_"}
EMPTY = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}


def tensors(values):
    """The tensors among arguments, without methods of anybody's; a descriptor stands for its base."""
    for value in values:
        value = value.base if type(value) in (TensorDescriptor, TensorWrapper) else value
        if plain.is_tensor(value):
            yield plain.plain(value)
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


def largest(shapes):
    """Elements of the largest of them, also as two are made one shape."""
    most = max(map(math.prod, shapes), default=0)
    for a, b in itertools.combinations(shapes[:MAX_NAMED], 2):
        a, b = sorted((tuple(a), tuple(b)), key=len)
        a = (1,) * (len(b) - len(a)) + a
        if all(m == n or 1 in (m, n) for m, n in zip(a, b)):
            most = max(most, math.prod(map(max, a, b)))
    return most


class Watch(TorchDispatchMode):
    """The elements of the inputs and the weights must go through kernels. `layout`: so must their order, because the task is little else;
    a weight may be laid out once as it suits. `fill`: what happens to memory that is allocated and not written. `idle`: kernels do nothing, and
    what they were to write is anything."""

    @classmethod
    def _should_skip_dynamo(cls):
        # Or the first operation would import torch's compiler.
        return False

    def __init__(self, inputs, weights, layout=False, fill=shim.poison, idle=False):
        super().__init__()
        self.idle, inputs = idle, list(inputs)
        self.largest = largest([t.shape for t in inputs])
        self.weights = {storage(t) for t in weights}
        self.given = {storage(t) for t in inputs} | self.weights
        self.data = set(self.given)
        self.layout, self.fill = layout, fill
        self.computed, self.bytes, self.reads, self.singles = {}, 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        space, _, name = func._schema.name.partition("::")
        # Of an operation of the candidate's own nobody knows what it does; it may be called `clone`.
        name = name if space == "aten" else func._schema.name
        if interp.inside:
            if interp.programs:
                self.note(f"{name} in a kernel", max((t.numel() for t in tensors((*args, out))), default=1))
            return out
        made = out if isinstance(out, (list, tuple)) else (out,)
        # What is written to keeps its address, and its contents where it is given no new ones (`zeros(0, out=x)`).
        if name in ALLOCATIONS and "out" not in (kwargs or {}):
            for tensor in tensors(made):
                # The address may have been data's before.
                self.data.discard(storage(tensor))
                memory.fresh(storage(tensor))
                if name in EMPTY:
                    self.fill(tensor)
        elif name in CONSTANTS | ALLOCATIONS and not any(storage(t) in self.data for t in tensors(args[1:])):
            self.bytes += sum(t.nbytes for t in tensors(made))
            for tensor in tensors(made):
                memory.overwritten(tensor)
        elif name in MOVES:
            self.data.update(storage(t) for t in tensors(made))
        elif name in VIEWS:
            self.reads += name == "_local_scalar_dense"
        else:
            self.work(name, list(tensors(args)) + list(tensors((kwargs or {}).values())), list(tensors(made)))
        return out

    def work(self, name, given, made):
        touched = any(storage(t) in self.data for t in given)
        for tensor in made:
            memory.overwritten(tensor)
        self.bytes += sum(t.nbytes for t in made)
        if not touched:
            # The address may have been data's before.
            self.data.difference_update(storage(t) for t in made)
            return
        self.data.update(storage(t) for t in made)
        if name in COPIES:
            does = self.does(name, given, made)
            if does is not None:
                self.note(f"{name} {does}".rstrip(), max(t.numel() for t in made))
        if name in COPIES | CONSTANTS | ALLOCATIONS:
            return
        size = max((t.numel() for t in (*given, *made)), default=0)
        # One number is bookkeeping: a size, a count, a seed. Many are the data, one at a time.
        self.singles += size == 1
        if size > 1 or self.singles > MAX_READS:
            self.note(name, max(size, self.singles))

    def does(self, name, given, made):
        """What a copy does besides, in words; None where it is nothing."""
        source = given[-1]
        if source.is_neg() or source.is_conj():
            return "of a lazy negation"
        if self.layout and self.rearranges(given, made):
            return ""
        if made and made[0].numel() > 1:
            if self.compares(source, made[0]):
                return f"to {str(made[0].dtype).removeprefix('torch.')}"
            if name != "slice_scatter" and self.repeats(source, made[0]):
                return "of repeated elements"
        return None

    def compares(self, source, made):
        """Whether a cast to flags or integers changes a value: then it is a comparison or a rounding. What holds flags or integers
        already has only its dtype changed."""
        narrow = made.dtype == torch.bool or not made.dtype.is_floating_point and source.dtype.is_floating_point
        if self.idle or not narrow or made.dtype == source.dtype or made.dtype.is_complex or source.dtype.is_complex:
            return False
        return not bool((made.to(source.dtype) == source).all())

    def repeats(self, source, made):
        """Whether it has elements several times, and more than any input or any two of them together: an answer's work, not an argument
        made as large as another."""
        if made.numel() <= self.largest or storage(source) not in self.data - self.weights:
            return False
        axes = [(n, s) for n, s in zip(source.shape, source.stride()) if n > 1 and s != 0]
        places = min(math.prod(n for n, _ in axes), 1 + sum((n - 1) * s for n, s in axes))
        return 1 < places < made.numel()

    def rearranges(self, given, made):
        """Whether a copy has its elements in another order than what it is made of. Of `copy_` the first is where it goes."""
        source = given[-1]
        if storage(source) not in self.data - self.weights or not made or made[0].numel() != source.numel():
            return False
        axes = [n for n in range(source.dim()) if source.shape[n] > 1 and source.stride(n) != 0]
        whole = made[0].untyped_storage().nbytes() == made[0].nbytes
        if not whole and min((made[0].stride(n) for n in range(made[0].dim()) if made[0].shape[n] > 1), default=1) > min(
                (source.stride(n) for n in axes), default=1):
            # Neighbours go apart: pieces of a larger move.
            return True
        before = sorted(axes, key=lambda n: -source.stride(n))
        return before != (sorted(axes, key=lambda n: -made[0].stride(n)) if made[0].shape == source.shape else axes)

    def literal(self, made, values):
        """Made of numbers, not of other tensors: memory that is new, though the operation that says so could be given any."""
        if type(values) in (bool, int, float, complex, list, tuple) and not any(True for _ in tensors([values])):
            self.data.discard(storage(made))
            memory.fresh(storage(made))

    def note(self, name, size):
        if name in self.computed or len(self.computed) < MAX_NAMED:
            self.computed[name] = max(size, self.computed.get(name, 0))

    def kernel(self, values):
        """A launch was given these: what is in them afterwards is data."""
        self.data.update(storage(t) for t in tensors(values))

    def next_call(self):
        """Another call begins: what is counted is of one, and what kernels were given in the last one is its own again."""
        self.report()
        self.data = set(self.given)
        self.bytes = self.reads = self.singles = 0

    def report(self):
        if self.reads > MAX_READS:
            self.note("item", self.reads)
        return {"computed": sorted(self.computed.items()), "bytes": self.bytes, "reads": self.reads}
