"""One candidate, in its own fork: import, compile against the stand-in driver, then run in the interpreter.

Everything this process says is the candidate's word: Rust bounds it, the referee looks only at the output bytes.
"""
import importlib.util
import json
import mmap
import os
import struct
import sys
import time
import traceback

import torch
import triton
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

import combine
import frames
import interp
import memory
import oracle
import order
import outputs
import plain
import shim
import standin
import tuners
import watch

MAX_MESSAGE = 2000
# Calls without kernels, at least; up to twice as many, by the seed.
CALLS = 100
# After so many of them a candidate that reads numbers back has found no number any more that was not there in all the others.
SETTLED = 3


# What is known of each model that was built, by its address.
built = {}


class Reject(Exception):
    """A verdict of its own, for example that nothing was launched."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def read_job(fd):
    """`u64 source length | source | frame`, from a private mapping: what is done to it stays here."""
    size = os.fstat(fd).st_size
    data = memoryview(mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
    (source_len,) = struct.unpack("<Q", data[:8])
    at = 8 + source_len
    source = bytes(data[8:at]).decode()
    (head_len,) = struct.unpack("<I", data[at: at + 4])
    header = json.loads(bytes(data[at + 4: at + 4 + head_len]))
    return source, header, data[at + 4 + head_len + 8:]


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if not hasattr(module, "ModelNew"):
        raise Reject("failed", "the candidate defines no ModelNew")
    return module


def build(module, job, state, blob):
    torch.default_generator.manual_seed(job["build_seed"])
    init = frames.unpack(job["init"], blob)
    kwargs = frames.unpack(job["init_kwargs"], blob)
    model = module.ModelNew(*init, **kwargs)
    built[id(model)] = Built(model, [(k, frames.unpack(v, blob)) for k, v in state])
    return model


class Built:
    """A model's modes, and where the reference's weights are in it."""

    def __init__(self, model, state):
        self.model, self.modes, self.adopted = model, plain.Modes(model), []
        if plain.is_module(model):
            self.adopt(state)

    def adopt(self, state):
        """Copies the reference's weights by name and shape, then what is left by shape in order of declaration. What was copied
        to is known from then on as the reference's."""
        # Names and places; methods are those of tensors that the candidate does not have.
        own = {name: plain.alias(t) for name, t in plain.state(self.model).items()}
        left, missing = [], []

        def take(name, found, value):
            tensor = own.pop(found)
            tensor.copy_(value)
            self.adopted.append((name, tensor))

        with torch.no_grad():
            for name, value in state:
                if name in own and own[name].shape == value.shape:
                    take(name, name, value)
                else:
                    left.append((name, value))
            for name, value in left:
                match = next((k for k, t in own.items() if t.shape == value.shape
                              and t.is_floating_point() == value.is_floating_point()), None)
                if match is None:
                    missing.append(name)
                else:
                    take(name, match, value)
        if missing:
            print(f"[troupe] weights without a counterpart in ModelNew: {', '.join(missing)}", file=sys.stderr)

    def fixed(self, moving):
        """Weights that forward leaves as they are, as the reference does: all but those that it moves, such as running statistics. The
        model's other buffers are its own."""
        return [tensor for name, tensor in self.adopted if name not in moving]


def forward(model, draw, args):
    """One call, the same whether it is checked or timed."""
    tuners.turn(draw["seed"])
    combine.turn(draw["seed"])
    oracle.seed_everything(draw["seed"])
    built[id(model)].modes.set(draw["train"])
    with torch.set_grad_enabled(draw["grad"]):
        return model(*args)


