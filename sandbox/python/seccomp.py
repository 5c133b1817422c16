"""A system call filter for children: no sockets but local ones, no namespaces, mounts, tracing, or unnamed files.

Written as the kernel's own small programs (`struct sock_filter`), because no library for it is installed everywhere.
On a machine type that is not in the table nothing is filtered.
"""
import ctypes
import errno
import os

from confine import PR_SET_NO_NEW_PRIVS, libc, prctl

PR_SET_SECCOMP, MODE_FILTER = 22, 2
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16
NAMESPACES = 0x7E020000
AF_UNIX = 1
# Numbers above 424 are the same everywhere.
COMMON = {"io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
          "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447}
TABLES = {
    "x86_64": (0xC000003E, {"socket": 41, "clone": 56}, {
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "mount": 165, "umount2": 166,
        "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "bpf": 321, "keyctl": 250, "add_key": 248,
        "request_key": 249, "perf_event_open": 298, "userfaultfd": 323, "kexec_load": 246, "init_module": 175,
        "finit_module": 313, "memfd_create": 319, "name_to_handle_at": 303, "open_by_handle_at": 304,
        "shmget": 29, "msgget": 68, "mq_open": 240}),
    "aarch64": (0xC00000B7, {"socket": 198, "clone": 220}, {
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "mount": 40, "umount2": 39,
        "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "bpf": 280, "keyctl": 219, "add_key": 217,
        "request_key": 218, "perf_event_open": 241, "userfaultfd": 282, "kexec_load": 104, "init_module": 105,
        "finit_module": 273, "memfd_create": 279, "name_to_handle_at": 264, "open_by_handle_at": 265,
        "shmget": 194, "msgget": 186, "mq_open": 180}),
}
CLONE3 = 435
X32_BIT = 0x40000000


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def program():
    """The filter for this machine, or None. Made once, before the fork."""
    table = TABLES.get(os.uname().machine)
    if table is None:
        return None
    machine, special, denied = table
    no, unknown = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
    code = [
        (LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, machine), (RETURN, 0, 0, no),
        (LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, no),
        # Its flags are behind a pointer; C libraries fall back to `clone`.
        (EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, unknown),
    ]
    for number in (*denied.values(), *COMMON.values()):
        code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, no)]
    code += [
        (EQUAL, 0, 4, special["socket"]), (LOAD, 0, 0, FIRST_ARGUMENT), (EQUAL, 1, 0, AF_UNIX), (RETURN, 0, 0, no),
        (RETURN, 0, 0, ALLOW),
        (EQUAL, 0, 3, special["clone"]), (LOAD, 0, 0, FIRST_ARGUMENT), (ANY_BIT, 0, 1, NAMESPACES), (RETURN, 0, 0, no),
        (RETURN, 0, 0, ALLOW),
    ]
    return (_Instruction * len(code))(*[_Instruction(*c) for c in code])


def apply(filter_):
    """For good, for this process and all it starts. Needs NO_NEW_PRIVS. Returns whether it is in force."""
    if filter_ is None:
        return False
    made = _Program(len(filter_), filter_)
    return libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), ctypes.byref(made), 0, 0) == 0


def works(filter_):
    """Whether the filter takes effect in a fork of this process: tried in one, with a call that is harmless and denied."""
    if filter_ is None:
        return False
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            if apply(filter_) and libc.unshare(0) != 0 and ctypes.get_errno() == errno.EPERM:
                code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
