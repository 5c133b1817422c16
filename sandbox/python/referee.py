"""The referee: the trusted process that draws inputs from secret seeds, knows the expected outputs, and compares.

It never sees candidate code, only the raw bytes a candidate returned. Protocol on stdin/stdout, one frame each way:
`hello` (with the secret), `prepare` (task source -> the job's frame), `compare` (output bytes -> verdict).
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

torch.set_num_threads(1)

NOMINAL, COMPILE = "nominal", "compile"
# Draws that are checked, in this order; the compile phase gets one of its own that is never checked.
DRAWS = (NOMINAL, NOMINAL, "scaled", "negated")
# Relative to each element and to the root mean square of the whole output, by the coarsest floating dtype involved.
TOLERANCE = {"float64": (1e-3, 1e-4), "float32": (1e-3, 1e-4), "float16": (1e-2, 1e-2), "bfloat16": (2e-2, 2e-2)}
# How far beyond the float32 reference's own error (against float64) a candidate may be.
ERROR_FLOOR = 4.0


def seed_of(secret, *parts):
    text = "\x1f".join(str(p) for p in parts).encode()
    return int.from_bytes(hmac.new(secret, text, hashlib.sha256).digest()[:8], "little") >> 1


def seed_everything(seed):
    """`torch.manual_seed` for the CPU alone: torch's own also queues a call, with a traceback, for each absent GPU."""
    torch.default_generator.manual_seed(seed)


class TaskError(Exception):
    """The task itself is broken: ours, never the candidate's."""


class Prepared:
    """What is known about one evaluation: expected outputs and the error allowed on each."""

    def __init__(self, secret, task, nonce, source):
        def seed(*parts):
            return seed_of(secret, task, nonce, *parts)

        space = {"__name__": "task"}
        try:
            exec(compile(source, f"<task {task}>", "exec"), space)
            seed_everything(seed("init"))
            init_inputs = list(space["get_init_inputs"]()) if "get_init_inputs" in space else []
            build_seed = seed("build")
            seed_everything(build_seed)
            init_kwargs = {}
            if len(init_inputs) == 2 and isinstance(init_inputs[0], list) and isinstance(init_inputs[1], dict):
                init_inputs, init_kwargs = init_inputs
            model = space["Model"](*copy.deepcopy(init_inputs), **copy.deepcopy(init_kwargs))
            if isinstance(model, torch.nn.Module):
                randomise(model, seed("state"))
                state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            else:
                state = {}
        except (Exception, SystemExit):
            raise TaskError(traceback.format_exc(limit=-3)) from None
        try:
            wide = copy.deepcopy(model).double() if isinstance(model, torch.nn.Module) else model
        except Exception:
            wide = None
        # What would be accepted on every draw without computing anything; must end up empty.
        trivial = None
        self.draws, self.notes, inputs = [], [], []
        for index, kind in enumerate((*DRAWS, COMPILE)):
            run_seed = seed("run", index)
            try:
                seed_everything(seed("inputs", index))
                args = [transform(a, kind) for a in space["get_inputs"]()]
                if kind == COMPILE:
                    inputs.append((kind, run_seed, args))
                    continue
                expected = outputs_of(model, args, run_seed)
            except (Exception, SystemExit):
                if kind == NOMINAL:
                    raise TaskError(traceback.format_exc(limit=-3)) from None
                self.notes.append(f"draw {index} ({kind}) is outside the reference's domain")
                continue
            if kind != NOMINAL and not all(bool(torch.isfinite(t).all()) for t in expected if t.is_floating_point()):
                self.notes.append(f"draw {index} ({kind}) makes the reference non-finite")
                continue
            draw = Draw(kind, expected, oracle_of(wide, args, run_seed, expected))
            passing = draw.trivial(args, self.draws)
            if passing:
                self.notes.append(f"draw {index} ({kind}) accepts {', '.join(sorted(passing))}")
            trivial = passing if trivial is None else trivial & passing
            self.draws.append(draw)
            inputs.append((kind, run_seed, args))
        if trivial:
            raise TaskError(f"no draw of inputs can tell the right output from {', '.join(sorted(trivial))}")
        blob = frames.Blob()
        self.job = {
            "init": frames.pack(list(init_inputs), blob),
            "init_kwargs": frames.pack(init_kwargs, blob),
            "state": [[k, frames.pack(v, blob)] for k, v in state.items()],
            "build_seed": build_seed,
            "draws": [{"kind": k, "seed": s, "inputs": frames.pack(a, blob)} for k, s, a in inputs],
        }
        self.blob = blob.bytes()
        self.output_bytes = sum(t.numel() * t.element_size() for d in self.draws for t in d.expected)


