"""One candidate on a device, in its own fork: import and compile without the device, then one command after the other.

Commands come as frames on a pipe of Rust's: `up`, `call`, `ablate`, `burst`; each is answered by one frame. Everything this
process says is the candidate's word: outputs are read from the box by the referee, times are held against the host's clock.
"""
import contextlib
import os
import signal
import time

import torch
import triton
from triton.runtime.autotuner import Autotuner

import box
import child
import device
import frames
import interp
import landlock
import memory
import outputs
import plain
import shim
import standin
import watch

# Bytes of compiled kernels that are handed over, to be had again.
MAX_COMPILED = 32 << 20
# Bytes of a weight that is looked at before and after a checked call, whether it changes: what counts calls is small.
MAX_FIXED = 1 << 20
# For choosing among a candidate's configurations, milliseconds; Triton's own are 25 and 100.
TUNE_WARM_MS, TUNE_MS = 5, 40


class Launches:
    """What was launched on the device since `reset`."""

    def __init__(self):
        self.watcher, self.idle, self.counting = None, False, False
        self.reset()

    def reset(self):
        self.count, self.bytes, self.signatures = 0, 0, []

    def saw(self, name, grid, values):
        self.count += 1
        given = list(watch.tensors(values))
        self.bytes += sum(t.nbytes for t in given)
        if self.watcher is not None:
            self.watcher.kernel(values)
        if len(self.signatures) < interp.MAX_SIGNATURES:
            self.signatures.append(interp.signature(name, grid, values))


seen = Launches()


def counted(launcher):
    """Triton's launcher, counting."""
    class Counted(launcher):
        def __init__(self, src, metadata):
            super().__init__(src, metadata)
            self.name = getattr(getattr(src, "fn", None), "__name__", None) or metadata.name

        def __call__(self, x, y, z, stream, function, *rest):
            if seen.counting and 0 not in (x, y, z):
                seen.saw(self.name, (x, y, z), rest[standin.HEAD_ARGUMENTS - 2:])
            if not seen.idle:
                super().__call__(x, y, z, stream, function, *rest)
    return Counted


def compiled_files(folder):
    """What compiling has left in a cache folder: `[[name, length], ..]` and the contents."""
    files, parts = [], []
    for base, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(base, name)
            with open(path, "rb") as f:
                parts.append(f.read())
            files.append([os.path.relpath(path, folder), len(parts[-1])])
    return files, b"".join(parts)


