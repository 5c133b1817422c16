"""Namespaces for the zygote and everything below it: own users, pids, empty network, IPC and mounts, where permitted.

As pid 1 of its own namespace the zygote ends all descendants with one signal, cannot be signalled by them, and when
it dies the kernel ends them all. What is not permitted is left out; `enter` says what there is.
"""
import ctypes
import os
import signal

import view
from confine import PR_SET_PDEATHSIG, libc, prctl

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 16384, 1 << 18, 2, 4
MNT_DETACH = 2
SPACES = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWNS


def enter(base, harness, paths, nodes=()):
    """Call before any thread exists. Returns in the process that is to be the zygote; the caller becomes a stub that
    waits for it and ends with it. `base` is an empty directory for `view.enter`. The answer names what was obtained."""
    got = []
    if os.geteuid() != 0:
        if not _unshare_alone(CLONE_NEWUSER | SPACES):
            return got
        got.append("user")
    elif _try() and _unshare_helped(CLONE_NEWUSER | SPACES):
        # Even the zygote gives up its rights over this machine: its superuser rules its own namespaces only.
        got.append("user")
    elif libc.unshare(SPACES) != 0:
        return got
    got += ["pid", "net", "ipc"]
    parent = os.getpid()
    pid = os.fork()
    if pid:
        _stub(pid)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The stub may have died before the request above: then nobody will tell us.
    if not _alive(parent):
        os._exit(1)
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) == 0:
        got.append("mount")
        got += view.enter(base, harness, paths, nodes)
    return got


def _unshare_alone(spaces):
    """Enters new namespaces with a user namespace among them that holds our own user alone: anybody may map that."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(spaces) != 0:
        return False
    try:
        _write("/proc/self/setgroups", "deny")
    except OSError:
        pass
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    return True


def _unshare_helped(spaces):
    """The same with every user that there is, each as itself. Only the superuser outside may map those, so a helper
    stays there. Returns whether anything was entered."""
    target, maps = os.getpid(), {name: _identity(name) for name in ("uid_map", "gid_map")}
    wait, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.close(go)
            if os.read(wait, 1):
                for name, text in maps.items():
                    _write(f"/proc/{target}/{name}", text)
                code = 0
        finally:
            os._exit(code)
    os.close(wait)
    entered = libc.unshare(spaces) == 0
    if entered:
        os.write(go, b"1")
    os.close(go)
    mapped = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) == 0
    if entered and not mapped:
        # There is no way back; `_try` has made sure that a machine without permission does not come here.
        raise OSError("no users could be mapped into the user namespace")
    return entered


def _identity(name):
    with open(f"/proc/self/{name}") as f:
        lines = [line.split() for line in f]
    return "".join(f"{inside} {inside} {count}\n" for inside, _, count in lines)


def _try():
    """Whether users can be mapped: tried in a fork, because a namespace cannot be left."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if _unshare_helped(CLONE_NEWUSER | SPACES) else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _stub(pid):
    for fd in (0, 1):
        os.close(fd)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _alive(parent):
    # In a new pid namespace the parent's number reads 0 while it lives in the outer one; a reparented child reads 0
    # too, so ask the process table, which is still the outer one's.
    return os.path.exists(f"/proc/{parent}")


def mount_home(path, uid, size):
    """An empty directory in memory over `path`, of at most `size` bytes."""
    options = f"size={size},nr_inodes=65536,mode=0700,uid={uid},gid={uid}".encode()
    return libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", ctypes.c_ulong(MS_NOSUID | MS_NODEV), options) == 0


def unmount(path):
    libc.umount2(os.fsencode(path), MNT_DETACH)


def _write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
