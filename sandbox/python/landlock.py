"""Landlock: a child may write below its private directory only, and read Python, the system's libraries and itself.

Raw system calls, because no wrapper is installed everywhere. Where the kernel has no Landlock, `restrict` returns 0.
"""
import ctypes
import os
import sys
import sysconfig

from confine import libc

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
(EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO,
 MAKE_BLOCK, MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV) = (1 << n for n in range(16))
READ = EXECUTE | READ_FILE | READ_DIR
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/etc/ssl", "/opt", "/nix/store")
SMALL = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory",
         "/sys/devices/system/cpu", "/dev/urandom", "/dev/random", "/dev/zero")


class _Attributes(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32)]


def abi():
    """The kernel's Landlock version; 0 when there is none."""
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(int(version), 0)


def readable():
    """Where Python, torch, Triton and the system's libraries are."""
    paths = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values()}
    paths.update(p for p in sys.path if p and os.path.isdir(p))
    paths.update(os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    return [p for p in paths if p and p != "/" and os.path.exists(p)]


# What this process was restricted to: version, private directory, what it may read.
held = None


def without_nodes():
    """Gives the device files up as well, for good: for what is not to use the device yet. Raises where it could not."""
    if held is not None:
        restrict(*held)


def restrict(version, home, readable, nodes=()):
    """`nodes`: device files that may be used. Gives up everything else, for good. Needs NO_NEW_PRIVS. Returns the version that is in force."""
    global held
    if version < 1:
        return 0
    held = (version, home, readable)
    handled = (1 << 13) - 1
    handled |= REFER if version >= 2 else 0
    handled |= TRUNCATE if version >= 3 else 0
    handled |= IOCTL_DEV if version >= 5 else 0
    attributes = _Attributes(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")

    def allow(path, rights):
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        rights &= handled
        if not os.path.isdir(path):
            rights &= FILE_RIGHTS
        beneath = _Beneath(rights, fd)
        code = libc.syscall(ADD_RULE, ruleset, ctypes.c_int(PATH_BENEATH), ctypes.byref(beneath), ctypes.c_uint32(0))
        os.close(fd)
        if code != 0:
            raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")

    allow(home, handled)
    for path in (*SYSTEM, *readable):
        allow(path, READ)
    for path in SMALL:
        allow(path, READ_FILE | READ_DIR)
    allow("/dev/null", READ_FILE | WRITE_FILE)
    for path in nodes:
        allow(path, READ_FILE | WRITE_FILE | IOCTL_DEV)
    if nodes:
        # A driver names its threads.
        allow("/proc/self", READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE)
    if libc.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) != 0:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)
    return version
