"""The right answer and how far from it an answer may be: the reference in float64, tolerances, the null outputs."""
import copy
import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Relative to each element, and to the output's root mean square times the square root of the longest reduction, by the
# output's dtype. float32: no kernel that computes in float32 comes near, one that rounds to fp16, bf16 or tf32 does not
# stay below.
TOLERANCE = {"float64": (1e-7, 1e-8), "float32": (1e-4, 2e-6), "float16": (5e-3, 5e-4), "bfloat16": (2e-2, 2e-3)}
# The longest reduction that is allowed for: errors do not all point the same way, and nobody adds one by one.
MAX_REDUCTION = 1 << 12
# How far beyond the reference's own error (against float64) a candidate may be.
ERROR_FLOOR = 4.0
# A null output counts as passing although it is this many times further off than allowed.
NULL_MARGIN = 10.0
# Largest integers that a dtype holds without a gap.
EXACT = {torch.float64: 2.0**53, torch.float32: 2.0**24, torch.float16: 2048.0, torch.bfloat16: 256.0}

_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1}
_SOFTMAX = ("softmax", "logsumexp", "attention")
# What has a variance, and may be computed in one pass; `normal_` draws numbers.
_VARIANCES = ("var", "std", "norm")
_REDUCTIONS = ("sum", "mean", "var", "std", "softmax", "norm", "logsumexp", "cumsum", "cumprod", "prod", "amax", "amin",
               "pool", "loss", "attention")


def seed_everything(seed):
    """`torch.manual_seed` without its calls, each queued with a traceback, for GPUs that are absent or not in use yet."""
    torch.default_generator.manual_seed(seed)
    # There is none before a context, and one device at most is visible.
    for own in torch.cuda.default_generators:
        own.manual_seed(seed)


def generator(seed):
    """A generator of the default device's, where all tensors of this process are made."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


class Reductions(TorchDispatchMode):
    """The longest reduction among the operations of a reference; whether it has a softmax, and whether it has a variance, also one written
    as squares of what a mean was taken from."""

    @classmethod
    def _should_skip_dynamo(cls):
        # Or the first operation would import torch's compiler.
        return False

    def __init__(self):
        super().__init__()
        self.longest, self.softmax, self.variance, self.means = 1, False, False, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        given = [a for a in args if isinstance(a, torch.Tensor)]
        self.softmax = self.softmax or any(part in name for part in _SOFTMAX)
        self.variance = self.variance or any(part in name for part in _VARIANCES) and "normal" not in name or (
            name in ("sub", "rsub", "sub_") and any(g.data_ptr() == m.data_ptr() for g in given for m in self.means if g.numel()))
        if name == "mean":
            # Held, so that their addresses stay theirs.
            self.means.append(out)
        if name in _PRODUCTS and len(given) > _PRODUCTS[name]:
            self.note(given[_PRODUCTS[name]].shape[-1])
        elif "convolution" in name and len(given) > 1:
            self.note(given[1].numel() // max(1, min(given[1].shape[0], given[1].shape[1])))
        elif given and any(part in name for part in _REDUCTIONS):
            made = out if isinstance(out, torch.Tensor) else out[0]
            same = made.numel() == given[0].numel()
            self.note(max(given[0].shape, default=1) if same else given[0].numel() // max(1, made.numel()))
        return out

    def note(self, length):
        self.longest = min(max(self.longest, int(length)), MAX_REDUCTION)


# What is done to one number at a time, whatever its size.
ARITHMETIC = {
    "add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "neg", "abs", "sign", "floor_divide", "div", "remainder", "fmod", "square",
    "maximum", "minimum", "clamp", "clamp_min", "clamp_max", "clone", "detach", "copy_", "alias", "view", "_unsafe_view", "reshape",
    "permute", "transpose", "t", "expand", "squeeze", "unsqueeze", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not",
    "scalar_tensor", "lift_fresh", "full", "full_like", "zeros_like", "ones_like", "empty_like",
}


class Operations(TorchDispatchMode):
    """The names of a reference's operations."""

    @classmethod
    def _should_skip_dynamo(cls):
        # As above.
        return False

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name.partition("::")[2])
        return func(*args, **(kwargs or {}))