def flush():
    """The log is read when the last frame has come."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def tail(text, head=""):
    """The end of a text that is too long, after what it begins with."""
    return text if len(text) <= MAX_MESSAGE else f"{head}..." + text[-MAX_MESSAGE:]


def describe(error):
    """(kind, message) of an exception."""
    chain, seen = error, error
    while chain is not None:
        if isinstance(chain, (CompilationError, OutOfResources, PTXASError)):
            return "compile", tail(f"{type(chain).__name__}: {chain}")
        seen, chain = chain, chain.__cause__ or chain.__context__
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "bad_alloc" in text or (
            isinstance(error, OSError) and error.errno == 12):
        return "memory", tail(text)
    if isinstance(error, outputs.NotAnAnswer):
        return "wrong", tail(str(error))
    if isinstance(error, SyntaxError):
        return "compile", tail(text)
    # torch's own errors end in pages of its dispatcher.
    return "failed", tail("".join(traceback.format_exception(error, limit=-4)), f"{text[:300]}\n")


class Session:
    """The run phase of one candidate: one model, one call per draw, everything kept until the last."""

    def __init__(self, module, job, blob):
        self.module, self.job, self.blob = module, job, blob
        self.model = build(module, job, job["state"], blob)
        self.trials, self.turned = [], False

    def check(self, draw):
        """One checked forward. An exception is an answer only where the draw says so."""
        model = self.model if draw["state"] is None else build(self.module, self.job, draw["state"], self.blob)
        earlier = self.trials[-1].args if draw["rewrite"] and self.trials else None
        trial = Trial(draw, self.blob, earlier)
        # Looked for once in each order: it costs a look at every element's writer.
        order.tracing = not self.trials or draw["backwards"]
        try:
            trial.call(model)
        except Exception as e:
            if not (draw["may_raise"] or draw["backwards"]):
                raise
            trial.raised = describe(e)[1]
        self.trials.append(trial)
        return trial

    def backwards(self, draw):
        """The first draw with programs in the other order. Nothing where no order can matter, or where one waits for another: a
        scan that looks back would do so for ever. The referee compares."""
        if not (order.atomics or order.overlapped):
            return None
        order.backwards = True
        try:
            trial = self.check(draw)
        finally:
            order.backwards = False
        if order.waited:
            self.trials.remove(trial)
            return None
        self.turned = True
        # A race by the numbers only where the right ones are not there by chance.
        seen = self.trials[0].evidence
        seen["raced"] = max(seen["raced"], trial.evidence["raced"])
        return trial

    def outputs(self):
        """Written down only now: an answer that a later call overwrites was never the caller's."""
        out = frames.Blob()
        weights, held, draws = outputs.weights_of(self.model), [], []
        for trial in self.trials:
            others = [*trial.inputs, *weights, *held]
            entries = [{**out.put(t, now), **outputs.oddities(t, others), "changed": now != then}
                       for t, then, now in zip(trial.tensors, trial.answer, map(frames.raw, trial.tensors))]
            held += [outputs.span(t) for t in trial.tensors]
            draws.append({"outputs": entries, "tree": trial.tree, "mutated": trial.mutated,
                          "weights": trial.overwritten, "raised": trial.raised})
        return draws if self.turned else [*draws, {"outputs": [], "skipped": True}], out.bytes()

    def ablated(self):
        """The first draw once more with every launch doing nothing: what kernels do not make stays as it was."""
        interp.ablated = True
        trial = Trial(self.trials[0].draw, self.blob, None)
        try:
            trial.call(self.model)
        except Exception:
            return None, b""
        out = frames.Blob()
        return [out.add(t) for t in trial.tensors], out.bytes()

    def anew(self, path):
        try:
            return build(load(path, "candidate"), self.job, self.job["state"], self.blob)
        except Exception:
            return self.model

    def many_calls(self, path):
        """Many calls in which kernels do nothing cost little: whether the code around them counts calls shows in what it
        launches, and in what torch computes. Where numbers are read back, a new import is asked: to it all memory is zeros from its first
        call on, as it was when it was compiled, so that what it reads is always the same, too."""
        draw = self.trials[0].draw
        args = frames.unpack(draw["inputs"], self.blob)
        reads = any(t.evidence.get("reads") for t in self.trials)
        calls, first, other = CALLS + draw["seed"] % CALLS, [], None
        with shim.CudaIsCpu(torch.Tensor.zero_ if reads else lambda t: None) as host:
            shim.escaped.clear()
            model = self.anew(path) if reads else self.model
            seen = watch.Watch(watch.tensors(args), plain.weights(model), draw["layout"], host.fill, idle=True)
            with seen:
                for n in range(calls):
                    interp.reset(seen)
                    try:
                        forward(model, draw, args)
                    except Exception:
                        calls, first = n, []
                        break
                    seen.next_call()
                    if reads and n < SETTLED:
                        continue
                    if first and interp.signatures != first:
                        calls, other = n, list(interp.signatures)
                        break
                    first = list(interp.signatures)
            interp.watch = None
        for name, size in shim.escaped.items():
            seen.note(name, size)
        return {"calls": calls, "first": first, "other": other, "computed": seen.report()["computed"]}


