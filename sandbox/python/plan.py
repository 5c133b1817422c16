"""What a candidate is asked: draws of inputs from secret seeds, fixed before its source is looked at.

What is learnt of a task alone (another legal shape, whether modes matter) is kept for its next candidates.
"""
import ast
import copy
import traceback
from collections import OrderedDict

import torch

import frames
import oracle
from oracle import generator, seed_everything

NOMINAL, COMPILE, EXACT, SHAPE = "nominal", "compile", "zeros and ones", "another shape"
FAR, SIGNS = "rows far from zero", "both signs"
# Kind, training mode, grad mode, and whether it stands in the memory of the draw before it.
DRAWS = (
    (NOMINAL, True, False, False),
    (NOMINAL, True, True, True),
    ("scaled", False, False, False),
    ("small", True, False, False),
    ("negated", False, True, False),
    ("offset", True, False, False),
    ("structured", True, False, False),
    (EXACT, True, False, False),
    (SHAPE, True, False, False),
    (FAR, True, False, False),
    (SIGNS, True, False, False),
)
# The draw in which integers that are numbers are large ones, and by how much: beyond the next smaller type, with room for a product where
# that is not the reference's own.
WIDE = "scaled"
LARGEST = {torch.int64: 1 << 33, torch.int32: 40000}
# The draw that sees other weights than all the others.
SECOND = "structured"
# How far constants among the weights are changed: as far as the reference's answer stays finite.
BOTH_SIGNS, POSITIVE, AS_BUILT = range(3)
# Added to every element; large enough to tell a lost mean, small enough for one-pass variances in float32.
OFFSET = 3.0
# Added to one half of the rows and taken from the other where there is a softmax: its exponentials overflow without their maximum, or
# are all zero, and what subtracts a number instead does so too. Not where there is a variance, which it takes the digits of in one pass.
FAR_OFFSET = 150.0
# Further draws of that kind, where the reference's own precision does not bear one.
FAR_TRIES = 3
# Sparse elements of the structured draw, the first of these that leaves the reference finite.
EXTREMES = (96.0, 16.0, 4.0)
KEPT_TASKS = 64
# A task's sizes for the interpreter, by the names of its constants, where its own are too large for it.
SMALL_SIZES = "INTERPRETER_SHAPES"
# What a task makes its inputs by.
MAKERS = ("get_inputs", "get_init_inputs")
# Whether they hold in this process.
small = True
# Share of elements that the second draw has from the first.
KEPT = 0.875
# Smaller numbers are rather part of what a task is than its size: a column vector, a colour, a quaternion.
SMALLEST_NAMED, SMALLEST_LITERAL = 4, 8


class TaskError(Exception):
    """The task itself is broken: ours, never the candidate's."""


