"""The referee on a device: draws inputs at a task's own size, knows the expected outputs, times the reference.

One process per device, for all candidates on it. It never sees candidate code; what a candidate wrote is in a box that
both map (`box`), named by a descriptor that Rust passes on. Protocol: frames on stdin and stdout, one each way.
"""
import copy
import ctypes
import os
import random
import socket
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import torch

import box
import confine
import device
import frames
import oracle
import plan
import reference
import referee
from plan import DRAWS, NOMINAL, TaskError

# Sets of inputs that a timed burst goes through: no two neighbouring calls see the same content or the same addresses. More than
# `SETS` only while the whole box stays small: the longer a burst, the less of it is waking two processes and warming them up.
MIN_SETS, SETS, MAX_SETS = 2, 16, 64
SMALL_BOX = 256 << 20
# Outputs that are described in one frame, so that it stays well below what a frame of a candidate's may be.
MAX_OUTPUTS = 1024
# Of `plan.DRAWS`, what is drawn at full size; the interpreter has seen the others, and these, at a small one: nominal, in the
# same memory with gradients, inference mode, rounding in one direction, exact sums, another shape.
DRAWN = tuple(DRAWS[n] for n in (0, 1, 2, 5, 7, 8))
# Device memory that stays with this process between evaluations: giving it back stops the device, and so does asking again.
KEPT_BYTES = 4 << 30
# How many times an interval with nothing in it is measured.
EMPTY_CALLS, WARM_CALLS = 20, 3
# And the reference, alone, for its baseline: calls that are wanted, and the most. Of 30 calls at 16 places the median of a reference of
# 10 us was 0.22 us (one standard deviation) off what its leases found, who agree within 0.09 (docs/benchmarks/2026-11-30-h200-4).
BASELINE_CALLS = (30, 120)
# Bytes of inputs and outputs of timed calls that are compared at once. A GPU is launched on for each comparison, whatever is in it; a
# processor copies.
TOGETHER_BYTES = {"cuda": 64 << 20, "cpu": 256 << 10}
# A baseline takes no longer than this, seconds, and no fewer calls; and beyond the wanted ones goes on for so long.
BASELINE_S, BASELINE_MORE_S, FEW_CALLS = 3.0, 0.1, 3


class Lost(Exception):
    """A question about an evaluation that this process knows nothing of."""


def is_out_of_memory(error):
    """By what it is: a message may repeat what a candidate wrote."""
    return (isinstance(error, (MemoryError, torch.OutOfMemoryError))
            or isinstance(error, RuntimeError) and "out of memory" in str(error))


def is_ours(error):
    """Whether the device failed, not what a candidate's frame says. Torch and `device` raise `RuntimeError`; what only describes no
    tensors is a `ValueError`, `KeyError` or `TypeError`, with the candidate's words in it."""
    return is_out_of_memory(error) or isinstance(error, RuntimeError) and "CUDA error" in str(error)


