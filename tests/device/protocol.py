"""What the peers of `troupe bench executor --device cuda` share: KernelBench's protocol for one task and one candidate.

Public seed 42 before the weights of `Model` and again before those of `ModelNew`; five correctness trials on fresh inputs,
reference first, the candidate on the same tensors, shape and `allclose(1e-2)`; then CUDA events around single calls: 3
warm-ups, 100 trials, a device synchronisation each, no flush of the L2 cache, the mean. Everything in one process, nothing
isolated: for candidates that are trusted. Inputs and weights are made on the device, which is faster than KernelBench's way.

`--device cpu` is for tests of the scripts themselves: Triton's interpreter, `INTERPRETER_SHAPES`, the wall clock.
"""
import argparse
import atexit
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time

SEED = 42
CORRECTNESS_TRIALS = 5
TOLERANCE = 1e-2
WARM_UPS = 3
CPU_TRIALS = 3  # A call in the interpreter takes milliseconds and is no measurement anyway.

# Exceptions of Python's that mean the candidate's text is no program.
NOT_A_PROGRAM = (SyntaxError, ImportError)

# Cache folders that this process made.
made = []


def arguments(description, *positional, trials=True, flags=()):
    """Command line, then the environment that Triton reads when it is imported: call before importing torch."""
    parser = argparse.ArgumentParser(description=description)
    for name, options in positional:
        parser.add_argument(name, **options)
    for name, explained in flags:
        parser.add_argument(name, action="store_true", help=explained)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    if trials:
        parser.add_argument("--trials", type=int, help="timed calls of each side (100; on a CPU 3)")
    args = parser.parse_args()
    if trials and args.trials is None:
        args.trials = 100 if args.device == "cuda" else CPU_TRIALS
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    if "TRITON_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="triton-cache-")
        os.environ["TRITON_CACHE_DIR"] = folder
        made.append(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return args


def results():
    """A file for JSON lines. What a candidate prints goes to stderr instead."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout.flush()
    os.dup2(2, 1)
    return lambda value: print(json.dumps(value), file=out, flush=True)


def leave(code):
    """Ends without Python's own tidying, which would ask a broken device to free what it holds."""
    folder = os.environ.get("TRITON_CACHE_DIR", "")
    if folder in made:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def load_task(path, device, name="task"):
    task = load(path, name)
    if device == "cpu":
        for constant, value in task.INTERPRETER_SHAPES.items():
            assert isinstance(getattr(task, constant), int), f"{path}: no size {constant}"
            setattr(task, constant, value)
    return task


def seeded(device, make, seed):
    """What `make` returns with this seed and with the device as torch's default, which forward does not run under."""
    import torch

    torch.manual_seed(seed)
    with torch.device(device):
        return make()


def build(cls, task, device):
    init = seeded(device, task.get_init_inputs, SEED)
    return seeded(device, lambda: cls(*init), SEED).to(device)


def synchronize(device):
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def is_compile_error(error):
    """Whether Triton raised it, or it is the cause of one that did, or the text is no Python."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, NOT_A_PROGRAM) or type(error).__module__.startswith("triton."):
            return True
        error = error.__cause__ or error.__context__
    return False


def correct(task, model, new, device):
    """All trials are run, also after a wrong one; another shape ends it."""
    import torch

    torch.manual_seed(SEED)
    seeds = [int(torch.randint(0, 2**32 - 1, (1,))) for _ in range(CORRECTNESS_TRIALS)]
    right = 0
    for seed in seeds:
        inputs = seeded(device, task.get_inputs, seed)
        want = model(*inputs)
        synchronize(device)
        got = new(*inputs)
        synchronize(device)
        if want.shape != got.shape:
            return False
        right += bool(torch.allclose(want, got, atol=TOLERANCE, rtol=TOLERANCE))
    return right == len(seeds)


def mean_us(model, task, device, trials):
    import torch

    inputs = seeded(device, task.get_inputs, SEED)
    for _ in range(WARM_UPS):
        model(*inputs)
    synchronize(device)
    total = 0.0
    for _ in range(trials):
        if device == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            model(*inputs)
            end.record()
            torch.cuda.synchronize()
            total += start.elapsed_time(end) * 1e3
        else:
            before = time.perf_counter()
            model(*inputs)
            total += (time.perf_counter() - before) * 1e6
    return total / trials


class Reference:
    """A task, its model, and how long that takes; measured when it is first asked for."""

    def __init__(self, path, device, trials, name="task"):
        self.task = load_task(path, device, name)
        self.model = build(self.task.Model, self.task, device)
        self.device, self.trials = device, trials
        self.us = None

    def mean_us(self):
        if self.us is None:
            self.us = mean_us(self.model, self.task, self.device, self.trials)
        return self.us


def evaluate(reference, path, name, device, trials):
    """The fields of a candidate's line, but for `wall_ms`. A fault of the task's is not caught."""
    import torch

    line = {"verdict": "error", "speedup": None, "candidate_us": None, "reference_us": None, "note": None}
    try:
        with torch.no_grad():
            new = build(load(path, name).ModelNew, reference.task, device)
            if not correct(reference.task, reference.model, new, device):
                line["verdict"] = "wrong"
                return line
            line["candidate_us"] = mean_us(new, reference.task, device, trials)
            line["reference_us"] = reference.mean_us()
            line["speedup"] = line["reference_us"] / line["candidate_us"]
            line["verdict"] = "passed"
    except Exception as error:
        line["verdict"] = "compile_error" if is_compile_error(error) else "error"
        line["note"] = f"{type(error).__name__}: {error}"[:300]
    finally:
        sys.modules.pop(name, None)
    return line
