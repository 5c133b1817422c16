"""The zygote: imports torch and Triton once, has never seen a secret, and forks one confined child per candidate.

Control messages are JSON packets on the socket in descriptor 0:
  in  {"op": "fork", "id", "home", "limits"} with descriptors [job, result, log], for a device also [commands, box]
  in  {"op": "end", "id"}
  in  {"op": "freeze" | "thaw", "id"}: no process of the child's runs, or all do again
  out {"event": "ready"} | {"event": "forked" | "refused", "id"} | {"event": "exited", "id"} | {"event": "ended", "id"}
"""
import gc
import json
import os
import select
import signal
import socket
import sys
import time

HARNESS = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HARNESS)

import cage
import confine
import landlock
import seccomp
import view

# How often a running candidate's processes and memory are counted.
WATCH_MS = 50
KILL_S = 30
# What a candidate may leave in its private directory, which is memory.
HOME_BYTES = 256 << 20


class Zygote:
    def __init__(self, control, bars, run, run_on_device):
        self.control, self.bars, self.parts, self.run = control, bars, bars.parts, run
        self.run_on_device = run_on_device
        self.current = None
        self.null = os.open(os.devnull, os.O_RDONLY)
        self.uid = bars.uid
        self.base = confine.address_space()
        self.base_memory = confine.private_memory("self")
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)

    def send(self, message):
        self.control.send(json.dumps(message).encode())

    def loop(self, versions):
        self.send({"event": "ready", **self.bars.report(), **versions})
        while True:
            events = self.poll.poll(WATCH_MS if self.current else None)
            for fd, _ in events:
                if fd == self.control.fileno():
                    data, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 5)
                    if not data:
                        self.kill()
                        return
                    self.handle(json.loads(data), fds)
                elif self.current and fd == self.current["pidfd"]:
                    self.poll.unregister(fd)
                    self.send({"event": "exited", "id": self.current["id"]})
            if self.current and not events:
                self.watch()

    def handle(self, message, fds):
        if message["op"] == "fork":
            try:
                self.fork(message, fds)
            except OSError as e:
                self.send({"event": "refused", "id": message["id"], "message": str(e)})
            finally:
                for fd in fds:
                    os.close(fd)
        elif message["op"] == "end":
            reply = {"event": "ended", "id": message["id"]}
            if self.current and self.current["id"] == message["id"]:
                reply.update(self.kill())
            self.send(reply)
        elif message["op"] in ("freeze", "thaw"):
            if self.current and self.current["id"] == message["id"]:
                self.strike(signal.SIGSTOP if message["op"] == "freeze" else signal.SIGCONT)
            self.send({"event": message["op"], "id": message["id"]})

    def fork(self, message, fds):
        uid = os.getuid() if self.uid is None else self.uid
        home = self.bars.home or message["home"]
        mounted = "mount" in self.parts and cage.mount_home(home, uid, HOME_BYTES)
        if self.bars.home and not mounted:
            raise OSError("no private directory could be mounted")
        if not mounted and self.uid is not None:
            os.chown(home, uid, uid)
        pid = os.fork()
        if pid == 0:
            try:
                self.in_child(message["limits"], home, *fds)
            finally:
                os._exit(0)
        self.current = {
            "id": message["id"], "pid": pid, "pidfd": os.pidfd_open(pid), "limits": message["limits"], "over": None,
            "mounted": home if mounted else None}
        self.poll.register(self.current["pidfd"], select.POLLIN)
        self.send({"event": "forked", "id": message["id"]})

    def in_child(self, limits, home, job, result, log, *device):
        try:
            self.confine(limits, home, job, result, log, device)
        except BaseException as e:
            # Before any candidate code: ours. Rust believes this frame only when it is the first one.
            import frames
            frames.write_frame(result, {"event": "unconfined", "message": f"{type(e).__name__}: {e}"})
            return
        (self.run_on_device if device else self.run)(job, result, *device)

    def confine(self, limits, home, job, result, log, device):
        bars = self.bars
        os.setsid()
        confine.signals()
        confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
        confine.descriptors(self.null, log, {job, result, *device})
        confine.environment(home, bars.visible if device else {})
        confine.unprivileged(self.uid)
        landlock.restrict(bars.landlock, home, bars.readable, bars.nodes if device else ())
        confine.limits(limits, self.base, bool(self.uid is not None or "user" in self.parts), bool(bars.nodes and device))
        if device:
            confine.beside(bars.cpus)
        # Where it never works we said so when we were ready; where it does, a child without it is not a candidate's.
        if not seccomp.apply(bars.filter) and bars.filtered:
            raise OSError("the system call filter is not in force")
        sys.path.remove(bars.harness)

    def watch(self):
        """Processes and memory of everything below us: limits that the kernel does not keep for a whole tree."""
        limits = self.current["limits"]
        pids = self.descendants()
        if len(pids) > limits["max_processes"]:
            self.current["over"] = "processes"
        elif sum(max(0, confine.private_memory(p) - self.base_memory) for p in pids) > limits["memory_bytes"]:
            self.current["over"] = "memory"
        if self.current["over"]:
            self.strike()

    def descendants(self):
        if "proc" in self.parts:
            return [n for n in os.listdir("/proc") if n.isdigit() and n != "1"]
        # Not `os.getpid()`: the process table may be an outer namespace's, where we have another number.
        found, queue = [], [os.readlink("/proc/self")]
        while queue:
            pid = queue.pop()
            try:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{thread}/children") as f:
                        children = f.read().split()
                    found += children
                    queue += children
            except OSError:
                continue
        return found

    def strike(self, number=signal.SIGKILL):
        """A signal for every descendant. As pid 1 of an own namespace one call reaches them all at once."""
        if "pid" in self.parts:
            targets = [-1]
        else:
            targets = [-self.current["pid"], *map(int, self.descendants())]
        for target in targets:
            try:
                os.kill(target, number)
            except (ProcessLookupError, PermissionError):
                pass

    def kill(self):
        """Ends the child and everything it started; returns how it had ended and what it used."""
        current = self.current
        if current is None:
            return {}
        pid, cpu, strays, deadline = current["pid"], 0.0, 0, time.monotonic() + KILL_S
        done, status, usage = os.wait4(pid, os.WNOHANG)
        itself = done == pid
        if itself:
            cpu = usage.ru_utime + usage.ru_stime
        clean, pause = True, 0.0002
        while True:
            self.strike()
            try:
                done, code, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if done:
                cpu += usage.ru_utime + usage.ru_stime
                if done == pid:
                    status = code
                else:
                    strays += 1
            elif time.monotonic() > deadline:
                clean = False
                break
            else:
                time.sleep(pause)
                pause = min(pause * 2, 0.01)
        try:
            self.poll.unregister(current["pidfd"])
        except KeyError:
            pass
        os.close(current["pidfd"])
        if current["mounted"]:
            cage.unmount(current["mounted"])
        self.current = None
        return {
            "itself": itself, "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None, "cpu_ms": cpu * 1e3,
            "strays": strays, "over": current["over"], "clean": clean}


