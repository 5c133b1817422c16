"""The referee: the trusted process that draws inputs from secret seeds, knows the expected outputs, and compares.

It never sees candidate code, only the raw bytes a candidate returned. Protocol on stdin/stdout, one frame each way:
`hello` (with the secret), `prepare` (task source -> the job's frame), `compare` (output bytes -> verdict), `ablated`
(output bytes of a run without kernels -> whether they are just as right).
"""
import copy
import ctypes
import hashlib
import hmac
import math
import os
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import torch

import frames
import oracle
import plan
from plan import COMPILE, EXACT, FAR, NOMINAL, SHAPE, SIGNS, TaskError

torch.set_num_threads(1)

# Outputs of these dtypes may be indices into an input.
PLACES = (torch.int64, torch.int32)


def seed_of(secret, *parts):
    text = "\x1f".join(str(p) for p in parts).encode()
    return int.from_bytes(hmac.new(secret, text, hashlib.sha256).digest()[:8], "little") >> 1


class Prepared:
    """What is known about one evaluation: expected outputs and the error allowed on each."""

    def __init__(self, secret, name, nonce, source):
        init = self.begin(secret, name, nonce, source)
        model, seed, task = self.model, self.seed, self.task
        self.blob = frames.Blob()
        for index, entry in enumerate(plan.DRAWS):
            self.add(index, *entry)
        self.refuse_trivial()
        # The first draw again, when all the others have been.
        self.wire.append({**self.wire[0], "kind": "repeat"})
        # And once more with the programs of each launch in the other order.
        self.wire.append({**self.wire[0], "kind": "backwards", "backwards": True})
        args = task.inputs(task.space, seed("inputs", COMPILE))
        self.send(COMPILE, args, True, False, False, None)
        self.job = {
            "init": frames.pack(list(init[0]), self.blob),
            "init_kwargs": frames.pack(init[1], self.blob),
            "state": self.pack_state(model),
            "build_seed": seed("build"),
            "draws": self.wire,
        }
        self.output_bytes = sum(t.numel() * t.element_size() for d in self.draws for t in d.expected)

    def begin(self, secret, name, nonce, source):
        """The task and its reference; returns what the models are built with."""
        def seed(*parts):
            return seed_of(secret, name, nonce, *parts)

        self.task = task = plan.task_of(name, source)
        self.seed, self.notes, self.draws, self.wire, self.args = seed, [], [], [], []
        try:
            init = task.init_inputs(task.space, seed("init"))
            oracle.seed_everything(seed("build"))
            model = task.space["Model"](*copy.deepcopy(init[0]), **copy.deepcopy(init[1]))
            self.second = None
            if isinstance(model, torch.nn.Module):
                known = plan.constants(model)
                if task.look is None:
                    task.look_at_weights(model, known)
                if known:
                    self.second = copy.deepcopy(model)
                    plan.randomise(self.second, seed("state") ^ 2, known, task.look, turned=True)
                plan.randomise(model, seed("state"), known, task.look)
            if task.numbers is None:
                task.look_at_integers(copy.deepcopy(model))
        except (Exception, SystemExit):
            raise TaskError(traceback.format_exc(limit=-3)) from None
        if not task.looked:
            task.look_for_another_shape(model)
        self.model, self.wide, self.pristine = model, widened(model), copy.deepcopy(model)
        # What would be accepted on every draw without computing anything; must end up empty.
        self.trivial = None
        return init

    def refuse_trivial(self):
        if self.trivial:
            raise TaskError(f"no draw of inputs can tell the right output from {', '.join(sorted(self.trivial))}")

    def add(self, index, kind, train, grad, rewrite, tried=0):
        """One checked draw, unless this task has no such one; `tried`: so many others of its kind told nothing."""
        task, model, wide, state, space = self.task, self.model, self.wide, None, self.task.space
        if kind == SHAPE:
            if task.other is None:
                return
            space = task.other
            model = self.twin(space)
            wide = widened(model)
        if kind == FAR and not task.far:
            return
        if kind == plan.SECOND and self.second is not None:
            state, model, wide = self.second, copy.deepcopy(self.second), widened(self.second)
        if kind == EXACT:
            # Zeros and ones are all ties: which of two equal elements an index names is nobody's promise.
            if task.exact is False or task.places:
                return
            if isinstance(model, torch.nn.Module) and any(True for _ in model.parameters()):
                model = plan.zeros_and_ones(model, self.seed("integers"))
                state, wide = model, widened(model)
        try:
            args = task.inputs(space, self.seed("inputs", index, *[tried] * bool(tried)))
            if rewrite:
                args = plan.mixed(args, self.args, self.seed("mix", index))
            if kind == SIGNS and not any(map(plan.is_one_sided, args)):
                return
            self.args = args
            args, answer = self.reference(model, args, kind, index, train)
        except (Exception, SystemExit):
            if kind == NOMINAL:
                raise TaskError(traceback.format_exc(limit=-3)) from None
            return self.note(index, kind, "is outside the reference's domain")
        if answer is None:
            return self.note(index, kind, "makes the reference non-finite")
        other = None
        if not train and not self.same_in_both_modes(args):
            # Batch statistics, dropout: the two modes are two functions, of weights that no call has changed yet.
            state, wide = self.pristine, widened(self.pristine)
            answer = oracle.Answer(copy.deepcopy(state), args, self.seed("run", index), False)
            if not all(bool(torch.isfinite(t).all()) for t in answer.tensors if t.is_floating_point()):
                return self.note(index, kind, "makes the reference non-finite")
            other = self.as_built(kind, args, index)
        if task.places is None:
            task.places = any(t.dtype in PLACES for t in answer.tensors)
        if task.reduction is None:
            with oracle.Reductions() as seen:
                oracle.Answer(model, args, self.seed("run", index), train)
            task.reduction, task.far = seen.longest, seen.softmax and not seen.variance
        wide_out = oracle.wide_answer(wide, args, self.seed("run", index), train, answer.tensors)
        if kind == FAR and not well_told(answer.tensors, wide_out):
            # By chance, often: what is asked of a task's candidates is not to depend on it.
            if tried < plan.FAR_TRIES:
                return self.add(index, kind, train, grad, rewrite, tried + 1)
            return self.note(index, kind, "is more than the reference's own precision bears")
        if kind == EXACT:
            task.exact = integers(answer.tensors, wide_out)
            if not task.exact:
                return
        draw = oracle.Draw(kind, answer, wide_out, task.reduction, exact=kind == EXACT)
        draw.other = other
        self.weigh_nulls(draw, args)
        self.draws.append(draw)
        self.send(kind, args, train, grad, rewrite, state, index)

    def twin(self, space):
        """The altered module's model with this evaluation's weights."""
        init = self.task.init_inputs(space, self.seed("init"))
        oracle.seed_everything(self.seed("build"))
        twin = space["Model"](*init[0], **init[1])
        if isinstance(twin, torch.nn.Module):
            twin.load_state_dict(self.model.state_dict())
        return twin

    def reference(self, model, nominal, kind, index, train):
        """(inputs, answer); no answer where it is not finite. The structured draw looks for extremes that it bears."""
        looks = kind == SIGNS or kind == "structured" and self.task.extreme is None
        extremes = plan.EXTREMES if looks else (self.task.extreme or 4.0,)
        for extreme in extremes:
            args = plan.transform(nominal, kind, self.seed("change", index), extreme, ties=not self.task.places,
                                  numbers=bool(self.task.numbers))
            answer = oracle.Answer(model, args, self.seed("run", index), train)
            if kind == NOMINAL or all(bool(torch.isfinite(t).all()) for t in answer.tensors if t.is_floating_point()):
                if kind == "structured":
                    self.task.extreme = extreme
                return args, answer
        return args, None

    def same_in_both_modes(self, args):
        """Whether the mode as built and inference mode are one to this reference."""
        if self.task.modes_agree is None:
            found = [oracle.Answer(copy.deepcopy(self.pristine), args, 0, mode).tensors for mode in (True, False)]
            self.task.modes_agree = all(a.shape == b.shape and oracle.same_bits(a, b) for a, b in zip(*found))
        return self.task.modes_agree

    def as_built(self, kind, args, index):
        """The same draw for a candidate that knows one mode only, as the task's own use does."""
        answer = oracle.Answer(copy.deepcopy(self.pristine), args, self.seed("run", index), True)
        wide = oracle.wide_answer(widened(self.pristine), args, self.seed("run", index), True, answer.tensors)
        return oracle.Draw(kind, answer, wide, self.task.reduction or 1)

    def weigh_nulls(self, draw, args):
        first = self.draws[0].expected if self.draws else draw.expected
        nulls = oracle.null_outputs(draw, args, first)
        left = nulls if self.trivial is None else {k: v for k, v in nulls.items() if k in self.trivial}
        self.trivial = {name for name, fakes in left.items() if draw.passes(fakes)}

    def note(self, index, kind, text):
        self.notes.append(f"draw {index} ({kind}) {text}")

    def send(self, kind, args, train, grad, rewrite, state, index=COMPILE):
        self.wire.append({
            "kind": kind, "seed": self.seed("run", index), "train": train, "grad": grad, "rewrite": rewrite,
            "may_raise": kind == SHAPE, "must_launch": True, "backwards": False,
            "layout": self.layouts(), "moving": self.moving(),
            "state": None if state is None else self.pack_state(state),
            "inputs": frames.pack(args, self.blob)})

    def moving(self):
        """Buffers that the reference itself has changed, by name: a candidate may do so too, and leaves all others as they are."""
        if not isinstance(self.model, torch.nn.Module):
            return []
        pairs = zip(self.model.named_buffers(), self.pristine.buffers())
        return [name for (name, now), was in pairs if now.shape != was.shape or not oracle.same_bits(now, was)]

    def layouts(self):
        """Whether torch's copies into another order are looked at: where nothing is summed the order is most of the work."""
        return self.task.ordered and self.task.reduction == 1

    def pack_state(self, model):
        if not isinstance(model, torch.nn.Module):
            return []
        return [[k, frames.pack(v.detach(), self.blob)] for k, v in model.state_dict().items()]


