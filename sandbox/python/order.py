"""In which order programs of one launch are taken to run: a device promises none, the interpreter has one.

Two looks. While the first draw is answered: which program wrote what, and whether atomic operations on one address stand between that and
another program's use of it. And one draw once more with the programs of each launch from the last to the first, for what such
operations seem to order and do not, and for what a program writes over that another one has read.
"""
import numpy as np
from triton.runtime import interpreter

# Elements that a program read, or wrote otherwise, although nothing orders it after another one of its launch that had written them.
raced, tracing = 0, False
# Whether any kernel of this process used an atomic operation, or had two programs write different things to one place, or one write what
# another had read.
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
# First address -> of each element's first byte, which stretch was the first to read it: of programs that run one after the other it tells
# whether another than the present one has.
_readers = {}
# Of each stretch, which ends with a program or with its next atomic operation: its program, and, where it ended in such a one, which
# stretches are over for whoever uses that address after it, as bits. Whether this launch has used any; which stretches are over for the
# present program, its first one, and which have ended in an atomic operation at all.
_programs, _released, _atomic, _over, _first, _ended = [0], [1], False, 1, 0, 1
# Of stretches beyond these it is only told whether they ended in an atomic operation, wherever: one of 64,000 bits for each is too much.
MAX_TOLD = 4096


class Waits(Exception):
    """A program waits for one that comes after it."""


def begin(memories):
    """A launch that is given these (address, bytes)."""
    global _atomic, _over, _first, _ended
    _writers.clear()
    _readers.clear()
    _atomic, _over, _first, _ended = False, 1, 0, 1
    _programs[:], _released[:] = [0], [1]
    if tracing:
        for low, size in memories:
            if low not in _writers and size <= MAX_TRACED:
                _writers[low], _readers[low] = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32)


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
    _released.append(0)


def _acquire(found):
    """What was over for those who did atomic operations here is for this program, too."""
    global _over
    for s in np.unique(-found[found < 0]):
        _over |= _released[s] if len(_programs) <= MAX_TOLD else 2


def _places(handle, mask):
    """(first address, offsets of the active elements, which these are, their size) for each memory that is looked after."""
    size = max(1, handle.get_element_ty().primitive_bitwidth >> 3)
    for low, writers in _writers.items():
        at = handle.data.astype(np.int64) - low
        inside = mask & (at >= 0) & (at + size <= writers.size)
        if inside.any():
            yield low, at[inside], inside, size


def _unordered(found):
    """Which of these stretches were another program's and are not over for this one."""
    if not found.any():
        return np.zeros(found.shape, dtype=bool)
    stretches, back = np.unique(np.abs(found), return_inverse=True)
    bad = [s != 0 and _programs[s] != _programs[-1] and not _is_over(s) for s in stretches.tolist()]
    return np.array(bad, dtype=bool)[back.reshape(found.shape)]


def _is_over(stretch):
    return bool(_released[stretch] and _over > 1) if len(_programs) > MAX_TOLD else bool(_over >> stretch & 1)


def reads(handle, mask):
    global raced
    for low, at, _, _ in _places(handle, mask):
        readers = _readers[low]
        unread = at[readers[at] == 0]
        readers[unread] = len(_programs) - 1
        found = _writers[low][at]
        if not found.any():
            continue
        # A flag that another program raised by an atomic operation is waited for by plain loads, too.
        _acquire(found)
        raced += int((_unordered(found) & (found > 0)).sum())


def writes(handle, mask, value):
    """Two programs that write the same thing harm nobody."""
    global raced, overlapped
    for low, at, inside, size in _places(handle, mask):
        writers, read = _writers[low], _readers[low][at]
        # It is told by the other order whether it matters.
        overlapped = overlapped or bool(((read > 0) & (read < _first)).any())
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
    global raced, atomics, _atomic, _over, _ended
    atomics = True
    if not _writers:
        return
    known = 0
    for low, at, _, size in _places(handle, mask):
        writers, known = _writers[low], known + at.size
        found = writers[at]
        raced += 0 if swaps else int((_unordered(found) & (found > 0)).sum())
        _acquire(found)
        for byte in range(size):
            writers[at + byte] = 1 - len(_programs)
    if known < int(mask.sum()):
        # What is too large to be looked after: taken for an order among all that did such operations.
        _over |= _ended
    if len(_programs) <= MAX_TOLD:
        # This one and its program's earlier ones.
        _over |= (1 << len(_programs)) - (1 << _first)
        _ended |= 1 << len(_programs) - 1
    else:
        _over = 2
    _released[-1], _atomic = _over, True
    _stretch()


def install():
    builder = interpreter.InterpreterBuilder
    place = builder.set_grid_idx

    def placed(self, *at):
        global _steps, _over, _first
        if backwards:
            at = [size - 1 - n for n, size in zip(at, self.grid_dim)]
        place(self, *at)
        _steps, _over = 0, 1
        if _writers:
            _first = len(_programs)
            _stretch()

    builder.set_grid_idx = placed