def flatten(value):
    """(tensors, tree), the tree in the child's words."""
    found = []

    def walk(node):
        if isinstance(node, torch.Tensor):
            found.append(node.detach())
            return "t"
        if isinstance(node, (list, tuple)):
            return f"({','.join(map(walk, node))})"
        if isinstance(node, dict):
            return f"{{{','.join(f'{k!r}:{walk(node[k])}' for k in node)}}}"
        raise TypeError(f"forward returned a {type(node).__name__}")

    return found, walk(value)


def spans(values):
    memory = [t.untyped_storage() for t in values if isinstance(t, torch.Tensor)]
    return [(m.data_ptr(), m.data_ptr() + m.nbytes()) for m in memory]


def set_mode(model, train):
    """Inference mode, or the modes that the constructor left: nobody calls `train` on a task's model."""
    built = model.__dict__.setdefault("_modes_as_built", [m.training for m in model.modules()])
    for module, mode in zip(model.modules(), built):
        module.training = mode and train


class Answer:
    """What the reference returns, and what it does besides."""

    def __init__(self, model, args, seed, train=True):
        # Copies, so that an in-place reference cannot change what the candidate is given.
        args = copy.deepcopy(args)
        given = [a for a in args if isinstance(a, torch.Tensor)]
        before = [a.clone() for a in given]
        if isinstance(model, torch.nn.Module):
            set_mode(model, train)
        seed_everything(seed)
        with torch.no_grad():
            found, self.tree = flatten(model(*args))
        inputs = spans(given)
        # A reference that hands out its input, or changes it, allows the candidate to.
        self.shared = [any(low < b and a < high for a, b in inputs) for low, high in spans(found)]
        self.mutates = [i for i, (a, b) in enumerate(zip(given, before)) if not same_bits(a, b)]
        self.overlaps = [not t.is_contiguous() and t.numel() > t.untyped_storage().nbytes() // t.element_size()
                         for t in found]
        self.contiguous = [t.is_contiguous() for t in found]
        self.tensors = [t.clone() for t in found]


def same_bits(a, b):
    # What is almost always so, in fewer passes.
    if a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b):
        return True
    return bool(((a == b) | ((a != a) & (b != b))).all())


def wide_answer(wide, args, seed, train, expected):
    """The reference in float64, where it runs there; its own outputs otherwise."""
    plain = [torch.view_as_real(e).double() if e.is_complex() else e.double() for e in expected]
    if wide is None or any(e.is_complex() for e in expected):
        return plain
    try:
        args = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
        found = [t.double() for t in Answer(wide, args, seed, train).tensors]
    except Exception:
        return plain
    if [t.shape for t in found] != [t.shape for t in expected]:
        return plain
    out = []
    for w, p, e in zip(found, plain, expected):
        # A random reference (dropout) draws other numbers in float64: then float32 is the oracle.
        rms = float(p.square().mean().sqrt()) if p.numel() else 0.0
        agrees = bool(((w - p).abs() <= 0.05 * rms + 0.05 * p.abs()).all())
        out.append(w if agrees and e.is_floating_point() else p)
    return out


def allowed_error(expected, oracle, reduction):
    relative, share = TOLERANCE.get(str(expected.dtype).removeprefix("torch."), TOLERANCE["float32"])
    if expected.is_complex():
        expected = torch.view_as_real(expected)
    finite = torch.isfinite(oracle)
    count = int(finite.sum())
    sane = oracle if count == oracle.numel() else torch.where(finite, oracle, torch.zeros_like(oracle))
    rms = math.sqrt(float(sane.square().sum()) / count) if count else 0.0
    own = (expected.double() - oracle).abs_()
    own = torch.nan_to_num(own, 0.0, 0.0, 0.0) if count < oracle.numel() else own
    floor = ERROR_FLOOR * (float(own.max()) if own.numel() else 0.0)
    if not math.isfinite(floor):
        floor = ERROR_FLOOR * float(torch.nan_to_num(own, 0.0, 0.0, 0.0).max())
    return oracle.abs().mul_(relative).add_(share * math.sqrt(max(4, reduction)) * rms + floor)


