"""The file system a candidate sees: a new root in memory that holds Python, the system's libraries, a few devices and
an empty `/tmp`, all read-only. The rest of the machine is not mounted in it: no home, no scratch folder, no other `/tmp`.

Call in a mount namespace of one's own. A machine where a step is not permitted keeps its own root.
"""
import ctypes
import os

from confine import libc

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 1, 2, 4, 8, 4096, 16384
MNT_DETACH = 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, -1)
# The same on every machine type.
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY, ATTR_NOSUID = 442, -100, 0x8000, 1, 2
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt", "/nix/store", "/sys/devices/system/cpu")
FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/ssl", "/etc/alternatives",
         "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Where a candidate's private directory is mounted: the first that nothing else is in.
HOMES = ("/tmp", "/run/candidate")
# Empty, on a read-only root.
EMPTY = (*HOMES, "/var/tmp", "/dev/shm", "/proc")
HARNESS = "/harness"
MAX_LINKS = 40


class _Attributes(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in ("set", "clear", "propagation", "userns")]


def mount(source, target, kind, flags, options=None):
    if libc.mount(source and os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), options) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def enter(base, harness, paths, nodes=()):
    """Makes the view below the empty directory `base`, with `paths` in it and `harness` as HARNESS, and moves into
    it. Returns what was obtained: `root` for the view, `proc` for a process table of our own. Where it fails nothing
    is changed."""
    try:
        mount("none", base, b"tmpfs", MS_NOSUID | MS_NODEV, b"size=1m,mode=0755")
    except OSError:
        return ["proc"] if _process_table("/proc") else []
    try:
        view = _View(base)
        for path in (*SYSTEM, *FILES, *nodes, *paths):
            view.place(path)
        for path in EMPTY:
            os.makedirs(base + path, 0o755, exist_ok=True)
        # Without what is mounted in it, which is `base`.
        os.mkdir(base + HARNESS)
        mount(harness, base + HARNESS, None, MS_BIND)
        attributes = _Attributes(set=ATTR_RDONLY | ATTR_NOSUID)
        if libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(base), AT_RECURSIVE, ctypes.byref(attributes),
                        ctypes.c_size_t(ctypes.sizeof(attributes))) != 0:
            raise OSError(ctypes.get_errno(), "mount_setattr")
        got = ["root"]
        # While the old one can be seen: the kernel demands that of a user namespace.
        if _process_table(base + "/proc"):
            got.append("proc")
        else:
            mount("/proc", base + "/proc", None, MS_BIND | MS_REC)
        os.chdir(base)
        if libc.syscall(SYS_PIVOT_ROOT, b".", b".") != 0:
            raise OSError(ctypes.get_errno(), "pivot_root")
    except OSError:
        os.chdir("/")
        libc.umount2(os.fsencode(base), MNT_DETACH)
        return ["proc"] if _process_table("/proc") else []
    if libc.umount2(b".", MNT_DETACH) != 0:
        # Half way between two roots nothing can be promised.
        raise OSError(ctypes.get_errno(), "the old root cannot be left")
    os.chdir("/")
    return got


def home():
    return next(path for path in HOMES if not os.listdir(path))


def _process_table(at):
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
    return libc.mount(b"proc", os.fsencode(at), b"proc", flags, None) == 0


class _View:
    def __init__(self, base):
        self.base, self.bound = base, set()

    def place(self, path, links=0):
        """`path` at its own name: its directories and symbolic links made anew, its contents bound."""
        path = os.path.normpath(path)
        if not path.startswith("/") or path == "/" or links > MAX_LINKS or not os.path.exists(path):
            return
        at = ""
        parts = path.strip("/").split("/")
        for n, part in enumerate(parts):
            at += "/" + part
            if at in self.bound:
                return
            here = self.base + at
            if os.path.islink(at):
                target = os.readlink(at)
                if not os.path.lexists(here):
                    os.symlink(target, here)
                return self.place(os.path.join(os.path.dirname(at), target, *parts[n + 1:]), links + 1)
            if n + 1 < len(parts):
                os.makedirs(here, 0o755, exist_ok=True)
        if os.path.isdir(at):
            os.makedirs(here, 0o755, exist_ok=True)
        else:
            os.close(os.open(here, os.O_WRONLY | os.O_CREAT, 0o644))
        mount(at, here, None, MS_BIND | MS_REC)
        self.bound.add(at)