def put_compiled(folder, known, blob):
    """What the same candidate compiled before."""
    at = known["at"]
    for name, length in known["files"]:
        path = os.path.normpath(os.path.join(folder, name))
        if not path.startswith(folder + os.sep):
            raise ValueError(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(blob[at: at + length])
        at += length


def compile_in_fork(source_path, job, blob, say):
    """Imports and compiles in a process of its own: what it patches to do so without a device ends with it. It cannot open the
    device's files: nobody has let it onto the device yet. Returns whether there is something to run."""
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == -signal.SIGKILL:
            # The same rule as for this process: the machine may have run out of memory.
            os.kill(os.getpid(), signal.SIGKILL)
        return code == 0
    phase, code = "import", 1
    try:
        landlock.without_nodes()
    except BaseException as e:
        # Before any candidate code: ours. Believed only when nothing else came before it.
        say({"event": "unconfined", "message": f"{type(e).__name__}: {e}"})
        os._exit(1)
    say({"event": "started"})
    try:
        standin.become(job["device"])
        shim.install()
        standin.install()
        with shim.CudaIsCpu(lambda t: None):
            module = child.load(source_path, "candidate")
            say({"event": "imported"})
            phase = "compile"
            model = child.build(module, job, [], blob)
            torch.default_generator.manual_seed(job["seed"])
            with torch.no_grad():
                model(*frames.unpack(job["compile"], box.Shapes()))
        if standin.count == 0:
            raise child.Reject("no_launch", "no Triton kernel was launched")
        say({"event": "compiled", "launches": [entry[:2] for entry in standin.launches], "signatures": []})
        code = 0
    except child.Reject as e:
        say({"event": "failed", "phase": phase, "kind": e.kind, "message": str(e)})
    except BaseException as e:
        kind, message = child.describe(e)
        say({"event": "failed", "phase": phase, "kind": kind, "message": message})
    finally:
        os._exit(code)


class OnHost:
    """Kernels are interpreted."""

    def __init__(self, path):
        shim.install()
        standin.install()
        interp.enter()
        with self.mode():
            self.module = child.load(path, "candidate")

    def mode(self):
        return shim.CudaIsCpu(lambda t: None)

    making = mode

    def begin(self, watcher, idle):
        interp.reset(watcher, set())
        interp.ablated = idle

    def end(self):
        interp.watch, interp.ablated = None, False
        return {"launches": interp.launches, "kernel_bytes": memory.traffic, "signatures": list(interp.signatures)}


class OnCuda:
    """Kernels run."""

    def __init__(self, path):
        from triton.backends.nvidia.driver import CudaDriver
        standin.with_a_device()
        driver = CudaDriver()
        driver.launcher_cls = counted(driver.launcher_cls)

        def benchmarker():
            from triton.testing import do_bench
            return lambda fn, quantiles=None, **_: do_bench(fn, TUNE_WARM_MS, TUNE_MS, quantiles=quantiles)

        driver.get_benchmarker = benchmarker
        triton.runtime.driver.set_active(driver)
        outputs.device_type = "cuda"
        shim.see_texts()
        self.module = child.load(path, "candidate")

    def mode(self):
        # Not a default device: torch would ask it at every call, in every launch, while candidates are timed.
        return contextlib.nullcontext()

    def making(self):
        """While a model is made: as if it were moved to the device afterwards."""
        return torch.device("cuda")

    def begin(self, watcher, idle):
        seen.reset()
        # It is told of single numbers that are read as text.
        interp.watch = watcher
        seen.watcher, seen.idle, seen.counting = watcher, idle, True

    def end(self):
        interp.watch, seen.watcher, seen.idle, seen.counting = None, None, False, False
        return {"launches": seen.count, "kernel_bytes": seen.bytes, "signatures": list(seen.signatures)}


class Running:
    """The candidate's model, on the device."""

    def __init__(self, path, job, blob, box_fd):
        self.job, self.blob = job, blob
        self.steps, lap = {}, time.perf_counter()

        def step(name):
            nonlocal lap
            self.steps[name] = (time.perf_counter() - lap) * 1e3
            lap = time.perf_counter()

        self.where = device.up(job["device"]["kind"])
        if job["own_bytes"] and self.where.kind == "cuda":
            # Against accidents: who takes all the memory there is has everybody else fail, and is tried again alone. What undoes this
            # costs the others time, not their verdicts.
            torch.cuda.set_per_process_memory_fraction(min(1.0, job["own_bytes"] / torch.cuda.mem_get_info()[1]))
        step("context")
        self.memory = self.where.open(box_fd, job["box"]["size"])
        self.view = box.View(self.memory)
        step("box")
        self.on = OnCuda(path) if self.where.kind == "cuda" else OnHost(path)
        step("import")
        self.model = self.build(job["state"])
        step("build")

    def build(self, state):
        with self.on.making():
            torch.default_generator.manual_seed(self.job["build_seed"])
            kwargs = frames.unpack(self.job["init_kwargs"], self.blob)
            model = self.on.module.ModelNew(*frames.unpack(self.job["init"], self.blob), **kwargs)
            if plain.is_module(model):
                torch.nn.Module.to(model, self.where.torch)
            child.built[id(model)] = child.Built(model, [(k, frames.unpack(v, self.view)) for k, v in state])
        self.where.sync()
        return model

    def call(self, draw, idle=False):
        """One checked forward: what it returned stands in the box, what it did is in the answer."""
        model = self.model if draw["state"] is None else self.build(draw["state"])
        args = frames.unpack(draw["inputs"], self.view)
        fixed = [(t, t.clone()) for t in child.built[id(model)].fixed(draw["moving"]) if t.nbytes <= MAX_FIXED]
        watcher = watch.Watch(watch.tensors(args), plain.weights(model), draw["layout"], idle=idle)
        self.on.begin(watcher, idle)
        shim.escaped.clear()
        tensors, tree, raised = [], "", None
        try:
            with self.on.mode(), watcher:
                tensors, tree = outputs.flatten(child.forward(model, draw, args))
        except Exception as e:
            # A fault of the device is not an answer to an odd shape.
            if not (idle or draw["may_raise"]) or "CUDA error" in str(e):
                raise
            raised = child.describe(e)[1]
        finally:
            evidence = {**self.on.end(), "computed": [], "bytes": 0, "reads": 0}
            for name, size in shim.escaped.items():
                watcher.note(name, size)
            evidence.update(watcher.report())
        if evidence["launches"] == 0 and raised is None and not idle:
            raise child.Reject("no_launch", f"a checked forward launched no Triton kernel ({child.mode(draw)})")
        others = [outputs.span(t) for t in watch.tensors(args)] + outputs.weights_of(model)
        said = {"tree": tree, "raised": raised, "evidence": evidence,
                "outputs": self.put(tensors, draw["set"], others),
                "weights": sum(not child.oracle.same_bits(t, was) for t, was in fixed)}
        if model is not self.model:
            del child.built[id(model)]
        self.where.sync()
        return said

    def put(self, tensors, number, others):
        shelf, entries = box.Shelf(self.memory, self.job["box"]["outputs"][number]), []
        for tensor in tensors:
            try:
                entry = shelf.add(tensor)
            except box.Full:
                entry = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "at": 0,
                         "len": -1}
            entries.append({**entry, **outputs.oddities(tensor, others)})
        return entries

    def tune(self):
        """What was chosen while others used the device is chosen again."""
        for value in list(vars(self.on.module).values()):
            if isinstance(value, Autotuner):
                value.cache.clear()

    def burst(self, heat, draws, go, one_place):
        """Timed calls: microseconds of each and until the device was at rest after it; then the outputs. What `draws` describe is
        not in the box yet: it is put there once this process has warmed up on `heat`, and `go` returns when it is. In a control
        of the bench all calls are one and the same: what the last one returned is all that is kept."""
        calls = [(d, frames.unpack(d["inputs"], self.view)) for d in draws]
        thrown_away = frames.unpack(heat["inputs"], self.view)
        model, timed, last = self.model, self.where.timed, []

        def asked(draw, args):
            def call():
                # What a checked call does before and after it, a timed one does as well, or it could be told from it.
                return child.forward(model, draw, args)

            def alone():
                last.clear()
                last.append(call())
            return alone if one_place else call

        with self.on.mode(), torch.no_grad():
            device.heat(lambda: child.forward(model, {**draws[0], "seed": heat["seed"]}, thrown_away))
            self.where.sync()
            yield {"event": "ready"}
            # The host's clock runs from its sending.
            go()
            made, times = timed([asked(*call) for call in calls], device.synced(len(calls)))
        # Told at once.
        yield {"event": "timed", "times": times}
        if one_place:
            made = last * len(calls)
        # Only now: an answer that a later call overwrites was never the caller's.
        found = [self.put(outputs.flatten(out)[0], d["set"], []) for out, (d, _) in zip(made, calls)]
        evidence = self.looked_at(*calls[-1])
        self.where.sync()
        yield {"event": "outputs", "outputs": found, "evidence": evidence}

    def looked_at(self, draw, args):
        """What torch does in a call like those that were timed: nobody looks while the clock runs, and calls can be counted."""
        watcher = watch.Watch(watch.tensors(args), plain.weights(self.model), draw["layout"], lambda t: None)
        self.on.begin(watcher, False)
        shim.escaped.clear()
        try:
            with self.on.mode(), watcher:
                child.forward(self.model, draw, args)
        finally:
            self.on.end()
        for name, size in shim.escaped.items():
            watcher.note(name, size)
        return watcher.report()