class Draw:
    def __init__(self, kind, expected, oracle):
        self.kind, self.expected, self.oracle = kind, expected, oracle
        self.allowed = [allowed_error(e, o) for e, o in zip(expected, oracle)]

    def trivial(self, args, earlier):
        """Which trivial outputs would pass here: zeros, a constant, an input, the answer to the first draw."""
        def passes(make):
            for i, want in enumerate(self.expected):
                fake = make(i, want)
                if fake is None or fake.shape != want.shape or fake.dtype != want.dtype:
                    return False
                if self.check(i, fake)[0] is not None:
                    return False
            return True

        def mean(_, want):
            if want.numel() < 2 or not want.is_floating_point():
                return None
            return torch.full_like(want, want.double().mean().item())

        fakes = {"zeros": lambda _, want: torch.zeros_like(want), "its mean everywhere": mean}
        for n, arg in enumerate(args):
            if isinstance(arg, torch.Tensor):
                fakes[f"input {n}"] = lambda _, want, arg=arg: arg
        first = earlier[0].expected if earlier else self.expected
        fakes["the answer to the first draw"] = lambda i, _: first[i] if i < len(first) else None
        return {name for name, make in fakes.items() if passes(make)}

    def check(self, index, got):
        """(complaint or None, largest absolute error) of one output tensor against the oracle."""
        want, oracle, allowed = self.expected[index], self.oracle[index], self.allowed[index]
        if not want.is_floating_point() and not want.is_complex():
            wrong = got != want
            count = int(wrong.sum())
            error = float((got.double() - want.double()).abs().max()) if want.numel() else 0.0
            return (f"{count} of {want.numel()} elements differ" if count else None), error
        if want.is_complex():
            got, want = torch.view_as_real(got), torch.view_as_real(want)
        wide = got.double()
        same = (got == want) | (torch.isnan(got) & torch.isnan(want))
        error = (wide - oracle).abs()
        error = torch.where(same & ~torch.isfinite(error), torch.zeros_like(error), error)
        # A NaN error is not within any limit, so the comparison is written to fail on it.
        good = (error <= allowed) | (same & ~torch.isfinite(want))
        worst = float(error.max()) if error.numel() else 0.0
        if bool(good.all()):
            return None, worst
        if bool((~torch.isfinite(got) & torch.isfinite(want)).any()):
            count = int((~torch.isfinite(got)).sum())
            return f"{count} of {got.numel()} elements are not finite", math.inf
        return f"{int((~good).sum())} of {got.numel()} elements differ, by at most {worst:.3g}", worst


def transform(value, kind):
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    if kind == "scaled":
        return value * 3
    if kind == "negated":
        return -value
    return value


def randomise(model, seed):
    """Non-default values where PyTorch's defaults hide a missing term: one-valued scales, zero biases, statistics."""
    made = torch.Generator().manual_seed(seed)

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
            elif isinstance(tensor, torch.nn.Parameter):
                if bool((tensor == 1).all()):
                    draw(tensor, 0.5, 1.5)
                elif bool((tensor == 0).all()):
                    draw(tensor, -0.5, 0.5)


def flatten(value):
    if isinstance(value, torch.Tensor):
        return [value.detach()]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in flatten(v)]
    if isinstance(value, dict):
        return [t for k in value for t in flatten(value[k])]
    raise TypeError(f"forward returned a {type(value).__name__}")


def outputs_of(model, args, seed):
    seed_everything(seed)
    with torch.no_grad():
        # Copies, so that an in-place reference cannot change what the candidate is given.
        return [t.clone() for t in flatten(model(*copy.deepcopy(args)))]


