"""The zygote: imports torch and Triton once, has never seen a secret, and forks one child per candidate.

Control messages are JSON datagrams on the socket in descriptor 0:
  in  {"op": "fork", "id", "home", "limits"} with descriptors [job, result, log]
  in  {"op": "end", "id"}
  out {"event": "ready"} | {"event": "forked", "id", "pid"} | {"event": "exited", "id"} | {"event": "ended", "id", ...}
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
os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_DISABLE_LINE_INFO"] = "1"

import torch
import triton

torch.set_num_threads(1)

import confine
import child
import interp
import warm

NULL = os.open(os.devnull, os.O_RDONLY)


class Zygote:
    def __init__(self, control):
        self.control = control
        self.current = None
        self.base = confine.address_space()

    def send(self, message):
        self.control.send(json.dumps(message).encode())

    def loop(self):
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        self.send({"event": "ready", "pid": os.getpid(), "torch": torch.__version__, "triton": triton.__version__})
        while True:
            if self.current and self.current["pidfd"] is not None:
                poll.register(self.current["pidfd"], select.POLLIN)
            for fd, _ in poll.poll():
                if fd == self.control.fileno():
                    data, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 4)
                    if not data:
                        self.kill()
                        return
                    self.handle(json.loads(data), fds)
                elif self.current and fd == self.current["pidfd"]:
                    poll.unregister(fd)
                    os.close(fd)
                    self.current["pidfd"] = None
                    self.send({"event": "exited", "id": self.current["id"]})

    def handle(self, message, fds):
        if message["op"] == "fork":
            self.fork(message, fds)
        elif message["op"] == "end":
            self.end(message["id"])

    def fork(self, message, fds):
        job, result, log = fds
        began = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            try:
                in_child(message, job, result, log, self.base)
            finally:
                os._exit(0)
        for fd in fds:
            os.close(fd)
        self.current = {"id": message["id"], "pid": pid, "pidfd": os.pidfd_open(pid)}
        self.send({"event": "forked", "id": message["id"], "pid": pid, "ms": (time.perf_counter() - began) * 1e3})

    def end(self, id):
        reply = {"event": "ended", "id": id}
        if self.current and self.current["id"] == id:
            reply.update(self.kill())
        self.send(reply)

    def kill(self):
        """Ends the child and everything it started; returns how it had ended and what it used."""
        current, self.current = self.current, None
        if current is None:
            return {}
        pid, status, cpu, left = current["pid"], None, 0.0, 0
        deadline = time.monotonic() + 5
        done, code, usage = os.wait4(pid, os.WNOHANG)
        itself = done == pid
        if itself:
            status, cpu = code, usage.ru_utime + usage.ru_stime
        while True:
            # As pid 1 of an own namespace this reaches every descendant at once; otherwise the group, then strays.
            strike(pid)
            try:
                done, code, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if done == pid:
                status = code
            elif done:
                left += 1
            if done:
                cpu += usage.ru_utime + usage.ru_stime
            elif time.monotonic() > deadline:
                break
            else:
                time.sleep(0.0005)
        if current["pidfd"] is not None:
            os.close(current["pidfd"])
        signalled = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
        return {"signal": signalled, "code": code, "itself": itself, "cpu_ms": cpu * 1e3,
                "strays": left, "clean": time.monotonic() <= deadline}


def strike(pid):
    if os.getpid() == 1:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return
    for call, target in ((os.killpg, pid), (os.kill, pid)):
        try:
            call(target, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    with open(f"/proc/self/task/{os.getpid()}/children") as f:
        for stray in f.read().split():
            try:
                os.kill(int(stray), signal.SIGKILL)
            except ProcessLookupError:
                pass


def in_child(message, job, result, log, base):
    os.setsid()
    confine.signals()
    confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
    confine.descriptors(NULL, log, {job, result})
    confine.environment(message["home"])
    source, header, blob = child.read_job(job)
    os.close(job)
    confine.limits(message["limits"], base)
    sys.path.remove(HARNESS)
    child.run(source, header, blob, result)


def main():
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
    interp.prepare()
    warm.up()
    gc.collect()
    gc.freeze()
    gc.disable()
    Zygote(control).loop()


if __name__ == "__main__":
    main()
