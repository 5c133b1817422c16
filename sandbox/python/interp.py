"""Turns a process that has Triton's compiler loaded into one where `@triton.jit` means Triton's interpreter.

Triton decides at decoration time; its own library (`tl.sum`, `tl.softmax`, ...) was decorated when it was imported.
`prepare` finds those functions and makes interpreted twins before the fork; `enter` swaps them in, in microseconds.
"""
import inspect
import sys
import types

import numpy as np
import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice as stubs
from triton.language.extra.cuda import libdevice
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, TensorHandle
from triton.runtime.jit import JITFunction, TensorWrapper
from triton.tools.tensor_descriptor import TensorDescriptor

import combine
import constants
import libdevice_models
import memory

_ADDRESS = np.dtype(np.uint64)
_swaps = []
# Whether a kernel runs at this moment, and whether its programs do: what torch is asked there is Python's that the candidate brought into
# the kernel. Whether launches do nothing (the ablation); who is told of launches.
inside, programs, ablated, watch = False, False, False, None
# Launches since `reset`: a count, and the first ones in words. All there ever were, as far as they are kept.
launches, signatures, met = 0, [], set()
MAX_SIGNATURES, MAX_MET = 64, 1024


def reset(watcher=None, own=()):
    """`own`: addresses of the memory that a call may find as it is, see `memory`."""
    global launches, watch
    launches, watch = 0, watcher
    signatures.clear()
    memory.reset(own)


class _Patched:
    """Stands for a language that is patched already."""

    @staticmethod
    def restore():
        global programs
        programs = False


def prepare():
    """Finds every `@triton.jit` function of Triton's own library, parses each once, and records what Triton's
    interpreter changes in the language at every single call, so that it can be changed once."""
    twins = {}
    owners = [m for n, m in list(sys.modules.items()) if n.startswith("triton.language") and m is not None]
    for owner in [*owners, tl.tensor]:
        for name, value in list(vars(owner).items()):
            if type(value) is not JITFunction:
                continue
            if value not in twins:
                twins[value] = InterpretedFunction(value.fn)
            _swaps.append((owner, name, twins[value]))
    for twin in twins.values():
        twin.rewrite()

    def sees_the_language():
        pass

    seen = types.FunctionType(sees_the_language.__code__, {"tl": tl, "core": tl.core})
    scope = interpreter._patch_lang(seen)
    touched = {(id(owner), name): (owner, name) for owner, name, *_ in scope._changes}
    patched = [(owner, name, getattr(owner, name)) for owner, name in touched.values()]
    scope.restore()
    _swaps.extend(patched)
    for name, function in vars(libdevice).items():
        if tl.core.is_builtin(function):
            bound = _bound(function)
            _swaps.extend((owner, name, bound) for owner in (libdevice, stubs))
    interpreter.InterpreterBuilder.create_extern_elementwise = _extern
    interpreter.GridExecutor.__init__ = _as_compiled(interpreter.GridExecutor.__init__)
    interpreter.GridExecutor.__call__ = _counted(interpreter.GridExecutor.__call__)
    interpreter.FunctionRewriter._find_def = _first_def
    interpreter.FunctionRewriter._compile_and_exec = _with_closure
    # Compiled kernels do not check integers for overflow either, and here the check is two thirds of the time.
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
    interpreter._get_np_dtype = _known_dtype(interpreter._get_np_dtype)
    builder = interpreter.InterpreterBuilder
    builder.set_grid_dim = _begun(builder.set_grid_dim)
    builder.cast_impl = _cast(builder.cast_impl)
    memory.install()
    combine.install()
    constants.prepare([twin for _, _, twin in _swaps])


def _begun(dimensions):
    """The launch's arguments are what they are to be: from here on its programs run, until the language is restored."""
    def begun(self, *grid):
        global programs
        programs = True
        dimensions(self, *grid)
    return begun


def _cast(cast):
    """The interpreter takes the value of an integer, a flag or a float64 for the bits of a bfloat16: by way of float32 it is one. Which it
    is says the array: what is compared keeps its old dtype there."""
    def through(self, src, dst_type):
        if dst_type.scalar == tl.bfloat16 and src.data.dtype != np.float32:
            src = TensorHandle(src.data.astype(np.float32), tl.float32)
        return cast(self, src, dst_type)
    return through


def _bound(function):
    def bound(*args, **kwargs):
        kwargs["_semantic"] = interpreter.interpreter_semantic
        return function(*args, **kwargs)
    return bound


def _known_dtype(find):
    """The interpreter makes its table of dtypes anew each time it looks into it."""
    known = {}

    def found(dtype):
        scalar = dtype.element_ty if isinstance(dtype, tl.block_type) else dtype
        if isinstance(scalar, tl.pointer_type):
            return _ADDRESS
        if scalar.name not in known:
            known[scalar.name] = find(scalar)
        return known[scalar.name]
    return found


