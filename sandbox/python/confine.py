"""What a forked child gives up before it touches candidate code: limits, descriptors, environment, privileges."""
import ctypes
import os
import resource
import signal
import tempfile

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
LARGE, MADV_COLLAPSE = 2 << 20, 25
# Far above the ids that systems give away.
SPARE_UID, SPARE_UIDS = 1_900_000_000, 100_000_000
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}.get(os.uname().machine, -1)
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


def prctl(option, value):
    return libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def address_space():
    """This process's address space and private writable memory, in bytes."""
    with open("/proc/self/status") as f:
        sizes = dict(line.split(":", 1) for line in f)
    return tuple(int(sizes[k].split()[0]) << 10 for k in ("VmSize", "VmData"))


def limits(wanted, base, own_count, device):
    """Hard limits. `memory_bytes` is on top of what the imported libraries already take (`base`). The kernel counts
    processes per user: where candidates share ours (`own_count` is false) that limit would hit us, so it is left to
    the zygote's watch; so is memory where a driver maps the whole of a device's (`device`)."""
    space, data = base
    memory = int(wanted["memory_bytes"])

    def cap(kind, value, more=0):
        hard = resource.getrlimit(kind)[1]
        top = value + more if hard == resource.RLIM_INFINITY else min(value + more, hard)
        resource.setrlimit(kind, (min(value, top), top))

    cap(resource.RLIMIT_CORE, 0)
    if not device:
        cap(resource.RLIMIT_AS, space + memory)
        cap(resource.RLIMIT_DATA, data + memory)
    cap(resource.RLIMIT_FSIZE, 256 << 20)
    cap(resource.RLIMIT_NOFILE, 256)
    # The soft limit first: its signal says what happened, the hard one's looks like any kill.
    cap(resource.RLIMIT_CPU, int(wanted["cpu_s"]), 2)
    if own_count:
        cap(resource.RLIMIT_NPROC, int(wanted["max_processes"]))


def large_pages():
    """Collapses this process's private memory into large pages where the kernel can: a fork then copies hundreds of
    page table entries instead of a hundred thousand. Best effort."""
    with open("/proc/self/maps") as f:
        lines = f.read().splitlines()
    for line in lines:
        span, mode, _, _, _, *name = line.split(None, 5)
        if mode[:2] != "rw" or mode[3] != "p" or (name and name[0] != "[heap]"):
            continue
        low, high = (int(x, 16) for x in span.split("-"))
        low, high = -(-low // LARGE) * LARGE, high // LARGE * LARGE
        if low < high:
            libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), MADV_COLLAPSE)


def private_memory(pid):
    """Resident memory of a process that no file holds, in bytes: its own, and what it shares with others that came
    from it (counted for each of them). 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as f:
            sizes = dict(line.split(":", 1) for line in f)
        return sum(int(sizes[k].split()[0]) << 10 for k in ("RssAnon", "RssShmem"))
    except (OSError, KeyError, ValueError):
        return 0


def spare_uid(needed):
    """For the superuser: a user id that owns nothing and can still read `needed`. None: candidates keep our user."""
    if os.geteuid() != 0:
        return None
    needed = [p for p in needed if os.path.isdir(p)]
    # The kernel counts processes per user, so two executors must not share one.
    for uid in (SPARE_UID + int.from_bytes(os.urandom(4), "little") % SPARE_UIDS, 65534):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                become(uid)
                if all(os.access(p, os.R_OK | os.X_OK) for p in needed):
                    code = 0
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1] == 0:
            return uid
    return None


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def unprivileged(uid):
    """No capability, and another user where there is one to spare."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    if uid is not None:
        become(uid)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    libc.syscall(SYS_CAPSET, header, (ctypes.c_uint32 * 6)())
    # A process of the same user cannot look into this one. A program that is started becomes dumpable again, which
    # opens nothing of ours.
    prctl(PR_SET_DUMPABLE, 0)


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


def environment(home, extra):
    kept = {k: os.environ[k] for k in KEPT_ENVIRONMENT if k in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update({
        "HOME": home, "TMPDIR": home, "TRITON_CACHE_DIR": os.path.join(home, "cache"),
        "TRITON_HOME": home, "XDG_CACHE_HOME": home, "TORCHINDUCTOR_CACHE_DIR": os.path.join(home, "inductor"),
        "TORCH_EXTENSIONS_DIR": os.path.join(home, "extensions"), "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1", "CUDA_CACHE_PATH": os.path.join(home, "driver"), **extra,
    })
    # The zygote has used temporary files already, and Python remembers where.
    tempfile.tempdir = home
    os.chdir(home)


def beside(cpus):
    """Stays on those processors of `cpus` that it may use: a container has some of them, or none."""
    allowed = os.sched_getaffinity(0) & set(cpus)
    if allowed:
        os.sched_setaffinity(0, allowed)


def signals():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