def sets_within(budget, size, outputs=1):
    """How many sets of inputs and `outputs`, `size` bytes each, a box has room for."""
    return max(MIN_SETS, min(budget // size, max(SETS, min(MAX_SETS, SMALL_BOX // size, MAX_OUTPUTS // max(1, outputs)))))


class Session(referee.Prepared):
    """One evaluation. Draws are made when they are asked for and dropped when they have been compared."""

    def __init__(self, where, secret, name, nonce, source, budget, one_place=False):
        init = self.begin(secret, name, f"{nonce}/device", source)
        self.where, self.sent, self.current, self.firsts, self.timed = where, [], 1, None, []
        self.bursts, self.heating, self.later = 0, None, []
        # For a control of the bench alone (`DeviceConfig::places`): as `do_bench` has it, which nothing that is paid for is.
        self.one_place = one_place
        # Where the inputs of timed calls are: nobody else can tell beforehand.
        self.places = random.SystemRandom()
        args = self.task.inputs(self.task.space, self.seed("inputs", 0))
        answer = oracle.Answer(self.model, args, self.seed("run", 0), True)
        found = [[t.nbytes for t in some] for some in (
            self.weights(), [a for a in args if isinstance(a, torch.Tensor)], answer.tensors)]
        sizes = [sum(map(box.aligned, each)) for each in found]
        # A reference that leaves its inputs alone and hands out none of them can be asked without copies.
        self.pure = not answer.mutates and not any(answer.shared)
        self.floor = {"bytes_in": sizes[0] + sizes[1], "bytes_out": sizes[2], "dtype": str(answer.tensors[0].dtype),
                      "flops": reference.flops(self.model, args)}
        # Each with its room: a tensor that an altered shape makes a large one begins at a page, too.
        state, *both = (box.laid(0, [int(n * room) for n in each])[1] for each, room in zip(found, (1, box.ROOM, box.ROOM)))
        state, inputs, outputs = box.whole(state, *(n + box.SPARE for n in both))
        self.sets = sets_within(budget - state, inputs + outputs, len(answer.tensors))
        if state + MIN_SETS * (inputs + outputs) > budget:
            needed = -(-(state + MIN_SETS * (inputs + outputs)) >> 20)
            raise TaskError(f"its inputs, weights and outputs need a box of {needed} MiB, gpu.box_mb is {budget >> 20}")
        self.layout = box.Layout(state, inputs, outputs, self.sets)
        fd, self.memory = where.make(self.layout.size)
        blob = frames.Blob()
        self.job = {
            "init": frames.pack(list(init[0]), blob), "init_kwargs": frames.pack(init[1], blob),
            "state": self.pack_state(self.model), "build_seed": self.seed("build"),
            "compile": frames.pack(args, Described()), "seed": self.seed("run", 0),
            "box": {"size": self.memory.numel(), **self.layout.wire()}, "device": where.facts(),
        }
        self.fd, self.blob = fd, blob.bytes()
        self.weighed = getattr(self.task, "weighed", False)
        if not hasattr(self.task, "plain"):
            self.task.plain = reference.runs_plainly(copy.deepcopy(self.model), copy.deepcopy(args))

    def close(self):
        os.close(self.fd)
        self.where.drop(self.memory)
        self.memory = None

    def weights(self):
        return list(self.model.state_dict().values()) if isinstance(self.model, torch.nn.Module) else []

    def pack_state(self, model):
        shelf = box.Shelf(self.memory, self.layout.state)
        if not isinstance(model, torch.nn.Module):
            return []
        return [[k, frames.pack(v.detach(), shelf)] for k, v in model.state_dict().items()]

    def weigh_nulls(self, draw, args):
        # What a task can tell apart does not depend on who is asked.
        if not self.weighed:
            super().weigh_nulls(draw, args)

    def send(self, kind, args, train, grad, rewrite, state, index=plan.COMPILE):
        self.current = self.current if rewrite else 1 - self.current
        shelf = box.Shelf(self.memory, self.layout.inputs[self.current])
        self.sent = args
        self.wire = {
            "kind": kind, "seed": self.seed("run", index), "train": train, "grad": grad, "set": self.current, "moving": self.moving(),
            "may_raise": kind == plan.SHAPE, "layout": self.layouts(), "state": None if state is None else self.pack_state(state),
            "inputs": frames.pack(args, shelf)}
        self.where.sync()

    def draw(self, n):
        """The call after the last one: what the child is told, or None where this task has no such draw."""
        kind, train, grad, rewrite = DRAWN[n] if n < len(DRAWN) else (*DRAWN[0][:3], False)
        had = len(self.draws)
        try:
            self.add(n % len(DRAWN), kind, train, grad, rewrite)
        except box.Full as e:
            del self.draws[had:]
            self.note(n, kind, f"does not fit: {e}")
        if n == len(DRAWN):
            if not self.weighed:
                self.refuse_trivial()
                self.task.weighed = True
            self.wire["kind"] = "repeat"
        return self.wire if len(self.draws) > had else None

    def compare(self, n, said):
        verdict = Call(self, said)
        draw = self.draws[-1]
        verdict.draw(f"draw {n} at full size ({self.wire['kind']})", draw, said)
        if not (draw.kind == plan.SHAPE and said.get("raised")):
            held = [verdict.tensor(e).clone() for e in said["outputs"]] if verdict.report["wrong"] is None else []
            if n == 0:
                self.firsts = held
            elif n == len(DRAWN) and verdict.report["wrong"] is None:
                verdict.same(self.firsts, held)
        if n:
            self.draws[-1] = None
        return verdict.finish()

    def ablated(self, said):
        entries = said.get("outputs")
        # Counted before anything is copied: thousands of the same bytes would fill the memory.
        if not isinstance(entries, list) or len(entries) != len(self.draws[0].expected):
            return {"unchanged": False}
        view = box.View(self.memory, self.layout.outputs[self.current])
        return {"unchanged": self.draws[0].passes([view.tensor(e).clone() for e in entries], margin=1.0)}

    def burst(self, calls):
        """Fresh inputs for so many timed calls, each at a place that nobody could foresee, and something to warm up on. They are
        put there by `fill`, when the candidate has warmed up. The expected outputs come later, from copies."""
        self.timed, self.later, wires = [], [], []
        slots = self.places.sample(range(self.sets), min(calls, self.sets))
        for slot in slots[:1] if self.one_place else slots:
            self.bursts += 1
            seed = self.seed("timed run", self.bursts)
            args = self.task.inputs(self.task.space, self.seed("timed", self.bursts))
            part = self.somewhere(slot, args)
            shelf = box.Later(self.memory, part)
            wires.append({"kind": "timed", "seed": seed, "train": True, "grad": False, "set": slot, "state": None, "layout": self.layouts(),
                          "inputs": frames.pack(args, shelf)})
            self.later.append(shelf)
            self.timed.append((seed, args, slot, part))
        if self.one_place:
            wires, self.timed = wires * len(slots), self.timed * len(slots)
        if self.heating is None:
            self.heating = self.task.inputs(self.task.space, self.seed("heating"))
        shelf = box.Shelf(self.memory, self.somewhere(slots[0], self.heating))
        heat = {"inputs": frames.pack(self.heating, shelf), "seed": self.seed("heating run")}
        self.where.sync()
        return {"heat": heat, "calls": wires, "one_place": self.one_place}

    def somewhere(self, slot, args):
        """Part of a slot that holds these, at a random distance from its start."""
        at, size = self.layout.inputs[slot]
        sizes = [a.nbytes for a in args if isinstance(a, torch.Tensor)]
        step = max(map(box.grain, sizes), default=box.ALIGN)
        needed = box.laid(at, sizes)[1] - at
        skipped = step * self.places.randrange(max(0, size - needed) // step + 1)
        return at + skipped, size - skipped

    def fill(self):
        """Puts the inputs of the burst where they were said to be."""
        for shelf in self.later:
            shelf.put()
        self.later = []
        self.where.sync()
        return {}

    def time_reference(self):
        """Times the reference on the inputs of the last burst."""
        calls = [timed[:2] for timed in self.timed]
        took = reference.timed_calls(self.where, self.model, calls, self.task.plain, device.synced(len(calls)), self.heating,
                                     not self.one_place)
        return {**took, "flushed_us": self.where.flushed_us}

    def expected(self, seed, args):
        """(what the reference returns, whether it changes its inputs)."""
        if not self.pure:
            answer = oracle.Answer(self.model, args, seed, True)
            return answer.tensors, bool(answer.mutates)
        if isinstance(self.model, torch.nn.Module):
            oracle.set_mode(self.model, True)
        oracle.seed_everything(seed)
        with torch.no_grad():
            return oracle.flatten(self.model(*args))[0], False

    def check_burst(self, said):
        """Whether every output of the last burst is right."""
        entries = said.get("outputs")
        if not isinstance(entries, list) or len(entries) != len(self.timed):
            return {"wrong": "a burst has another number of calls"}
        several = max(1, TOGETHER_BYTES[self.where.kind] // max(1, self.floor["bytes_in"] + self.floor["bytes_out"]))
        for first in range(0, len(entries), several):
            calls = list(zip(self.timed, entries))[first:first + several]
            expected = [self.expected(*timed[:2]) for timed, _ in calls]
            # What a reference keeps and writes again is the last call's.
            places = [t.data_ptr() for found, _ in expected for t in found if t.numel()]
            reused = len(set(places)) < len(places)
            sure = self.sure(calls, expected) if len(calls) > 1 and not reused else [False] * len(calls)
            for n, (call, right, known) in enumerate(zip(calls, expected, sure)):
                if not known and reused:
                    right = self.expected(*call[0][:2])
                wrong = None if known else self.check_call(f"timed call {first + n}", *call, *right)
                if wrong is not None:
                    return {"wrong": wrong}
        return {"wrong": None}

    def check_call(self, name, timed, outs, expected, mutates):
        _, args, slot, at = timed
        if not mutates and changed(args, box.Shelf(self.memory, at), box.View(self.memory, at)):
            return f"{name}: forward changed its arguments"
        if not isinstance(outs, list) or len(outs) != len(expected):
            return f"{name}: {len(outs)} outputs, expected {len(expected)}"
        part = box.View(self.memory, self.layout.outputs[slot])
        for i, (entry, want) in enumerate(zip(outs, expected)):
            got = part.tensor(entry).clone()
            if got.shape != want.shape or got.dtype != want.dtype:
                return f"{name}, output {i}: {list(got.shape)} of {got.dtype}"
            if self.disordered(entry, want):
                return f"{name}, output {i}: its elements stand in another order"
            if not reference.near(got, want, self.task.reduction or 1):
                return f"{name}: output {i} is not what it was when nobody timed it"
        return None

    def disordered(self, entry, want):
        return self.task.ordered and want.is_contiguous() and not entry.get("contiguous")

    def sure(self, calls, expected):
        """Which of some calls are right beyond doubt, in few operations: of a small output each costs more than what is in it. The others
        are looked at one by one, which says what is wrong with them."""
        nobody = [False] * len(calls)
        good = [True] * len(calls)
        try:
            inputs = [[] for _ in calls]
            outputs = [[] for _ in calls]
            for n, (((_, args, slot, at), outs), (want, mutates)) in enumerate(zip(calls, expected)):
                if mutates or len(outs) != len(want) or any(map(self.disordered, outs, want)):
                    return nobody
                view, shelf = box.View(self.memory, at), box.Shelf(self.memory, at)
                inputs[n] = [(view.tensor(entry), arg) for entry, arg in standing(args, shelf)]
                part = box.View(self.memory, self.layout.outputs[slot])
                outputs[n] = list(zip(map(part.tensor, outs), want))
            compare = [(reference.sames, inputs), (lambda a, b: reference.nears(a, b, self.task.reduction or 1), outputs)]
            for alike, pairs in compare:
                for column in zip(*pairs, strict=True):
                    got, want = map(list, zip(*column))
                    if any(t.shape != want[0].shape or t.dtype != want[0].dtype for t in got + want):
                        return nobody
                    good = [a and b for a, b in zip(good, alike(got, want))]
        except Exception as e:
            if is_ours(e) and not is_out_of_memory(e):
                raise
            # What describes no tensors is told when it is looked at by itself.
            return nobody
        return good

    def baseline(self):
        """The reference alone, nobody else on the device: what a lease's own figures are held against. As there, it is timed in bursts, each
        on other contents at other addresses: a place that is a few percent slower than others is one of many."""
        def one(n):
            return self.seed("baseline run", n), self.task.inputs(self.task.space, self.seed("baseline", n))

        heating = self.task.inputs(self.task.space, self.seed("heating"))
        warm = reference.timed_calls(self.where, self.model, [one(0)] * WARM_CALLS, self.task.plain)
        fit = int(BASELINE_S * 1e6 / max(1.0, warm["wall_us"] / WARM_CALLS))
        count = max(FEW_CALLS, min(SETS, fit))
        began, bursts, drawn, times = time.monotonic(), 0, 1, []
        while True:
            sets = [one(n) for n in range(drawn, drawn + min(count, self.sets))]
            calls = [sets[n % len(sets)] for n in range(count)]
            took = reference.timed_calls(self.where, self.model, calls, self.task.plain, 0, heating)["times"]
            drawn, bursts = drawn + len(sets), bursts + 1
            # As in a lease, a burst's first call does not count.
            times += took[1:] if count > FEW_CALLS else took
            limit = BASELINE_S if len(times) < BASELINE_CALLS[0] else BASELINE_MORE_S
            if len(times) >= BASELINE_CALLS[1] or (time.monotonic() - began) * (bursts + 1) / bursts > limit:
                return {"times": times}
            # Before others are drawn: large ones do not fit twice.
            sets = calls = None


def warm_up():
    """What references and comparisons are made of, once: a device's libraries are loaded at first use."""
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(64, 64, dtype=dtype)
        torch.nn.functional.layer_norm(torch.softmax(x @ x, dim=-1), (64,)).sum().item()
        torch.isfinite(x).all().item(), x.square().mean().sqrt().item(), x.abs().max().item()
        torch.where(x > 0, x, -x).clone().mul_(2).round()
    torch.randint(0, 2, (64,), generator=oracle.generator(1)).to(torch.float32)
    torch.randperm(64, generator=oracle.generator(1)), torch.rand(64, generator=oracle.generator(1))
    torch.nn.functional.conv2d(torch.randn(1, 1, 8, 8), torch.randn(1, 1, 3, 3))


class Described:
    """For `frames.pack`: what tensors are like, not what is in them."""

    def add(self, tensor):
        return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


class Call(referee.Comparison):
    """One call's outputs, copied out of the box before they are looked at."""

    def __init__(self, session, said):
        self.view, self.prepared = box.View(session.memory, session.layout.outputs[session.current]), session
        self.report = {"wrong": None, "shapes": None, "max_abs_error": 0.0,
                       "kernelbench_1e2": True, "kernelbench_1e4": True}
        shelf = box.Shelf(session.memory, session.layout.inputs[session.current])
        inputs = box.View(session.memory, session.layout.inputs[session.current])
        said["mutated"] = changed(session.sent, shelf, inputs)

    def tensor(self, entry):
        if int(entry["len"]) < 0:
            # It did not fit: of another shape or dtype, which is told apart without its elements.
            return torch.empty(frames.shape_of(entry)[:8], dtype=frames.DTYPES[entry["dtype"]], device="meta")
        return self.view.tensor(entry).clone()

    def same(self, first, again):
        for i, (a, b) in enumerate(zip(first, again, strict=True)):
            if not oracle.same_bits(a, b):
                count = int(((a != b) & ~((a != a) & (b != b))).sum())
                self.wrong(f"{count} of {a.numel()} elements of output {i} differ when the first draw is asked again")


def standing(args, shelf):
    """Where each tensor argument stands that was put on this shelf, and the argument."""
    for arg in args:
        if isinstance(arg, torch.Tensor):
            yield {"dtype": str(arg.dtype).removeprefix("torch."), "shape": list(arg.shape),
                   "at": shelf.room(arg.nbytes), "len": arg.nbytes}, arg


def changed(args, shelf, view):
    """Which tensor arguments in the box are not what was put there."""
    return [n for n, (entry, arg) in enumerate(standing(args, shelf)) if not oracle.same_bits(view.tensor(entry), arg)]


class Referee:
    def __init__(self, control):
        self.control, self.secret, self.where, self.one_place = control, None, None, False
        self.sessions = {}

    def answer(self, header):
        op = header["op"]
        if op == "hello":
            return self.hello(header)
        if op == "prove":
            return self.prove(), b""
        if op == "memory":
            return {"bytes": torch.cuda.memory_reserved() if self.where.kind == "cuda" else 0}, b""
        if op == "prepare":
            session = Session(self.where, self.secret, header["task"], header["nonce"], header["source"],
                              header["budget"], self.one_place)
            self.sessions[header["session"]] = session
            socket.send_fds(self.control, [b"b"], [session.fd])
            return {"job": session.job, "sets": session.sets, "floor": session.floor,
                    "draws": len(DRAWN) + 1, "box_bytes": session.memory.numel(), "notes": session.notes}, session.blob
        if op == "close":
            session = self.sessions.pop(header["session"], None)
            if session is not None:
                session.close()
                del session
                if self.where.kind == "cuda" and torch.cuda.memory_reserved() - torch.cuda.memory_allocated() > KEPT_BYTES:
                    torch.cuda.empty_cache()
            return {}, b""
        session = self.sessions.get(header["session"])
        if session is None:
            raise Lost("its evaluation began under an earlier referee, which is gone")
        if op == "draw":
            return {"draw": session.draw(header["n"]), "notes": session.notes}, b""
        if op == "burst":
            return session.burst(header["calls"]), b""
        if op == "fill":
            return session.fill(), b""
        if op == "reference":
            return session.time_reference(), b""
        if op == "baseline":
            return session.baseline(), b""
        try:
            if op == "compare":
                return session.compare(header["n"], header["said"]), b""
            if op == "ablated":
                return session.ablated(header["said"]), b""
            if op == "check":
                return session.check_burst(header["said"]), b""
        except Exception as e:
            if is_ours(e):
                raise
            # The candidate's frame does not describe tensors: its doing, not ours.
            return {"malformed": f"{type(e).__name__}: {e}"[:referee.MALFORMED]}, b""
        raise ValueError(op)

    def hello(self, header):
        self.secret, self.one_place = bytes.fromhex(header["secret"]), header["one_place"]
        confine.beside(header.get("cpus", []))
        plan.small = header["device"] == "cpu"
        self.where = device.up(header["device"])
        torch.set_default_device(self.where.torch)
        # The oracle's float32 is IEEE's; `reference.timed_calls` has PyTorch's defaults.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        warm_up()
        empty = sorted(t["us"] for t in self.where.timed([lambda: None] * EMPTY_CALLS, EMPTY_CALLS)[1])
        return {"torch": torch.__version__, "pid": os.getpid(), "empty_us": empty[len(empty) // 2],
                **self.where.facts()}, b""

    def prove(self):
        """The device computes what is known, to the bit."""
        n = 1 << 16
        x = torch.arange(n, dtype=torch.float64)
        total = float((x * 2 + 1).sum())
        eye = torch.eye(64) * 3
        product = bool((eye @ eye == torch.eye(64) * 9).all())
        self.where.sync()
        return {"proved": total == float(n) * n and product}


def main():
    # Not to be looked into by another process of the same user (PR_SET_DUMPABLE).
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    # Descriptor 0 is a socket: frames come in by it, the descriptors of boxes go out.
    source, sink = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    judge = Referee(socket.socket(fileno=os.dup(source)))
    while True:
        frame = frames.read_frame(source)
        if frame is None:
            return
        began = time.perf_counter()
        try:
            reply, out = judge.answer(frame[0])
            reply["ok"] = True
        except TaskError as e:
            reply, out = {"ok": False, "kind": "task", "message": str(e)}, b""
        except Lost as e:
            reply, out = {"ok": False, "kind": "lost", "message": str(e)}, b""
        except Exception as e:
            kind = "memory" if is_out_of_memory(e) else "referee"
            reply, out = {"ok": False, "kind": kind, "message": traceback.format_exc()}, b""
        reply["ms"] = (time.perf_counter() - began) * 1e3
        frames.write_frame(sink, reply, out)


if __name__ == "__main__":
    main()