def widened(model):
    try:
        return copy.deepcopy(model).double() if isinstance(model, torch.nn.Module) else model
    except Exception:
        return None


def well_told(expected, wide):
    """Whether a reference is right to well within what is allowed of a candidate: else an honest one may be off as well."""
    relative, _ = oracle.TOLERANCE["float32"]
    return all(bool(((e.double() - w).abs() <= relative / 2 * (w.abs() + 1e-3 * w.abs().max())).all())
               for e, w in zip(expected, wide) if e.dtype == torch.float32 and e.numel())


def integers(expected, wide):
    """Whether a result is made of integers that its dtype holds exactly."""
    return all(
        e.dtype in oracle.EXACT and w.numel() > 0 and bool((w == w.round()).all()) and bool((e.double() == w).all())
        and float(w.abs().max()) <= oracle.EXACT[e.dtype] for e, w in zip(expected, wide))


# Of what is wrong with a description, characters: it may quote a megabyte.
MALFORMED = 1000


class Comparison:
    """The verdict on one candidate's outputs: its first complaint, the largest error, KernelBench's view."""

    def __init__(self, prepared, header, blob):
        self.prepared, self.blob = prepared, blob
        self.report = {"wrong": None, "shapes": None, "max_abs_error": 0.0,
                       "kernelbench_1e2": True, "kernelbench_1e4": True}
        draws = header.get("draws")
        if not isinstance(draws, list) or len(draws) != len(prepared.draws) + 2:
            raise ValueError("another number of draws")
        *draws, again, turned = draws
        for n, (draw, said) in enumerate(zip(prepared.draws, draws)):
            self.draw(f"draw {n} ({draw.kind})", draw, said)
        if self.report["wrong"] is None:
            self.repeated(draws[0]["outputs"], again["outputs"])
        # Asked only of candidates for whom an order may matter.
        if not turned.get("skipped"):
            self.turned(prepared.draws[0], turned)
        self.finish()

    def finish(self):
        """No frame holds what is no number, and an answer may be that far off."""
        if not math.isfinite(self.report["max_abs_error"]):
            self.report["max_abs_error"] = None
        return self.report

    def tensor(self, entry):
        return frames.tensor_from(entry, self.blob)

    def wrong(self, message):
        if self.report["wrong"] is None:
            self.report["wrong"] = message

    def draw(self, where, draw, said):
        entries = said["outputs"]
        if draw.kind == SHAPE and said.get("raised"):
            self.report["shapes"] = str(said["raised"])[-500:]
            return
        if draw.kind == EXACT:
            where = f"{where}, where every sum is an integer"
        if draw.other is not None and len(entries) == len(draw.expected):
            found = [self.tensor(e) for e in entries]
            draw = draw.other if draw.other.passes(found, margin=1.0) else draw
        answer = draw.answer
        if len(entries) != len(draw.expected) or said.get("tree") != answer.tree:
            self.wrong(f"{where}: {len(entries)} output tensors as {str(said.get('tree'))[:80]}, "
                       f"expected {len(draw.expected)} as {answer.tree[:80]}")
            self.report["kernelbench_1e2"] = self.report["kernelbench_1e4"] = False
            self.report["max_abs_error"] = math.inf
            return
        for i, (entry, want) in enumerate(zip(entries, draw.expected)):
            self.output(f"{where}, output {i}", draw, i, entry, want)
        for i in said.get("mutated", []):
            if i not in answer.mutates:
                self.wrong(f"{where}: forward changed its tensor argument {int(i)}")
        if said.get("weights"):
            self.wrong(f"{where}: forward changed {int(said['weights'])} of the weights")

    def repeated(self, first, again):
        """The same call has the same answer, to the bit."""
        for i, (a, b) in enumerate(zip(first, again, strict=True)):
            a, b = self.tensor(a), self.tensor(b)
            if a.shape != b.shape or a.dtype != b.dtype:
                self.wrong(f"output {i} has another shape or dtype when the first draw is asked again")
            elif not oracle.same_bits(a, b):
                count = int(((a != b) & ~((a != a) & (b != b))).sum())
                self.wrong(f"{count} of {a.numel()} elements of output {i} differ when the first draw is asked again")

    def turned(self, draw, said):
        """Sums may be another's in the last bits; more than rounding is a race."""
        entries, why = said["outputs"], None
        if said.get("raised"):
            why = str(said["raised"])[-500:]
        elif len(entries) != len(draw.expected):
            why = f"{len(entries)} output tensors"
        else:
            for i, (entry, want) in enumerate(zip(entries, draw.expected)):
                got = self.tensor(entry)
                same = got.shape == want.shape and got.dtype == want.dtype
                why = why or (draw.check(i, got)[0] if same else f"{list(got.shape)} of {got.dtype}")
        if why:
            self.wrong("the result depends on the order in which programs of a launch run, and a device has none: with the last "
                       f"one first, {why}")

    def output(self, where, draw, i, entry, want):
        got = self.tensor(entry)
        error, close = math.inf, (False, False)
        if got.shape != want.shape:
            self.wrong(f"{where}: shape {list(got.shape)}, expected {list(want.shape)}")
        else:
            close = tuple(allclose(got, want, tol) for tol in (1e-2, 1e-4))
            if got.dtype != want.dtype:
                self.wrong(f"{where}: dtype {got.dtype}, expected {want.dtype}")
            else:
                complaint, error = draw.check(i, got)
                if complaint:
                    self.wrong(f"{where}: {complaint}")
        if entry.get("shared") and not draw.answer.shared[i]:
            self.wrong(f"{where} shares memory with an input, a weight or an earlier output")
        if self.prepared.task.ordered and draw.answer.contiguous[i] and not entry.get("contiguous"):
            self.wrong(f"{where} is another view of elements that stand in another order; the reference returns contiguous ones")
        if entry.get("changed"):
            self.wrong(f"{where} was changed after forward had returned it")
        if entry.get("overlaps") and not draw.answer.overlaps[i]:
            self.wrong(f"{where} has elements that share one place in memory")
        if not error <= self.report["max_abs_error"]:
            self.report["max_abs_error"] = error
        if draw.kind == NOMINAL:
            self.report["kernelbench_1e2"] &= close[0]
            self.report["kernelbench_1e4"] &= close[1]