def run(job_fd, result, command, box_fd):
    began = time.perf_counter()
    source, job, blob = child.read_job(job_fd)
    os.close(job_fd)

    def say(header, blob=b""):
        child.flush()
        frames.write_frame(result, {**header, "ms": (time.perf_counter() - began) * 1e3}, blob)

    path = os.path.join(os.getcwd(), "candidate.py")
    with open(path, "w") as f:
        f.write(source)
    folder = os.environ["TRITON_CACHE_DIR"]
    if "cache" in job:
        put_compiled(folder, job["cache"], blob)
    if not compile_in_fork(path, job, blob, say):
        return
    files, contents = ([], b"") if "cache" in job else compiled_files(folder)
    if len(contents) > MAX_COMPILED:
        files, contents = [], b""
    say({"event": "cached", "files": files}, contents)
    running = None
    try:
        while True:
            frame = frames.read_frame(command)
            if frame is None:
                return
            order = frame[0]
            if order["op"] == "up":
                running = Running(path, job, blob, box_fd)
                say({"event": "up", "steps": running.steps})
            elif order["op"] == "call":
                say({"event": "called", **running.call(order["draw"])})
            elif order["op"] == "ablate":
                say({"event": "called", **running.call(order["draw"], idle=True)})
            elif order["op"] == "tune":
                running.tune()
                say({"event": "tuned"})
            elif order["op"] == "burst":
                def go():
                    frame = frames.read_frame(command)
                    if frame is None or frame[0]["op"] != "go":
                        raise EOFError("the burst was given up")
                for answer in running.burst(order["heat"], order["calls"], go, order["one_place"]):
                    say(answer)
            else:
                return
    except child.Reject as e:
        say({"event": "failed", "phase": "run", "kind": e.kind, "message": str(e)})
    except BaseException as e:
        kind, message = child.describe(e)
        kind = "memory" if kind == "failed" and "out of memory" in str(e) else kind
        say({"event": "failed", "phase": "run", "kind": kind, "message": message})
