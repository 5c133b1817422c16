"""What a forked child gives up before it touches candidate code: limits, descriptors, environment, privileges."""
import ctypes
import os
import resource
import signal

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 38, 36
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


def prctl(option, value):
    return libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def address_space():
    """This process's address space and private writable memory, in bytes."""
    with open("/proc/self/status") as f:
        sizes = dict(line.split(":", 1) for line in f)
    return tuple(int(sizes[k].split()[0]) << 10 for k in ("VmSize", "VmData"))


def limits(wanted, base):
    """Hard limits. `memory_bytes` is on top of what the imported libraries already take (`base`)."""
    space, data = base
    memory = int(wanted["memory_bytes"])

    def cap(kind, value):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))

    cap(resource.RLIMIT_CORE, 0)
    cap(resource.RLIMIT_AS, space + memory)
    cap(resource.RLIMIT_DATA, data + memory)
    cap(resource.RLIMIT_FSIZE, 256 << 20)
    cap(resource.RLIMIT_NOFILE, 256)
    cap(resource.RLIMIT_CPU, int(wanted["cpu_s"]))
    cap(resource.RLIMIT_NPROC, int(wanted["max_processes"]))


def descriptors(null, log, keep):
    """stdin from nowhere, stdout and stderr into the log pipe, every descriptor not in `keep` closed."""
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 65536)


def environment(home):
    kept = {k: os.environ[k] for k in KEPT_ENVIRONMENT if k in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update({
        "HOME": home, "TMPDIR": home, "TRITON_CACHE_DIR": os.path.join(home, "cache"),
        "TRITON_HOME": home, "XDG_CACHE_HOME": home, "TORCHINDUCTOR_CACHE_DIR": os.path.join(home, "inductor"),
        "TORCH_EXTENSIONS_DIR": os.path.join(home, "extensions"), "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    })
    os.chdir(home)


def signals():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