def ablated(prepared, header, blob):
    """Whether the outputs of the first draw are right although no kernel did anything."""
    entries, draw = header.get("outputs"), prepared.draws[0]
    # Counted before anything is copied: thousands of the same bytes would fill the memory.
    if not isinstance(entries, list) or len(entries) != len(draw.expected):
        return {"unchanged": False}
    return {"unchanged": draw.passes([frames.tensor_from(e, blob) for e in entries], margin=1.0)}


def allclose(got, want, tol):
    try:
        return bool(torch.allclose(got, want.to(got.dtype), atol=tol, rtol=tol))
    except RuntimeError:
        return False


class Referee:
    def __init__(self):
        self.secret = self.prepared = None

    def answer(self, header, blob):
        op = header["op"]
        if op == "hello":
            self.secret = bytes.fromhex(header["secret"])
            return {"ok": True, "torch": torch.__version__, "pid": os.getpid()}, b""
        if op == "prepare":
            self.prepared = None
            made = self.prepared = Prepared(self.secret, header["task"], header["nonce"], header["source"])
            return {"ok": True, "job": made.job, "notes": made.notes, "output_bytes": made.output_bytes}, \
                made.blob.bytes()
        if op in ("compare", "ablated"):
            try:
                if op == "compare":
                    return {"ok": True, **Comparison(self.prepared, header, blob).report}, b""
                return {"ok": True, **ablated(self.prepared, header, blob)}, b""
            except (ValueError, KeyError, TypeError, RuntimeError, OverflowError, AttributeError, IndexError) as e:
                # The candidate's frame does not describe tensors: its doing, not ours.
                return {"ok": True, "malformed": f"{type(e).__name__}: {e}"[:MALFORMED]}, b""
        raise ValueError(op)


def main():
    # Not to be looked into by another process of the same user (PR_SET_DUMPABLE).
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    # Frames go through private duplicates: a task that prints must not write into the protocol.
    source, sink = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    referee = Referee()
    while True:
        frame = frames.read_frame(source)
        if frame is None:
            return
        began = time.perf_counter()
        try:
            reply, out = referee.answer(*frame)
        except TaskError as e:
            reply, out = {"ok": False, "kind": "task", "message": str(e)}, b""
        except MemoryError as e:
            reply, out = {"ok": False, "kind": "memory", "message": str(e)}, b""
        except Exception:
            reply, out = {"ok": False, "kind": "referee", "message": traceback.format_exc()}, b""
        reply["ms"] = (time.perf_counter() - began) * 1e3
        frames.write_frame(sink, reply, out)


if __name__ == "__main__":
    main()
