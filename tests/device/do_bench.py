"""Speed-ups by `triton.testing.do_bench`, against which those of `troupe bench executor` are compared.

    do_bench.py [--device cpu] < lines of {"task": PATH, "candidate": PATH}

For candidates that are known to be right, those of a task one after the other. Three repetitions of reference and candidate in
turn, each the median of `do_bench(warmup=25, rep=100)`; one JSON line a candidate: the three medians of each side in
microseconds, and the speed-up of their medians.
"""
import json
import os
import statistics
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import protocol

REPETITIONS = 3


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


def measure(model, new, inputs, device, line):
    new(*inputs)  # Compiles, and tunes.
    protocol.synchronize(device)
    for _ in range(REPETITIONS):
        line["reference_us"].append(median_us(lambda: model(*inputs), device))
        line["candidate_us"].append(median_us(lambda: new(*inputs), device))
    line["speedup"] = statistics.median(line["reference_us"]) / statistics.median(line["candidate_us"])


def main():
    args = protocol.arguments("speed-ups by triton.testing.do_bench", trials=False)
    report = protocol.results()

    import torch

    known = None
    with torch.no_grad():
        for number, request in enumerate(map(json.loads, filter(str.strip, sys.stdin))):
            line = {"candidate": request["candidate"], "speedup": None, "reference_us": [], "candidate_us": [], "note": None}
            try:
                if request["task"] != known:
                    known = None
                    task = protocol.load_task(request["task"], args.device, f"task_{number}")
                    model = protocol.build(task.Model, task, args.device)
                    inputs = protocol.seeded(args.device, task.get_inputs, protocol.SEED)
                    known = request["task"]
                module = protocol.load(request["candidate"], f"candidate_{number}")
                measure(model, protocol.build(module.ModelNew, task, args.device), inputs, args.device, line)
            except Exception as error:
                line["note"] = f"{type(error).__name__}: {error}"[:300]
            report(line)


if __name__ == "__main__":
    main()