class Bars:
    """What keeps candidates in on this machine. Made before any thread exists; returns in the process that is to be
    the zygote."""

    def __init__(self, device=None):
        # A device's files, how its driver is told of it, and the processors beside it.
        device = device or {}
        self.nodes, self.visible = device.get("nodes", []), device.get("environment", {})
        self.cpus = device.get("cpus", [])
        self.readable = landlock.readable()
        base = os.path.join(HARNESS, "view")
        os.makedirs(base, exist_ok=True)
        self.parts = cage.enter(base, HARNESS, self.readable, self.nodes)
        self.home, self.harness = None, HARNESS
        needed = [*self.readable, os.path.dirname(HARNESS)]
        if "root" in self.parts:
            self.home, self.harness, needed = view.home(), view.HARNESS, self.readable
            sys.path[sys.path.index(HARNESS)] = self.harness
        self.landlock = landlock.abi()
        self.filter = seccomp.program()
        self.filtered = seccomp.works(self.filter)
        self.uid = confine.spare_uid(needed)

    def report(self):
        return {"cage": self.parts, "landlock": self.landlock, "seccomp": self.filtered, "uid": self.uid}


def main():
    if sys.argv[1:] == ["--probe"]:
        print(json.dumps(Bars().report()))
        return
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    bars = Bars(json.loads(sys.argv[1]) if sys.argv[1:] else None)
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    # A candidate of the same user must not look into the process that forks the next one.
    confine.prctl(confine.PR_SET_DUMPABLE, 0)
    if bars.home and cage.mount_home(bars.home, os.getuid(), HOME_BYTES):
        os.environ.update(HOME=bars.home, TMPDIR=bars.home)

    import warm
    versions, *runs = warm.up(bool(bars.nodes))
    if bars.home:
        # Nothing of ours stays where candidates can look: all that is needed has been imported.
        cage.unmount(bars.home)
        cage.unmount(bars.harness)
    gc.collect()
    confine.large_pages()
    gc.freeze()
    gc.disable()
    Zygote(control, bars, *runs).loop(versions)


if __name__ == "__main__":
    main()