def _first_def(self, lines):
    """Line of the kernel's `def`, counted from 1: the first one, not one that its docstring speaks of."""
    return next((n + 1 for n, line in enumerate(lines) if line.strip().startswith("def ")), 0)


def _with_closure(self, transformed_ast):
    """As Triton's own, and names of enclosing functions are known, as they are to the compiler."""
    code = compile(transformed_ast, filename=self.filename, mode="exec")
    # A copy: the interpreter's own names (and what can be reached from them) are not the candidate's.
    space = {**vars(interpreter), **self.fn.__globals__}
    captured = inspect.getclosurevars(self.fn).nonlocals
    local = {**self.kwargs}
    exec(code, {**space, **captured}, local)
    return local[self.fn.__name__]


def _as_compiled(init):
    """What the compiler accepts and the interpreter does not: grids as lists, constexpr under another name."""
    def made(self, fn, arg_names, grid, *args, **kwargs):
        known = (lambda meta: tuple(grid(meta))) if callable(grid) else tuple(grid)
        init(self, fn, arg_names, known, *args, **kwargs)
        self.constexprs = [n for n in arg_names if "constexpr" in str(fn.__annotations__.get(n, ""))]
    return made


def _counted(call):
    def counted(self, *args, **kwargs):
        global launches, inside, programs
        if inside:
            raise RuntimeError("a kernel was launched from within a kernel")
        values = (*args, *kwargs.values())
        if watch is not None:
            watch.kernel(values)
        known = {k: v for k, v in kwargs.items() if k in self.arg_names}
        bound = inspect.getcallargs(self.fn, *args, **known)
        # The candidate's host code: it is done before the kernel begins, under the eyes of `watch`.
        grid = self.grid(bound) if callable(self.grid) else self.grid
        self.grid = grid
        for hook in self.pre_run_hooks:
            hook(*args, **known)
        self.pre_run_hooks = []
        for value in values:
            only_tensors(value)
        for name in self.arg_names:
            constants.check(name, bound[name], name in self.constexprs)
        said = signature(self.fn.__name__, [*grid, 1, 1, 1][:3], [bound[n] for n in self.arg_names])
        out = None
        if not ablated:
            # What this draw launches and no other one did: its sizes may have a kernel of their own.
            words = str(said)
            memory.allow(values, words not in met and len(met) < MAX_MET)
            met.add(words)
            inside = True
            try:
                out = call(self, *args, **kwargs)
            finally:
                inside = programs = False
        # An empty grid launches nothing on a device.
        if 0 not in grid:
            launches += 1
            if len(signatures) < MAX_SIGNATURES:
                signatures.append(said)
        return out
    return counted


def only_tensors(value):
    """What has an address is a tensor, not an object of the candidate's whose methods would run inside the launch."""
    if isinstance(value, (list, tuple)):
        for one in value:
            only_tensors(one)
    base = getattr(value, "base", None) if type(value) in (TensorWrapper, TensorDescriptor) else value
    if hasattr(base, "data_ptr") and not isinstance(base, torch.Tensor):
        raise TypeError(f"a kernel was given a {type(value).__name__}, which is neither a tensor nor a number")


def signature(kernel, grid, values):
    """A launch in words: kernel, grid, and each argument's value, or its dtype where it is a tensor (a scratch buffer may have
    grown)."""
    return [kernel, [int(n) for n in grid], " ".join(map(_word, values))]


def _word(value):
    if hasattr(value, "data_ptr"):
        return str(value.dtype).removeprefix("torch.")
    if isinstance(value, (bool, int, float, str)) or value is None:
        return repr(value)[:64]
    return "?"


def enter():
    """From here on this process interprets. One way only: a fork that entered never compiles again."""
    triton.knobs.runtime.interpret = True
    # An infinity is a value like others; the candidate's log is not the place for numpy's opinion.
    np.seterr(all="ignore")
    for owner, name, twin in _swaps:
        setattr(owner, name, twin)
    interpreter._patch_lang = lambda fn: _Patched


def _extern(self, lib_name, lib_path, symbol, arguments, ret_type, is_pure):
    function = libdevice_models.find(symbol)
    if function is None:
        raise NotImplementedError(f"{symbol} is not modelled in the interpreter")
    with np.errstate(all="ignore"):
        data = function(*[a.data for a in arguments])
    scalar = ret_type.scalar if hasattr(ret_type, "scalar") else ret_type
    return TensorHandle(np.asarray(data).astype(interpreter._get_np_dtype(scalar)), scalar)