class Task:
    """A task's source, compiled; and what one look at its reference tells."""

    def __init__(self, name, source):
        self.name = name
        try:
            self.tree = ast.parse(source)
            if small:
                self.tree = resized(self.tree, declared_sizes(self.tree))
            self.code = compile(self.tree, f"<task {name}>", "exec")
        except (SyntaxError, ValueError):
            raise TaskError(traceback.format_exc(limit=0)) from None
        self.space = self.run(self.code)
        # Unknown until the first candidate: `None`.
        self.reduction = self.far = self.modes_agree = self.exact = self.extreme = self.places = None
        self.other, self.looked = None, False
        # How far the weights are changed, whether integer inputs are numbers: unknown until the first candidate, too.
        self.look = self.numbers = None
        # Whether the reference puts elements in order: then that is part of what is asked.
        self.ordered = asks_for_order(self.tree)

    def run(self, code):
        space = {"__name__": "task"}
        try:
            exec(code, space)
        except (Exception, SystemExit):
            raise TaskError(traceback.format_exc(limit=-3)) from None
        return space

    def init_inputs(self, space, seed):
        seed_everything(seed)
        values = list(space["get_init_inputs"]()) if "get_init_inputs" in space else []
        if len(values) == 2 and isinstance(values[0], list) and isinstance(values[1], dict):
            return values[0], values[1]
        return values, {}

    def inputs(self, space, seed):
        seed_everything(seed)
        return list(space["get_inputs"]())

    def look_for_another_shape(self, model):
        """Sizes that only the inputs depend on, made odd: same weights, other tensors. Sets `other` to the altered
        module, or leaves None where the task fixes its shapes."""
        self.looked = True
        if self.space.get("FIXED_SHAPES"):
            return
        try:
            spots = sizes(self.tree)
            equal = {}
            for name, size in spots.items():
                equal.setdefault(size, []).append(name)
            # Sizes that are equal may have to be: alone only where it does not work together.
            good = []
            for names in equal.values():
                if self.altered({n: spots[n] for n in names}, model):
                    good.append(names)
                elif len(names) > 1:
                    good += [[n] for n in names if self.altered({n: spots[n]}, model)]
            for names in ([n for group in good for n in group], *good):
                self.other = self.altered({n: spots[n] for n in names}, model) if names else None
                if self.other is not None:
                    return
        except (Exception, SystemExit):
            self.other = None

    def look_at_weights(self, model, known):
        """Sets `look`: as far as both of an evaluation's models have an answer."""
        for self.look in (BOTH_SIGNS, POSITIVE, AS_BUILT) if known else ():
            if self.look != AS_BUILT and all(self.bears(model, known, turned) for turned in (False, True)):
                break

    def bears(self, model, known, turned):
        try:
            twin = copy.deepcopy(model)
            randomise(twin, 0, known, self.look, turned)
            found = oracle.Answer(twin, self.inputs(self.space, 1), 2).tensors
            return all(bool(torch.isfinite(t).all()) for t in found if t.is_floating_point())
        except (Exception, SystemExit):
            return False

    def look_at_integers(self, model):
        """Sets `numbers`: whether the reference does arithmetic on its integers, each alone, and returns integers. Else they may be
        places, labels or lengths, of which only some are legal."""
        self.numbers = False
        args = self.inputs(self.space, 1)
        if not any(isinstance(a, torch.Tensor) and a.dtype in LARGEST for a in args):
            return
        with torch.no_grad(), oracle.Operations() as seen:
            found, _ = oracle.flatten(model(*args))
        self.numbers = seen.names <= oracle.ARITHMETIC and all(t.dtype in LARGEST for t in found)

    def altered(self, sizes_by_spot, model):
        """The module with these sizes, if its model is the same and its reference works on the new shapes."""
        try:
            space = self.run(compile(resized(self.tree, sizes_by_spot), f"<task {self.name}, altered>", "exec"))
            init, old = self.init_inputs(space, 0), self.init_inputs(self.space, 0)
            if frames.pack(list(init), frames.Blob()) != frames.pack(list(old), frames.Blob()):
                return None
            if isinstance(model, torch.nn.Module):
                twin = space["Model"](*init[0], **init[1])
                shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, twin)]
                if shapes[0] != shapes[1]:
                    return None
            args = self.inputs(space, 1)
            before = [getattr(a, "shape", None) for a in self.inputs(self.space, 1)]
            if [getattr(a, "shape", None) for a in args] == before:
                return None
            # The altered module's own model: its forward may name the sizes.
            found = oracle.Answer(space["Model"](*init[0], **init[1]), args, 2).tensors
            finite = all(bool(torch.isfinite(t).all()) for t in found if t.is_floating_point())
            return space if finite and all(t.numel() for t in found) else None
        except (Exception, SystemExit):
            return None


_tasks = OrderedDict()


def task_of(name, source):
    """A task, known or new; the last used are kept."""
    task = _tasks.pop(source, None) or Task(name, source)
    _tasks[source] = task
    if len(_tasks) > KEPT_TASKS:
        _tasks.popitem(last=False)
    return task


def asks_for_order(tree):
    """Whether a reference calls `contiguous`, in a class or in a function that is not one of those that make inputs."""
    owners = [n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name not in MAKERS]
    return any(isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "contiguous"
               for owner in owners for node in ast.walk(owner))


