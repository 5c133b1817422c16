"""In which order programs of one launch are taken to run: a device promises none, the interpreter has one.

Two looks. While the first draw is answered, and in each launch of a later one that is unlike any before it: which program wrote what, and
whether atomic operations on one address stand between that and another program's use of it. And one draw once more with the programs of
each launch from the last to the first, for what such operations seem to order and do not, and for what a program writes over that another
one has read.
"""
import numpy as np
from triton._C.libtriton import ir
from triton.runtime import interpreter

# Elements that a program read, or wrote otherwise, although nothing orders it after another one of its launch that had written them, or
# after another lane of its own. Whether every launch is looked after, and whether the present one is.
raced, tracing, traced = 0, False, False
# Whether any kernel of this process used an atomic operation, or had two programs write different things to one place, or one write what
# another had read.
atomics, overlapped = False, False
# Whether programs run from the last to the first, and whether one of them then waited for one that had not run yet.
backwards, waited = False, False
# Bytes of the largest memory of which each byte is looked after; of a larger one it is those pages, up to as many bytes, that are used.
MAX_TRACED, PAGE = 1 << 24, 1 << 12
# Bytes of the largest element: one that is not aligned goes beyond its page.
LONGEST = 8
# Memory operations of one program: the most of any in the usual order, and those of the present one. Who needs many times as many in the
# other order waits in a loop.
PATIENCE, GRACE = 2, 1000
_most, _steps = 0, 0
# First address -> what is known of this memory.
_known = {}
# Counts barriers, and what implies one, modulo as many as fit beside the place of an element in its block.
_barriers, LANES = 0, 1 << 20
# Of each stretch, which ends with a program or with its next atomic operation: its program, and, where it ended in such a one, which
# stretches are over for whoever uses that address after it, as bits. Whether this launch has used any; which stretches are over for the
# present program, its first one, and which have ended in an atomic operation at all.
_programs, _released, _atomic, _over, _first, _ended = [0], [1], False, 1, 0, 1
# Of stretches beyond these it is only told whether they ended in an atomic operation, wherever: one of 64,000 bits for each is too much.
MAX_TOLD = 4096


class Waits(Exception):
    """A program waits for one that comes after it."""


