"""Speed-ups by `triton.testing.do_bench`, against which those of `troupe bench executor` are compared.

    do_bench.py [--device cpu] [--controls] [--elsewhere] < lines of {"task": PATH, "candidate": PATH}

For candidates that are known to be right, those of a task one after the other. Reference, then candidate, each the median of
`do_bench(warmup=25, rep=100)`; one JSON line a candidate: both in microseconds, and the speed-up. A process says the same thing
when it is asked again and another process does not (1 to 2 % apart): whoever wants to know better starts it several times.

`do_bench` clears the cache before each call (256 MB), and launches the call meanwhile. Where launching takes longer than that, it
measures the host. There both sides get a longer clearing (1 GB), and the line says so: `host_bound`.

It calls with the same inputs each time, and each output takes the place of the one before. `--controls` measures both otherwise too:
`ring`, inputs of which no two neighbouring calls have the same; `ring_kept`, and outputs that are kept, so that the next one's is
elsewhere. What differs from `do_bench` as it is comes of the places.

Each candidate begins with memory as a process that measures nothing else has it: what others left would decide how far apart inputs and
outputs are, which is worth 5 % of what some kernels take. `--elsewhere` chooses that: it holds memory of a random size before a task's
inputs and again behind them.
"""
import collections
import contextlib
import gc
import itertools
import json
import os
import random
import statistics
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import protocol

REPETITIONS = 1
LONGER_FLUSH_BYTES = 1 << 30
HOST_CALLS = 20
# By how much the clearing has to be longer than launching.
SPARE = 1.25
# Pages of 2 MiB that are held at a time, at most.
HELD_PAGES = 128
# Sets of inputs of a control, as many as a burst of ours goes through (`SETS` in device_referee.py).
RING = 16


class Ring:
    """A model called on one set of inputs after the other; the last outputs are kept, or nothing is."""

    def __init__(self, model, sets, kept):
        self.model, self.sets = model, itertools.cycle(sets)
        self.held = collections.deque(maxlen=len(sets) if kept else 0)

    def __call__(self):
        self.held.append(self.model(*next(self.sets)))


def median_us(call, device):
    if device == "cpu":
        times = []
        for _ in range(protocol.CPU_TRIALS):
            before = time.perf_counter()
            call()
            times.append((time.perf_counter() - before) * 1e6)
        return statistics.median(times)

    from triton.testing import do_bench

    return do_bench(call, warmup=25, rep=100, return_mode="median") * 1e3


def host_us(call, device):
    """What the host takes to launch a call."""
    times = []
    for _ in range(HOST_CALLS):
        protocol.synchronize(device)
        before = time.perf_counter()
        call()
        times.append((time.perf_counter() - before) * 1e6)
    protocol.synchronize(device)
    return statistics.median(times)


@contextlib.contextmanager
def flush(longer):
    """With `do_bench`'s own clearing of the cache, or a longer one."""
    import torch
    import triton

    if not longer:
        yield
        return
    active = triton.runtime.driver.active
    own = active.get_empty_cache_for_benchmark
    active.get_empty_cache_for_benchmark = lambda: torch.empty(LONGER_FLUSH_BYTES // 4, dtype=torch.int, device="cuda")
    try:
        yield
    finally:
        active.get_empty_cache_for_benchmark = own


def flush_us():
    """What `do_bench`'s own clearing takes."""
    import torch
    import triton

    active = triton.runtime.driver.active
    cache, times = active.get_empty_cache_for_benchmark(), []
    for _ in range(HOST_CALLS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        active.clear_cache(cache)
        start.record()
        active.clear_cache(cache)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def measure(model, new, inputs, ring, device, line):
    new(*inputs)  # Compiles, and tunes.
    protocol.synchronize(device)
    if device == "cuda":
        slowest = max(host_us(lambda: model(*inputs), device), host_us(lambda: new(*inputs), device))
        line["host_bound"] = slowest * SPARE > flush_us()
    with flush(line["host_bound"]):
        repeat(model, new, inputs, device, line)
        for name, kept in (("ring", False), ("ring_kept", True)) if ring else ():
            found = line["controls"][name] = {"reference_us": [], "candidate_us": []}
            for side, called in (("reference_us", model), ("candidate_us", new)):
                found[side].append(median_us(Ring(called, ring, kept), device))
            found["speedup"] = found["reference_us"][0] / found["candidate_us"][0]


def repeat(model, new, inputs, device, line):
    for _ in range(REPETITIONS):
        line["reference_us"].append(median_us(lambda: model(*inputs), device))
        line["candidate_us"].append(median_us(lambda: new(*inputs), device))
    line["speedup"] = statistics.median(line["reference_us"]) / statistics.median(line["candidate_us"])


def forget(device):
    """Gives back what nobody holds."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def hold(held, wanted):
    """Holds memory, so that what comes next is elsewhere."""
    if wanted:
        import torch

        held.append(torch.empty(random.randrange(16, HELD_PAGES) << 21, dtype=torch.uint8, device="cuda"))


def main():
    flags = [("--controls", "also with other inputs at each call, and with outputs that are kept"),
             ("--elsewhere", "with memory held between inputs and outputs")]
    args = protocol.arguments("speed-ups by triton.testing.do_bench", trials=False, flags=flags)
    report = protocol.results()

    import torch

    known, held = None, []
    elsewhere = args.elsewhere and args.device == "cuda"
    with torch.no_grad():
        for number, request in enumerate(map(json.loads, filter(str.strip, sys.stdin))):
            line = {"candidate": request["candidate"], "speedup": None, "reference_us": [], "candidate_us": [],
                    "host_bound": False, "controls": {}, "note": None}
            try:
                if request["task"] != known:
                    known = ring = task = model = inputs = module = None
                    forget(args.device)
                    task = protocol.load_task(request["task"], args.device, f"task_{number}")
                    model = protocol.build(task.Model, task, args.device)
                    hold(held, elsewhere)
                    inputs = protocol.seeded(args.device, task.get_inputs, protocol.SEED)
                    hold(held, elsewhere)
                    if args.controls:
                        ring = [protocol.seeded(args.device, task.get_inputs, protocol.SEED + n) for n in range(RING)]
                    known = request["task"]
                module = None
                forget(args.device)
                module = protocol.load(request["candidate"], f"candidate_{number}")
                measure(model, protocol.build(module.ModelNew, task, args.device), inputs, ring, args.device, line)
            except Exception as error:
                line["note"] = f"{type(error).__name__}: {error}"[:300]
            report(line)


if __name__ == "__main__":
    main()