class Draw:
    """One draw's expected outputs and the error allowed on each element; `exact` allows none. `other` is a second answer that
    is right as well."""

    def __init__(self, kind, answer, oracle, reduction, exact=False):
        self.other = None
        self.kind, self.answer, self.expected, self.oracle = kind, answer, answer.tensors, oracle
        self.allowed = [torch.zeros_like(o) if exact else allowed_error(e, o, reduction)
                        for e, o in zip(self.expected, oracle)]

    def passes(self, fakes, margin=NULL_MARGIN):
        """Whether these tensors would be accepted with `margin` times the allowed error."""
        return len(fakes) == len(self.expected) and all(
            fake is not None and fake.shape == want.shape and fake.dtype == want.dtype
            and self.check(i, fake, margin)[0] is None
            for i, (fake, want) in enumerate(zip(fakes, self.expected)))

    def check(self, index, got, margin=1.0):
        """(complaint or None, largest absolute error) of one output tensor against the oracle."""
        want, oracle, allowed = self.expected[index], self.oracle[index], self.allowed[index]
        if not want.is_floating_point() and not want.is_complex():
            wrong = got != want
            count = int(wrong.sum())
            error = float((got.double() - want.double()).abs().max()) if want.numel() else 0.0
            if not count:
                return None, error
            return f"{count} of {want.numel()} elements differ, {at(wrong, got, want)}", error
        if want.is_complex():
            got, want = torch.view_as_real(got), torch.view_as_real(want)
        wide = got.double()
        same = (got == want) | (torch.isnan(got) & torch.isnan(want))
        error = (wide - oracle).abs()
        error = torch.where(same & ~torch.isfinite(error), torch.zeros_like(error), error)
        # A NaN error is not within any limit, so the comparison is written to fail on it.
        good = (error <= allowed * margin) | (same & ~torch.isfinite(want))
        worst = float(error.max()) if error.numel() else 0.0
        if bool(good.all()):
            return None, worst
        if bool((~torch.isfinite(got) & torch.isfinite(want)).any()):
            bad = ~torch.isfinite(got) & torch.isfinite(want)
            return f"{int(bad.sum())} of {got.numel()} elements are not finite, {at(bad, got, oracle)}", math.inf
        far = ~good & (error == error[~good].max())
        return f"{int((~good).sum())} of {got.numel()} elements differ, by at most {worst:.3g}, " \
            f"{at(far if bool(far.any()) else ~good, got, oracle)}", worst


def at(where, got, want):
    """The first marked element, what it is and what was expected of it."""
    place = torch.nonzero(where)[0].tolist()
    found, right = got[tuple(place)].item(), want[tuple(place)].item()
    return f"at {place}: {found:.6g}, expected {right:.6g}" if isinstance(found, float) else \
        f"at {place}: {found}, expected {right}"


def null_outputs(draw, args, first):
    """What can be returned without computing anything: zeros, a constant, an input, the answer to the first draw."""
    def mean(want):
        if want.numel() < 2 or not want.is_floating_point():
            return None
        return torch.full_like(want, want.double().mean().item())

    nulls = {"zeros": [torch.zeros_like(w) for w in draw.expected], "its mean everywhere": list(map(mean, draw.expected))}
    for n, arg in enumerate(args):
        if isinstance(arg, torch.Tensor):
            nulls[f"input {n}"] = [arg] * len(draw.expected)
    nulls["the answer to the first draw"] = first
    return nulls
