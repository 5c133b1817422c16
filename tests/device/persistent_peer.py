"""A peer of `troupe bench executor --device cuda`: KernelBench's protocol in one process for all candidates, no isolation.

    persistent_peer.py [--device cpu] < lines of {"task": PATH, "candidate": PATH}

It says `{"ready": true}` once torch, Triton and the device are up, then one JSON line a candidate with the fields of
`fresh_peer.py`; `wall_ms` is from the request to the verdict. References, and how long they take, are kept between
candidates. A fault of the device ends the process after the candidate's line, with exit code 3: the caller starts another. A
candidate that hangs is the caller's to end, with the process.
"""
import json
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import protocol

DEVICE_FAULT = 3


def faulty(device):
    """Whether the device answers no more: errors of kernels stay with the process."""
    try:
        protocol.synchronize(device)
        return False
    except Exception:
        return True


def main():
    args = protocol.arguments("KernelBench's protocol in one process for all candidates")
    report = protocol.results()

    import torch
    import triton  # noqa: F401  (what a candidate imports is there already)

    torch.ones(1, device=args.device).add_(1)
    protocol.synchronize(args.device)
    report({"ready": True})

    references = {}
    for number, request in enumerate(filter(str.strip, sys.stdin)):
        started = time.perf_counter()
        request = json.loads(request)
        path = request["task"]
        if path not in references:
            with torch.no_grad():
                references[path] = protocol.Reference(path, args.device, args.trials, f"task_{len(references)}")
        line = protocol.evaluate(references[path], request["candidate"], f"candidate_{number}", args.device, args.trials)
        line["wall_ms"] = (time.perf_counter() - started) * 1e3
        report(line)
        if line["verdict"] == "error" and faulty(args.device):
            protocol.leave(DEVICE_FAULT)


if __name__ == "__main__":
    main()
