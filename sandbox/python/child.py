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

import frames
import interp
import shim
import standin

MAX_MESSAGE = 2000


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


def build(module, job, blob):
    torch.default_generator.manual_seed(job["build_seed"])
    init = frames.unpack(job["init"], blob)
    kwargs = frames.unpack(job["init_kwargs"], blob)
    model = module.ModelNew(*init, **kwargs)
    if isinstance(model, torch.nn.Module):
        note = adopt(model, [(k, frames.unpack(v, blob)) for k, v in job["state"]])
        if note:
            print(f"[troupe] {note}", file=sys.stderr)
    return model


def adopt(model, state):
    """Copies the reference's weights by name and shape, then what is left by shape in order of declaration."""
    own = dict(model.state_dict(keep_vars=True))
    left = []
    with torch.no_grad():
        for name, value in state:
            if name in own and own[name].shape == value.shape:
                own.pop(name).copy_(value)
            else:
                left.append((name, value))
        missing = []
        for name, value in left:
            match = next((k for k, t in own.items() if t.shape == value.shape), None)
            if match is None:
                missing.append(name)
            else:
                own.pop(match).copy_(value)
    return f"weights without a counterpart in ModelNew: {', '.join(missing)}" if missing else None


def forward(model, draw, blob):
    torch.default_generator.manual_seed(draw["seed"])
    with torch.no_grad():
        return model(*frames.unpack(draw["inputs"], blob))


def flatten(value):
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in flatten(v)]
    if isinstance(value, dict):
        return [t for k in value for t in flatten(value[k])]
    raise TypeError(f"forward returned a {type(value).__name__}, expected a torch.Tensor")


def flush():
    """The log is read when the last frame has come."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def tail(text):
    return text if len(text) <= MAX_MESSAGE else "..." + text[-MAX_MESSAGE:]


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
    if isinstance(error, SyntaxError):
        return "compile", tail(text)
    return "failed", tail("".join(traceback.format_exception(error, limit=-4)))


def run(job_fd, result):
    """Sends one frame per phase and the outputs last. A failure is a frame too; a crash is the end of the pipe."""
    began = time.perf_counter()
    source, job, blob = read_job(job_fd)
    os.close(job_fd)

    def say(header, blob=b""):
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
            forward(build(module, job, blob), unchecked, blob)
        if standin.count == 0:
            raise Reject("no_launch", "no Triton kernel was launched")
        say({"event": "compiled", "launches": standin.launches})
        phase = "run"
        del module
        interp.enter()
        held = []
        with shim.CudaIsCpu(shim.poison):
            model = build(load(path, "candidate"), job, blob)
            for draw in checked:
                before = interp.launches
                held.append(flatten(forward(model, draw, blob)))
                if interp.launches == before:
                    raise Reject("no_launch", "a checked forward launched no Triton kernel")
        # Written down only now: an answer that a later call overwrites was never the caller's.
        out = frames.Blob()
        draws = [[out.add(t) for t in tensors] for tensors in held]
        flush()
        say({"event": "outputs", "draws": draws}, out.bytes())
    except Reject as e:
        flush()
        say({"event": "failed", "phase": phase, "kind": e.kind, "message": str(e)})
    except BaseException as e:
        kind, message = describe(e)
        flush()
        say({"event": "failed", "phase": phase, "kind": kind, "message": message})
