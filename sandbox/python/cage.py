"""Namespaces for the zygote and everything below it: own pids, own empty network, own mounts, where permitted.

As pid 1 of its own namespace the zygote ends all descendants with one signal, cannot be signalled by them, and when
it dies the kernel ends them all. What is not permitted is left out; `enter` says what there is.
"""
import ctypes
import os
import signal

from confine import PR_SET_PDEATHSIG, libc, prctl

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV, MS_NOEXEC = 16384, 1 << 18, 2, 4, 8
MNT_DETACH = 2
SPACES = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWNS


def enter():
    """Call before any thread exists. Returns in the process that is to be the zygote; the caller becomes a stub that
    waits for it and ends with it. The answer names what was obtained."""
    got = []
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(SPACES) == 0:
        got += ["pid", "net"]
    elif libc.unshare(CLONE_NEWUSER | SPACES) == 0:
        try:
            _write("/proc/self/setgroups", "deny")
        except OSError:
            pass
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
        got += ["user", "pid", "net"]
    else:
        return got
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
        # A process table of our own, so that a candidate sees nobody else's processes.
        flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
        if libc.mount(b"proc", b"/proc", b"proc", flags, None) == 0:
            got.append("proc")
    return got


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


def unmount_home(path):
    libc.umount2(os.fsencode(path), MNT_DETACH)


def _write(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