def oracle_of(wide, args, seed, expected):
    """The reference in float64, where it runs there; its float32 outputs otherwise."""
    plain = [torch.view_as_real(e).double() if e.is_complex() else e.double() for e in expected]
    if wide is None or any(e.is_complex() for e in expected):
        return plain
    try:
        args = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
        wide_out = [t.double() for t in outputs_of(wide, args, seed)]
    except Exception:
        return plain
    if [t.shape for t in wide_out] != [t.shape for t in expected]:
        return plain
    out = []
    for w, p, e in zip(wide_out, plain, expected):
        # A random reference (dropout) draws other numbers in float64: then float32 is the oracle.
        rms = float(p.square().mean().sqrt()) if p.numel() else 0.0
        agrees = bool(((w - p).abs() <= 0.05 * rms + 0.05 * p.abs()).all())
        out.append(w if agrees and e.is_floating_point() else p)
    return out


def allowed_error(expected, oracle):
    relative, share = TOLERANCE.get(str(expected.dtype).removeprefix("torch."), (1e-3, 1e-4))
    finite = oracle[torch.isfinite(oracle)]
    rms = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
    if expected.is_complex():
        expected = torch.view_as_real(expected)
    own = (expected.double() - oracle).abs()
    own = own[torch.isfinite(own)]
    floor = ERROR_FLOOR * (float(own.max()) if own.numel() else 0.0)
    return relative * oracle.abs() + share * rms + floor


def compare(prepared, header, blob):
    """The verdict on one candidate's outputs."""
    report = {"wrong": None, "max_abs_error": 0.0, "kernelbench_1e2": True, "kernelbench_1e4": True}
    draws = header.get("draws")
    if not isinstance(draws, list) or len(draws) != len(prepared.draws):
        raise ValueError("another number of draws")

    def wrong(message):
        if report["wrong"] is None:
            report["wrong"] = message

    for n, (draw, entries) in enumerate(zip(prepared.draws, draws)):
        if not isinstance(entries, list) or len(entries) != len(draw.expected):
            wrong(f"draw {n}: {len(entries)} output tensors, expected {len(draw.expected)}")
            report["kernelbench_1e2"] = report["kernelbench_1e4"] = False
            report["max_abs_error"] = math.inf
            continue
        for i, (entry, want) in enumerate(zip(entries, draw.expected)):
            got = frames.tensor_from(entry, blob)
            where = f"draw {n} ({draw.kind}), output {i}"
            if got.shape != want.shape:
                wrong(f"{where}: shape {list(got.shape)}, expected {list(want.shape)}")
                complaint, error, close = "shape", math.inf, (False, False)
            else:
                close = tuple(allclose(got, want, tol) for tol in (1e-2, 1e-4))
                if got.dtype != want.dtype:
                    wrong(f"{where}: dtype {got.dtype}, expected {want.dtype}")
                    complaint, error = "dtype", math.inf
                else:
                    complaint, error = draw.check(i, got)
            if complaint:
                wrong(f"{where}: {complaint}")
            if not error <= report["max_abs_error"]:
                report["max_abs_error"] = error
            if draw.kind == NOMINAL:
                report["kernelbench_1e2"] &= close[0]
                report["kernelbench_1e4"] &= close[1]
    if not math.isfinite(report["max_abs_error"]):
        report["max_abs_error"] = None
    return report


def allclose(got, want, tol):
    try:
        return bool(torch.allclose(got, want.to(got.dtype), atol=tol, rtol=tol))
    except RuntimeError:
        return False


def main():
    # Not to be looked into by another process of the same user (PR_SET_DUMPABLE).
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    # Frames go through private duplicates: a task that prints must not write into the protocol.
    source, sink = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    secret, prepared = None, None
    while True:
        frame = frames.read_frame(source)
        if frame is None:
            return
        header, blob = frame
        began = time.perf_counter()
        try:
            op = header["op"]
            if op == "hello":
                secret = bytes.fromhex(header["secret"])
                reply, out = {"ok": True, "torch": torch.__version__, "pid": os.getpid()}, b""
            elif op == "prepare":
                prepared = None
                prepared = Prepared(secret, header["task"], header["nonce"], header["source"])
                reply = {"ok": True, "job": prepared.job, "notes": prepared.notes,
                         "output_bytes": prepared.output_bytes}
                out = prepared.blob
            elif op == "compare":
                try:
                    reply, out = {"ok": True, **compare(prepared, header, blob)}, b""
                except (ValueError, KeyError, TypeError, RuntimeError, OverflowError) as e:
                    # The candidate's frame does not describe tensors: its doing, not ours.
                    reply, out = {"ok": True, "malformed": str(e)}, b""
            else:
                raise ValueError(op)
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