class _Memory:
    """Of each byte which stretch last wrote it: negative where that was an atomic operation, zero where nobody was. Of each element's
    first byte, which stretch was the first to read it: of programs that run one after the other it tells whether another than the
    present one has. And which lane wrote it, after which barrier."""

    def __init__(self, size):
        self.size, self.pages = size, None
        if size > MAX_TRACED:
            self.pages, self.used, size = np.full(-(-size // PAGE), -1, dtype=np.int32), 0, LONGEST
        self.writers, self.readers, self.lanes = (np.zeros(size, dtype=np.int32) for _ in range(3))

    def places(self, at):
        """Where these bytes are kept, negative where they are not."""
        if self.pages is None:
            return at
        page = at // PAGE
        new = np.unique(page[self.pages[page] < 0])[: MAX_TRACED // PAGE - self.used]
        if new.size:
            self.pages[new] = np.arange(self.used, self.used + new.size)
            self.used += new.size
            if self.used * PAGE + LONGEST > self.writers.size:
                more = max(self.used * PAGE + LONGEST, 2 * self.writers.size)
                for part in ("writers", "readers", "lanes"):
                    old = getattr(self, part)
                    setattr(self, part, np.concatenate([old, np.zeros(more - old.size, dtype=np.int32)]))
        return np.where(self.pages[page] < 0, -1, self.pages[page] * PAGE + at % PAGE)


def begin(memories, new):
    """A launch that is given these (address, bytes); `new`: none like it was looked after before."""
    global traced, _atomic, _over, _first, _ended
    _known.clear()
    _atomic, _over, _first, _ended = False, 1, 0, 1
    _programs[:], _released[:] = [0], [1]
    traced = tracing or new
    if traced:
        for low, size in memories:
            if low not in _known and size:
                _known[low] = _Memory(size)


def barrier(*_):
    """What lanes of the present program wrote before is there for all of them after."""
    global _barriers
    _barriers = (_barriers + 1) % ((1 << 31) // LANES)


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


def _carried(found):
    """What is over for whoever acquires at places that these stretches wrote."""
    over = 0
    for s in np.unique(-found[found < 0]).tolist():
        over |= _released[s] if len(_programs) <= MAX_TOLD else _released[s] and 2
    return over


def _places(handle, mask):
    """(memory, places of the active elements, which these are, their size) for each memory that is looked after."""
    size = max(1, handle.get_element_ty().primitive_bitwidth >> 3)
    for low, memory in _known.items():
        at = handle.data.astype(np.int64) - low
        inside = mask & (at >= 0) & (at + size <= memory.size)
        if inside.any():
            places = memory.places(at[inside])
            if memory.pages is not None and (places < 0).any():
                inside[inside] = places >= 0
                places = places[places >= 0]
            yield memory, places, inside, size


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
    global raced, _over
    for memory, at, inside, _ in _places(handle, mask):
        readers = memory.readers
        unread = at[readers[at] == 0]
        readers[unread] = len(_programs) - 1
        found = memory.writers[at]
        if not found.any():
            continue
        # A flag that another program raised by an atomic operation is waited for by plain loads, too.
        _over |= _carried(found)
        raced += int((_unordered(found) & (found > 0)).sum())
        own = found == len(_programs) - 1
        if own.any():
            wrote = memory.lanes[at[own]]
            other = (wrote // LANES == _barriers) & (wrote % LANES != np.flatnonzero(inside)[own])
            raced += int(other.sum())


def writes(handle, mask, value):
    """Two programs that write the same thing harm nobody."""
    global raced, overlapped
    for memory, at, inside, size in _places(handle, mask):
        writers, read = memory.writers, memory.readers[at]
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
        memory.lanes[at] = _barriers * LANES + np.flatnonzero(inside)


def changes(handle, mask, swaps, semantic, scope):
    """An atomic operation; locks may be let go of by plain stores, so `swaps` are not held against those. It is there for the whole
    program, and orders others as far as it says."""
    global raced, atomics, _atomic, _over, _ended
    atomics = True
    barrier()
    if not _known:
        return
    wide = scope != ir.MEM_SYNC_SCOPE.CTA
    acquires = wide and semantic in (ir.MEM_SEMANTIC.ACQUIRE, ir.MEM_SEMANTIC.ACQUIRE_RELEASE)
    releases = wide and semantic in (ir.MEM_SEMANTIC.RELEASE, ir.MEM_SEMANTIC.ACQUIRE_RELEASE)
    known = carried = 0
    for memory, at, _, size in _places(handle, mask):
        writers, known = memory.writers, known + at.size
        found = writers[at]
        raced += 0 if swaps else int((_unordered(found) & (found > 0)).sum())
        carried |= _carried(found)
        for byte in range(size):
            writers[at + byte] = 1 - len(_programs)
    if known < int(mask.sum()):
        # What is too large to be looked after: taken for an order among all that did such operations.
        carried |= _ended
    told = len(_programs) <= MAX_TOLD
    # This one and its program's earlier ones.
    own = (1 << len(_programs)) - (1 << _first) if told else 2
    if acquires:
        _over |= carried if told else 2
    if releases and told:
        _ended |= 1 << len(_programs) - 1
    elif releases:
        for s in range(len(_programs) - 2, _first - 1, -1):
            if _released[s]:
                break
            _released[s] = 2
    # What others released here passes through an operation that releases nothing itself.
    _released[-1], _atomic = (_over | own if releases else 0) | carried, True
    _stretch()


def _meeting(operation):
    def met(*args, **kwargs):
        barrier()
        return operation(*args, **kwargs)
    return met


def install():
    builder = interpreter.InterpreterBuilder
    place = builder.set_grid_idx

    def placed(self, *at):
        global _steps, _over, _first
        if backwards:
            at = [size - 1 - n for n, size in zip(at, self.grid_dim)]
        place(self, *at)
        _steps, _over = 0, 1
        barrier()
        if _known:
            _first = len(_programs)
            _stretch()

    builder.set_grid_idx = placed
    builder.create_barrier = barrier
    for name in ("create_dot", "create_dot_scaled"):
        # Operands go from lane to lane.
        multiply = getattr(builder, name, None)
        if multiply is not None:
            setattr(builder, name, _meeting(multiply))