def declared_sizes(tree):
    """Name -> size, as the task has it for the interpreter."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == SMALL_SIZES for t in node.targets):
            return dict(ast.literal_eval(node.value))
    return {}


def sizes(tree):
    """Spot -> odd size, for integer constants of the module and for those that stand in `get_inputs` itself."""
    spots = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if is_size(node.value, SMALLEST_NAMED):
                spots[node.targets[0].id] = odd(node.value.value)
        elif isinstance(node, ast.FunctionDef) and node.name == "get_inputs":
            for n, inner in enumerate(ast.walk(node)):
                if is_size(inner, SMALLEST_LITERAL):
                    spots[n] = odd(inner.value)
    return spots


def is_size(node, smallest=1):
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value >= smallest


def odd(n):
    """Another size: odd, so that no block divides it, and larger, so that a fixed grid leaves something out."""
    return (n + n // 8 + 1) | 1


def resized(tree, sizes_by_spot):
    tree = copy.deepcopy(tree)
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id in sizes_by_spot and is_size(node.value):
                node.value.value = sizes_by_spot[node.targets[0].id]
        elif isinstance(node, ast.FunctionDef) and node.name == "get_inputs":
            for n, inner in enumerate(ast.walk(node)):
                if n in sizes_by_spot and is_size(inner):
                    inner.value = sizes_by_spot[n]
    return tree


def transform(args, kind, seed, extreme, ties, numbers=False):
    """The inputs of a draw from nominal ones. Integers and flags stay: they are indices, masks and labels, unless they are `numbers`.
    Without `ties` no two elements are made equal, because the reference returns places."""
    made = generator(seed)

    def changed(value):
        if isinstance(value, torch.Tensor) and value.dtype in LARGEST and numbers and kind == WIDE:
            return widened(value, made)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or is_mask(value):
            return value
        return in_form(change(value, kind, made, extreme, ties), [value])

    return [changed(a) for a in args]


def widened(value, made):
    """Integers that a smaller type does not hold, of the signs that they have."""
    if value.dtype not in LARGEST:
        return value
    largest = LARGEST[value.dtype]
    low, high = (0 if bool((value >= 0).all()) else -largest), (0 if bool((value <= 0).all()) else largest)
    return torch.randint(low, high + 1, value.shape, generator=made, dtype=value.dtype)


def is_mask(value):
    """Zeros, ones and minus ones, more than one of them: flags and labels in floating point."""
    return value.numel() > 1 and bool(((value == 0) | (value.abs() == 1)).all()) and bool((value != value.view(-1)[0]).any())


def in_form(value, models):
    """As `value`, and zero where the models are, symmetric where they are: a task's reference may not ask for it, what it
    promises of its inputs does (triangular, banded, symmetric matrices)."""
    zero = (models[0] == 0) & (models[-1] == 0)
    # A zero by chance is no form.
    if int(zero.sum()) * 8 >= value.numel():
        value = torch.where(zero, torch.zeros_like(value), value)
    if all(is_symmetric(m) for m in models):
        value = value.tril() + value.tril(-1).mT
    return value


def is_symmetric(value):
    return value.dim() >= 2 and value.shape[-1] == value.shape[-2] > 1 and bool((value == value.mT).all()) \
        and bool((value != value.flatten()[0]).any())


def mixed(args, earlier, seed):
    """Most elements as they were in the draw before: what remembers answers by a few elements meets them again."""
    made = generator(seed)

    def mix(new, old):
        if not isinstance(new, torch.Tensor) or new.shape != old.shape:
            return new
        both = torch.where(torch.rand(new.shape, generator=made) < KEPT, old, new)
        return in_form(both, [new, old]) if new.is_floating_point() else both

    return [mix(new, old) for new, old in zip(args, earlier)]


def change(value, kind, made, extreme, ties):
    if kind == "scaled":
        return value * 3
    if kind == "small":
        # Two sizes, each over whole blocks and rows: tiny, and just below one.
        factor = torch.full((max(1, value.numel()),), 0.01, dtype=value.dtype)
        factor[value.numel() // 2:] = 0.25
        return value * factor[: value.numel()].view(value.shape)
    if kind == "negated":
        # Its second half all of one sign: a maximum that begins at zero shows. Not all of it: outputs would be too small to
        # tell apart.
        negated = -value
        half = negated.reshape(-1).clone()
        half[half.numel() // 2:] = -half[half.numel() // 2:].abs()
        return half.view(value.shape)
    if kind == "offset":
        return one_sided(value + OFFSET) if ties and value.dtype == torch.float32 else value + OFFSET
    if kind == FAR:
        if is_distribution(value):
            return value
        rows = value.reshape(-1, value.shape[-1] if value.dim() else 1).clone()
        rows[: (len(rows) + 1) // 2] += FAR_OFFSET
        rows[(len(rows) + 1) // 2:] -= FAR_OFFSET
        return rows.view(value.shape)
    if kind == EXACT:
        return torch.randint(0, 2, value.shape, generator=made).to(value.dtype)
    if kind == "structured" and value.numel():
        value = value.clone()
        flat, n = value.view(-1), value.numel()
        spots = torch.randperm(n, generator=made)
        if ties:
            flat[spots[: n // 8]] = 0.0
            flat[spots[n // 8: n // 4]] = flat[spots[-1]].item()
        # Few large ones with the signs they had: what is positive by nature stays so.
        large = spots[n // 4: n // 4 + max(1, n // 64)]
        size = extreme * (1 - torch.rand(large.numel(), generator=made) / 16)
        flat[large] = torch.where(flat[large] < 0, -size, size).to(value.dtype)
        return value
    if kind == SIGNS and is_one_sided(value):
        value = value.clone()
        spots = torch.randperm(value.numel(), generator=made)[: max(2, value.numel() // 32)]
        size = extreme * (1 - torch.rand(spots.numel(), generator=made) / 16)
        size[::2] *= -1
        value.view(-1)[spots] = size.to(value.dtype)
        return value
    return value


def is_distribution(value):
    """Probabilities: a softmax's target, not what it is taken of. Far from zero the halves of their sums would cancel."""
    return value.dim() > 0 and value.numel() > 1 and bool((value >= 0).all()) and any(
        bool(((value.sum(axis) - 1).abs() < 1e-3).all()) for axis in range(value.dim()) if value.shape[axis] > 1)


