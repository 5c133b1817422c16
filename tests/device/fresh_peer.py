"""A peer of `troupe bench executor --device cuda`: KernelBench's protocol for one candidate in a process of its own.

    fresh_peer.py TASK CANDIDATE [--device cpu]

One JSON line: verdict (passed, wrong, compile_error, error), speedup, candidate_us, reference_us, note, wall_ms (from this
script's first line to the verdict; the start of Python and the end of the process are the caller's to add).
"""
import time

STARTED = time.perf_counter()

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import protocol


def main():
    args = protocol.arguments("KernelBench's protocol in a fresh process", ("task", {}), ("candidate", {}))
    report = protocol.results()

    import torch

    with torch.no_grad():
        reference = protocol.Reference(args.task, args.device, args.trials)
    line = protocol.evaluate(reference, args.candidate, "candidate", args.device, args.trials)
    line["wall_ms"] = (time.perf_counter() - STARTED) * 1e3
    report(line)


if __name__ == "__main__":
    main()
