"""What a kernel may be given: values and functions of Triton's, not the candidate's own Python, which the interpreter would run inside
the launch. A second line behind the static rules.

What is Triton's is told by identity, from before any candidate code ran: names and modules can be written to.
"""
import collections
import dataclasses
import enum
import sys
import types
import typing

import numpy as np
import torch
import triton
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import BoundConstexprFunction, ConstexprFunction, JITFunction, TensorWrapper
from triton.tools.tensor_descriptor import TensorDescriptor

PLAIN = {int, float, bool, str, bytes, complex, type(None), type(...), slice, range, torch.dtype}
JITTED = {JITFunction, InterpretedFunction, ConstexprFunction, BoundConstexprFunction}
MEMORY = (torch.Tensor, TensorDescriptor, TensorWrapper)
# What carries data past the launch's tensors, or runs code when it is gone through.
CARRIERS = (*MEMORY, torch.UntypedStorage, torch.TypedStorage, np.ndarray, memoryview, bytearray, map, filter,
            types.GeneratorType, types.ModuleType)
CLASSES = {type, enum.EnumType}
# Where the methods come from that Python itself gives to data classes, named tuples and enumerations.
MADE_IN = {"<string>", *(m.__file__ for m in (collections, dataclasses, enum, typing))}
# Of `type.__flags__`: a class that was made by a `class` statement.
HEAP = 1 << 9
MAX_DEPTH = 8
# Addresses of what is Triton's, and the things themselves, so that the addresses stay theirs.
_known, _held = set(), []


def prepare(twins):
    """Takes down what is Triton's; `twins` stand for some of it in the interpreter."""
    modules = [m for n, m in list(sys.modules.items()) if n.startswith("triton.language") and m is not None]
    _held.extend([*modules, *twins, *PLAIN, object, *(v for v in vars(enum).values() if isinstance(v, type))])
    for owner in [*modules, triton.language.tensor]:
        _held.extend(v for v in vars(owner).values() if str(getattr(v, "__module__", "")).startswith("triton."))
    _known.update(map(id, _held))


def check(name, value, constant):
    """Raises where this argument is or holds Python of the candidate's. A `constant` is no memory either."""
    kind = type(value)
    if kind in PLAIN or not constant and issubclass(kind, MEMORY):
        return
    what = _python(value, constant, MAX_DEPTH)
    if what is not None:
        raise TypeError(f"the kernel's argument {name} is or holds {what}, which is neither a constant nor a function of Triton's")


def _python(value, constant, depth):
    """What of it is the candidate's Python, in words, or None."""
    kind = type(value)
    if kind in PLAIN or kind in JITTED or id(value) in _known:
        return None
    if depth == 0:
        return "more than can be looked through"
    if kind is triton.language.constexpr:
        held = [value.value]
    elif kind in CLASSES:
        return _of_class(value, constant, depth)
    elif callable(value):
        return f"a callable ({kind.__name__})"
    elif issubclass(kind, CARRIERS):
        return f"a {kind.__name__}" if constant else None
    else:
        held = _held_by(value, kind)
    return next((found for h in held if (found := _python(h, constant, depth - 1)) is not None), None)


def _held_by(value, kind):
    """What is in it, not by the methods of a class of the candidate's."""
    for container in (tuple, list, set, frozenset):
        if issubclass(kind, container):
            yield from container.__iter__(value)
    if issubclass(kind, dict):
        yield from dict.keys(value)
        yield from dict.values(value)
    try:
        yield from (v for v in object.__getattribute__(value, "__dict__").values() if v is not kind)
    except AttributeError:
        pass
    for owner in kind.__mro__:
        if owner.__flags__ & HEAP:
            for member in vars(owner).values():
                if type(member) is types.MemberDescriptorType:
                    try:
                        yield member.__get__(value)
                    except AttributeError:
                        continue


def _of_class(value, constant, depth):
    """A class itself: settings, an enumeration, a named tuple. None whose calls run code of the candidate's."""
    for owner in value.__mro__:
        for name, member in vars(owner).items() if owner.__flags__ & HEAP and id(owner) not in _known else ():
            function = member.__func__ if type(member) in (staticmethod, classmethod) else member
            if type(function) is types.FunctionType:
                if function.__code__.co_filename not in MADE_IN:
                    return f"a class with a method ({value.__name__}.{name})"
            # Python's own notes on the class: its annotations name types.
            elif not name.startswith("_" if issubclass(owner, enum.Enum) else "__") and not isinstance(member, (property, types.DynamicClassAttribute)):
                found = _python(member, constant, depth - 1)
                if found is not None:
                    return found
    return None