def is_one_sided(value):
    """Whether it is never negative: no other draw has more of a negative number than the nominal ones have of a positive one."""
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1 and not is_mask(value) \
        and bool((value >= 0).all())


def one_sided(value):
    """Each element a little beyond what bfloat16 holds, by less than half of what float16 and tf32 hold: rounding to any of
    them goes one way, and sums do not average it out."""
    coarse = value.bfloat16().float()
    return coarse * (1 + 0.4 * 2.0**-10)


def constants(model):
    """Parameters that PyTorch's defaults, or the task, give one value everywhere: name -> that value. Their sign, or whether they are
    there at all, shows in no answer as long as they have it."""
    found = {}
    if isinstance(model, torch.nn.Module):
        for name, tensor in model.named_parameters():
            flat = tensor.detach().reshape(-1)
            # Almost all others are told by two of their elements.
            if tensor.is_floating_point() and flat.numel() and bool(flat[0] == flat[-1]) and bool((flat == flat[0]).all()):
                found[name] = flat[0].item()
    return found


def randomise(model, seed, known, look, turned=False):
    """Non-default values where defaults hide a missing term: constants, statistics. `look`: which ones the reference bears. `turned`: a
    second time, with what is one number on the other side of zero."""
    made = generator(seed)

    def draw(tensor, low, high):
        tensor.copy_(torch.rand(tensor.shape, generator=made, dtype=torch.float64) * (high - low) + low)

    with torch.no_grad():
        for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
            if not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "running_var":
                draw(tensor, 0.5, 1.5)
            elif leaf == "running_mean":
                draw(tensor, -0.5, 0.5)
            elif known.get(name) == 0:
                draw(tensor, -0.5, 0.5)
            elif known.get(name) == 1 or name in known and look != AS_BUILT:
                draw(tensor, 0.5, 1.5)
                if look == BOTH_SIGNS and tensor.numel() > 1:
                    tensor.mul_(torch.randint(0, 2, tensor.shape, generator=made) * 2 - 1)
                elif look == BOTH_SIGNS and (made.initial_seed() % 2 == 0) != turned:
                    # A slope: above one, or below zero and smaller.
                    tensor.add_(0.6)
                elif look == BOTH_SIGNS:
                    tensor.mul_(-0.6)


def zeros_and_ones(model, seed):
    """A copy of the model whose weights are integers: sums of its products have one right value, in any order."""
    model = copy.deepcopy(model)
    made = generator(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randint(0, 2, tensor.shape, generator=made))
    return model
