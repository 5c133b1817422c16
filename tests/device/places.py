"""What a call's time owes to where its tensors are: one process on an idle GPU, each way beside `do_bench`.

    places.py [--device cpu] [--rows N] [--repeats N] CANDIDATE ..

For candidates of this folder, which are known to be right. Calls are timed as the harness does (`sandbox/python/device.py`): clearings of the
cache, event, call, event, twelve of them queued; the first of each does not count. The ways:

    one          the same inputs for every call, outputs thrown away: as `do_bench`
    ring         inputs that no neighbouring call has, in torch's memory
    ring_kept    and outputs kept, so that every call's are elsewhere
    box          as `ring_kept`, inputs in memory that two processes can map (`cuMemCreate`), each at the start of its part
    box_random   and each at a random distance from there, in steps of 512 bytes: what a candidate gets
    box_page     and in steps of 2 MiB
    box_touched  as `box_random`, after a kernel that reads one word in every 64 KiB of the inputs, between the clearing and the event
    one_random   one place, in the box, at a random distance

The reference of a lease is timed in `ring_kept`, a candidate in `box_random`. A JSON line for each candidate: medians in microseconds, and
speed-ups of those pairs.
"""
import json
import os
import pathlib
import random
import re
import statistics
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "sandbox" / "python")]

import do_bench
import protocol

SETS, QUEUED, FLUSHES = 8, 12, 6
PAGE, STEP = 2 << 20, 512
TOUCH = 64 << 10
WAYS = ("one", "ring", "ring_kept", "box", "box_random", "box_page", "box_touched", "one_random")


def with_rows(path, rows, into):
    """The task with `rows` times its first size."""
    text = path.read_text()
    text = re.sub(r"^([A-Z]+) = (\d+)$", lambda m: f"{m[1]} = {int(m[2]) * rows}", text, count=1, flags=re.M)
    to = pathlib.Path(into) / path.name
    to.write_text(text)
    return to


class Gpu:
    """Timed calls on torch's current stream."""

    def __init__(self):
        import torch

        import device
        self.where = device.up("cuda")
        self.torch, self.junk = torch, self.where.junk
        self.box = None

    def space(self, size):
        """A box of so many bytes."""
        if self.box is None or self.box.numel() < size:
            self.done()
            self.fd, self.box = self.where.make(size)
        return self.box

    def done(self):
        if self.box is not None:
            self.where.drop(self.box)
            os.close(self.fd)
            self.box = None

    def burst(self, calls, touched, kept):
        torch, events, held = self.torch, [], []
        torch.cuda.synchronize()
        for n, (call, inputs) in enumerate(calls):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(FLUSHES * (1 + (n == 0))):
                self.junk.zero_()
            if touched:
                for t in inputs:
                    t.view(-1).view(torch.uint8)[::TOUCH].sum()
            start.record()
            out = call()
            end.record()
            events.append((start, end))
            if kept:
                held.append(out)
            del out
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in events[1:]]


class Processor:
    """In its place, for a rehearsal: nothing that it says is a time."""

    def __init__(self):
        import torch
        self.torch = torch

    def space(self, size):
        return self.torch.zeros(size, dtype=self.torch.uint8)

    def done(self):
        pass

    def burst(self, calls, touched, kept):
        held = []
        for call, inputs in calls[:2]:
            if touched:
                for t in inputs:
                    t.view(-1).view(self.torch.uint8)[::TOUCH].sum()
            held.append(call())
        return [1.0]


def placed(torch, memory, sets, step):
    """Copies of `sets` in `memory`, each tensor in a part of its own, at a random multiple of `step` from its start, or at it."""
    at, out = 0, []
    for inputs in sets:
        row = []
        for t in inputs:
            if not isinstance(t, torch.Tensor):
                row.append(t)
                continue
            start = at + (step * random.randrange(PAGE * 4 // step) if step else 0)
            copy = memory[start: start + t.nbytes].view(t.dtype).view(t.shape)
            copy.copy_(t)
            row.append(copy)
            at += -(-t.nbytes // PAGE) * PAGE + 4 * PAGE
        out.append(row)
    return out


def measure(gpu, model, sets, way, repeats):
    torch = gpu.torch
    size = sum(-(-t.nbytes // PAGE) * PAGE + 4 * PAGE for s in sets for t in s if isinstance(t, torch.Tensor)) + PAGE
    times = []
    for _ in range(repeats):
        made = sets
        if way.startswith("box") or way == "one_random":
            step = {"box": 0, "box_page": PAGE}.get(way, STEP)
            made = placed(torch, gpu.space(size), sets, step)
        if way in ("one", "one_random"):
            made = made[:1]
        calls = []
        for n in range(QUEUED + 1):
            inputs = made[n % len(made)]
            tensors = [t for t in inputs if isinstance(t, torch.Tensor)]
            calls.append((lambda inputs=inputs: model(*inputs), tensors))
        for call, _ in calls[:3]:
            call()
        times += gpu.burst(calls, way == "box_touched", way in WAYS[2:7])
    return statistics.median(times)


def main():
    args = protocol.arguments("what a call's time owes to where its tensors are",
                              ("candidates", dict(nargs="+")), ("--rows", dict(type=int, default=4)),
                              ("--repeats", dict(type=int, default=10)), trials=False)
    report = protocol.results()

    import torch

    gpu = Gpu() if args.device == "cuda" else Processor()
    folder = tempfile.TemporaryDirectory()
    with torch.no_grad():
        for number, name in enumerate(args.candidates):
            path = HERE / "candidates" / f"{name}.py"
            task = HERE / "tasks" / f"{name.split('__')[0]}.py"
            task = task if args.device == "cpu" else with_rows(task, args.rows, folder.name)
            task = protocol.load_task(str(task), args.device, f"task_{number}")
            model = protocol.build(task.Model, task, args.device)
            new = protocol.build(protocol.load(str(path), f"candidate_{number}").ModelNew, task, args.device)
            sets = [protocol.seeded(args.device, task.get_inputs, n) for n in range(SETS)]
            new(*sets[0])
            us = {"do_bench": [do_bench.median_us(lambda: m(*sets[0]), args.device) for m in (model, new)]}
            for way in WAYS:
                us[way] = [measure(gpu, m, sets, way, args.repeats) for m in (model, new)]
            us["do_bench_again"] = [do_bench.median_us(lambda: m(*sets[0]), args.device) for m in (model, new)]
            base = us["do_bench"][0] / us["do_bench"][1]
            off = {way: round(100 * (r / c / base - 1), 2) for way, (r, c) in us.items()}
            off["lease"] = round(100 * (us["ring_kept"][0] / us["box_random"][1] / base - 1), 2)
            off["both_random"] = off["box_random"]
            report({"candidate": name, "us": {k: [round(x, 2) for x in v] for k, v in us.items()}, "off_percent": off})
            gpu.done()
            sets = None


if __name__ == "__main__":
    main()