class Trial:
    """One call of forward and what was seen of it. `earlier`: tensors whose memory gets this draw's contents."""

    def __init__(self, draw, blob, earlier):
        self.draw, self.raised, self.tensors, self.answer, self.tree = draw, None, [], [], ""
        self.mutated, self.overwritten = [], 0
        fresh = frames.unpack(draw["inputs"], blob)
        self.args = fresh if earlier is None else outputs.overwrite(earlier, fresh)
        self.pristine = [frames.raw(t) for t in watch.tensors(self.args)]
        self.inputs = [outputs.span(t) for t in watch.tensors(self.args)]
        self.evidence = {"launches": 0}

    def call(self, model):
        seen = watch.Watch(watch.tensors(self.args), plain.weights(model), layout=self.draw["layout"])
        # Not the model's other parameters and buffers: those may be where it counts.
        known = built[id(model)]
        fixed = [(t, frames.raw(t)) for t in known.fixed(self.draw["moving"])]
        interp.reset(seen, {watch.storage(t) for t in (*watch.tensors(self.args), *(t for _, t in known.adopted))})
        shim.escaped.clear()
        try:
            with seen:
                self.tensors, self.tree = outputs.flatten(forward(model, self.draw, self.args))
            # At once: what is done to them later was not done while somebody watched.
            self.answer = [frames.raw(t) for t in self.tensors]
        finally:
            interp.watch = None
            for name, size in shim.escaped.items():
                seen.note(name, size)
            self.evidence = {
                "launches": interp.launches, "kernel_bytes": memory.traffic,
                "remembered": memory.remembered(), "raced": order.raced, "stray_loads": memory.stray_loads,
                "stray_stores": memory.stray_stores, "signatures": list(interp.signatures),
                **seen.report()}
        self.overwritten = sum(frames.raw(t) != was for t, was in fixed)
        given = watch.tensors(self.args)
        self.mutated = [i for i, (t, was) in enumerate(zip(given, self.pristine)) if frames.raw(t) != was]


def compile_once(module, job, draw, blob):
    """Compiles what forward launches, then asks for the launches of a call that has nothing to compile any more."""
    model = build(module, job, job["state"], blob)
    forward(model, draw, frames.unpack(draw["inputs"], blob))
    first = [entry[:2] for entry in standin.launches]
    if standin.count == 0:
        raise Reject("no_launch", "no Triton kernel was launched")
    standin.reset()
    forward(model, draw, frames.unpack(draw["inputs"], blob))
    again = [interp.signature(*entry) for entry in standin.launches[:interp.MAX_SIGNATURES]]
    return first, again


def run(job_fd, result):
    """Sends one frame per phase, the outputs, and last the outputs without kernels. A failure is a frame too; a crash is
    the end of the pipe."""
    began = time.perf_counter()
    source, job, blob = read_job(job_fd)
    os.close(job_fd)

    def say(header, blob=b""):
        flush()
        frames.write_frame(result, {**header, "ms": (time.perf_counter() - began) * 1e3}, blob)

    say({"event": "started"})
    phase = "import"
    try:
        path = os.path.join(os.getcwd(), "candidate.py")
        with open(path, "w") as f:
            f.write(source)
        shim.install()
        standin.install()
        *checked, unchecked = job["draws"]
        with shim.CudaIsCpu(lambda t: t.zero_()):
            module = load(path, "candidate")
            say({"event": "imported"})
            phase = "compile"
            tuners.begin(job["build_seed"])
            launches, compiled = compile_once(module, job, unchecked, blob)
        say({"event": "compiled", "launches": launches, "signatures": compiled})
        phase = "run"
        del module
        interp.enter()
        tuners.begin(job["build_seed"])
        with shim.CudaIsCpu(shim.poison):
            session = Session(load(path, "candidate"), job, blob)
            for draw in checked:
                trial = session.backwards(draw) if draw["backwards"] else session.check(draw)
                if trial is None:
                    continue
                if trial.evidence["launches"] == 0 and draw["must_launch"] and trial.raised is None:
                    raise Reject("no_launch", f"a checked forward launched no Triton kernel ({mode(draw)})")
            draws, answer = session.outputs()
            # Who waits or fails in the other order has launched less there.
            seen = [t.evidence for t in session.trials if not t.draw["backwards"]]
            say({"event": "outputs", "draws": draws, "evidence": seen}, answer)
            phase = "ablation"
            entries, answer = session.ablated()
        say({"event": "ablated", "outputs": entries, **session.many_calls(path)}, answer)
    except Reject as e:
        say({"event": "failed", "phase": phase, "kind": e.kind, "message": str(e)})
    except BaseException as e:
        kind, message = describe(e)
        say({"event": "failed", "phase": phase, "kind": kind, "message": message})


def mode(draw):
    return f"{'mode as built' if draw['train'] else 'inference mode'}, grad {'on' if draw['grad'] else 'off'}"
