"""In which order programs of one launch are taken to run: a device promises none, the interpreter has one.

Two looks. While the first draw is answered: which program wrote what, and whether an atomic operation stands between that and
another program's use of it. And one draw once more with the programs of each launch from the last to the first, for what such
operations seem to order and do not.
"""
import numpy as np
from triton.runtime import interpreter

# Elements that a program read, or wrote otherwise, although nothing orders it after another one of its launch that had written them.
raced, tracing = 0, False
# Whether any kernel of this process used an atomic operation, or had two programs write different things to one place.
atomics, overlapped = False, False
# Whether programs run from the last to the first, and whether one of them then waited for one that had not run yet.
backwards, waited = False, False
# Bytes of the largest memory that is looked after.
MAX_TRACED = 1 << 24
# Memory operations of one program: the most of any in the usual order, and those of the present one. Who needs many times as many in the
# other order waits in a loop.
PATIENCE, GRACE = 2, 1000
_most, _steps = 0, 0
# First address -> which stretch last wrote each byte: negative where it was an atomic operation, zero where nobody was.
_writers = {}
# Of each stretch, which ends with a program or with its next atomic operation: its program, and whether it ended in such a one. Whether
# this launch has used any, and whether the present program has: what others published before it, it may rely on.
_programs, _published, _atomic, _acquired = [0], [True], False, False


class Waits(Exception):
    """A program waits for one that comes after it."""


def begin(memories):
    """A launch that is given these (address, bytes)."""
    global _atomic, _acquired
    _writers.clear()
    _atomic = _acquired = False
    _programs[:], _published[:] = [0], [True]
    if tracing:
        for low, size in memories:
            if low not in _writers and size <= MAX_TRACED:
                _writers[low] = np.zeros(size, dtype=np.int32)


def step():
    global _steps, _most, waited
    _steps += 1
    if not backwards:
        _most = max(_most, _steps)
    elif _steps > PATIENCE * _most + GRACE:
        waited = True
        raise Waits("a program waits for one that has not run yet")


def _stretch():
    _programs.append(interpreter.interpreter_builder.grid_idx)
    _published.append(False)


def _places(handle, mask):
    """(writers, offsets of the active elements, which these are) for each memory that is looked after."""
    size = max(1, handle.get_element_ty().primitive_bitwidth >> 3)
    for low, writers in _writers.items():
        at = handle.data.astype(np.int64) - low
        inside = mask & (at >= 0) & (at + size <= writers.size)
        if inside.any():
            yield writers, at[inside], inside, size


def _unordered(found):
    """Which of these stretches were another program's and did not end in an atomic operation that this program has seen."""
    if not found.any():
        return np.zeros(found.shape, dtype=bool)
    stretches, back = np.unique(np.abs(found), return_inverse=True)
    bad = [s != 0 and _programs[s] != _programs[-1] and not (_acquired and _published[s]) for s in stretches]
    return np.array(bad, dtype=bool)[back.reshape(found.shape)]


def reads(handle, mask):
    global raced, _acquired
    for writers, at, _, _ in _places(handle, mask):
        found = writers[at]
        if not found.any():
            continue
        # A flag that another program raised by an atomic operation is waited for by plain loads, too.
        _acquired = _acquired or bool((found < 0).any())
        raced += int((_unordered(found) & (found > 0)).sum())


def writes(handle, mask, value):
    """Two programs that write the same thing harm nobody."""
    global raced, overlapped
    for writers, at, inside, size in _places(handle, mask):
        bad = _unordered(writers[at])
        if bad.any():
            kind = interpreter._get_np_dtype(handle.get_element_ty())
            new = np.broadcast_to(value.data, handle.data.shape)[inside][bad].astype(kind)
            old = interpreter._interpreter.load(handle.data[inside][bad], np.ones(new.shape, dtype=bool), np.zeros_like(new), kind)
            others = int((np.ascontiguousarray(old).view(np.uint8) != np.ascontiguousarray(new).view(np.uint8)).any())
            # Without atomic operations it is told by the other order whether it matters.
            overlapped = overlapped or bool(others)
            raced += others * int(bad.sum()) if _atomic else 0
        for byte in range(size):
            writers[at + byte] = len(_programs) - 1


def changes(handle, mask, swaps):
    """An atomic operation; locks may be let go of by plain stores, so `swaps` are not held against those."""
    global raced, atomics, _atomic, _acquired
    atomics = True
    if not _writers:
        return
    for writers, at, _, size in _places(handle, mask):
        found = writers[at]
        raced += 0 if swaps else int((_unordered(found) & (found > 0)).sum())
        for byte in range(size):
            writers[at + byte] = 1 - len(_programs)
    _atomic = _acquired = _published[-1] = True
    _stretch()


def install():
    builder = interpreter.InterpreterBuilder
    place = builder.set_grid_idx

    def placed(self, *at):
        global _steps, _acquired
        if backwards:
            at = [size - 1 - n for n, size in zip(at, self.grid_dim)]
        place(self, *at)
        _steps, _acquired = 0, False
        if _writers:
            _stretch()

    builder.set_grid_idx = placed
