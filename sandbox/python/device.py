"""What a candidate is checked and timed on: a CUDA GPU, or this machine's own processor in its place (for tests).

Both have a box: memory that two processes map, made by the trusted one and named by a descriptor, so that no address, no
handle and no byte of the other process's memory is shared besides it. And both time a call in the same way.
"""
import ctypes
import mmap
import os
import time

import torch

# What is overwritten before a timed call, so that none of its inputs is in a cache. As `triton.testing.do_bench`.
FLUSH_BYTES = 256 << 20
# How often, at least and at most: while the device does it, the host launches what is timed. A process that has just been
# woken takes hundreds of microseconds for that, and none of them is the kernel's.
MIN_FLUSHES, MAX_FLUSHES = 2, 16
# Before the first call of a burst at least: its process was asleep a moment ago, and who is behind then stays behind.
FIRST_FLUSHES = 6
# Calls by which the next one's need is told, and how much more than they needed it gets.
LAST, SPARE = 4, 1.5
# Calls that are queued before the first is waited for. A kernel takes a microsecond longer where others wait behind it, as they
# do in practice and in `do_bench`.
MAX_QUEUED = 16
# Of a burst's calls, every so many-th is waited for before the next: what goes on in another stream shows there.
SYNCED_SHARE = 4
# Calls before the timed ones of a burst, and how long they go on at most: the first ones after a pause are slow.
HEATING, HEATING_S = 12, 0.01


def synced(count):
    """How many of so many calls are waited for."""
    return max(1, count // SYNCED_SHARE)


def heat(call):
    began = time.perf_counter()
    for _ in range(HEATING):
        call()
        if time.perf_counter() - began > HEATING_S:
            return
HOST_FLUSH_BYTES = 1 << 20


class Host:
    """The processor. The clock is the process's own."""

    kind, flush_bytes = "cpu", HOST_FLUSH_BYTES
    # What is done before a call, at the least, microseconds: nothing that could be told by the clock.
    flushed_us = 0.0

    def __init__(self):
        self.torch = torch.device("cpu")
        self.junk = torch.zeros(HOST_FLUSH_BYTES, dtype=torch.uint8)

    def make(self, size):
        """A box of at least `size` bytes: (descriptor, bytes)."""
        fd = os.memfd_create("box")
        os.ftruncate(fd, size)
        return fd, self.open(fd, size)

    def open(self, fd, size):
        return torch.frombuffer(mmap.mmap(fd, size), dtype=torch.uint8)

    def drop(self, box):
        pass

    def sync(self):
        pass

    def timed(self, calls, synced):
        """(what `calls` returned, for each {"us": its microseconds, "rest_us": until everything was at rest, "late": whether
        the device waited for the host, "spacer_us": what was done before it, "queued": whether others were queued behind
        it}). The last `synced` are each waited for, as all are here."""
        made, times = [], []
        for call in calls:
            self.junk.fill_(1)
            start = time.perf_counter_ns()
            made.append(call())
            times.append({"us": (time.perf_counter_ns() - start) / 1e3, "rest_us": 0.0, "late": False, "spacer_us": 0.0,
                          "queued": False})
        return made, times

    def facts(self):
        return {"kind": self.kind, "name": "processor", "l2_bytes": 0, "capability": None}


class _Location(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class _Properties(ctypes.Structure):
    """`CUmemAllocationProp`."""

    _fields_ = [("type", ctypes.c_int), ("handles", ctypes.c_int), ("location", _Location), ("meta", ctypes.c_void_p),
                ("compression", ctypes.c_ubyte), ("rdma", ctypes.c_ubyte), ("usage", ctypes.c_ushort),
                ("reserved", ctypes.c_ubyte * 4)]


class _Access(ctypes.Structure):
    _fields_ = [("location", _Location), ("flags", ctypes.c_int)]


class _Memory:
    """Device memory by address, for `torch.as_tensor`."""

    def __init__(self, address, size):
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


class Cuda:
    """One GPU, the first that this process sees. Makes its context."""

    kind, flush_bytes = "cuda", FLUSH_BYTES
    PINNED, DEVICE, DESCRIPTOR, READ_WRITE = 1, 1, 1, 3

    def __init__(self):
        torch.cuda.init()
        self.torch = torch.device("cuda", 0)
        self.junk = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=self.torch)
        # Bound before a candidate is imported: it has no name by which to reach these.
        lib = ctypes.CDLL("libcuda.so.1")
        self._lib, self._where = lib, _Location(self.DEVICE, 0)
        events = [[self._event() for _ in range(3)] for _ in range(MAX_QUEUED)]
        rest = self._event()
        record, elapsed, rests = lib.cuEventRecord, lib.cuEventElapsedTime, lib.cuCtxSynchronize
        finish, fill, persisting = lib.cuEventSynchronize, lib.cuMemsetD8Async, lib.cuCtxResetPersistingL2Cache
        junk, size, stream = ctypes.c_uint64(self.junk.data_ptr()), ctypes.c_size_t(FLUSH_BYTES), ctypes.c_void_p(0)
        check, value, one = self._check, ctypes.c_float(), ctypes.c_ubyte(1)

        def between(a, b):
            check(elapsed(ctypes.byref(value), a, b), "cuEventElapsedTime")
            return value.value * 1e3

        clock, needed, one_flush = time.perf_counter, [], [100.0]

        def launch(call, least, before, start, end):
            """Queues flushes and a call. (What it returned, flushes, the host's time for the call, when it was launched)."""
            flushes = -(-SPARE * max(needed, default=0.0) // one_flush[0])
            flushes = int(min(max(flushes, least), MAX_FLUSHES))
            record(before, stream)
            for _ in range(flushes):
                check(fill(junk, one, size, stream), "cuMemsetD8Async")
            record(start, stream)
            began = clock()
            out = call()
            ended = clock()
            record(end, stream)
            host = (ended - began) * 1e6
            needed[:] = [*needed[1 - LAST:], host] if len(needed) >= LAST else [*needed, host]
            return out, flushes, host, ended

        def together(calls, least):
            """Some calls, all queued before the first one is waited for; before that one so many flushes at least."""
            check(persisting(), "cuCtxResetPersistingL2Cache")
            began, made, notes = clock(), [], []
            for n, (call, held) in enumerate(zip(calls, events)):
                out, *note = launch(call, MIN_FLUSHES if n else least, *held)
                made.append(out)
                notes.append(note)
            # Every stream of the context, not the one that the events are in.
            check(rests(), "cuCtxSynchronize")
            record(rest, stream)
            check(finish(rest), "cuEventSynchronize")
            times, alone = [], len(calls) == 1
            for (flushes, host, launched), (before, start, end) in zip(notes, events):
                spacer = between(before, start)
                # The device's own clock from the first event to the call, the host's until it had launched it.
                late = host > spacer if alone else (launched - began) * 1e6 > between(events[0][0], start)
                times.append({"us": between(start, end), "rest_us": between(end, rest) if alone else 0.0, "late": late,
                              "spacer_us": spacer, "queued": not alone})
                one_flush[0] = spacer / flushes
            return made, times

        def timed(calls, synced):
            made, times = [], []
            queued = len(calls) - synced
            parts = [calls[n:min(n + MAX_QUEUED, queued)] for n in range(0, queued, MAX_QUEUED)]
            for n, part in enumerate([*parts, *([c] for c in calls[queued:])]):
                outs, took = together(part, MIN_FLUSHES if n else FIRST_FLUSHES)
                made += outs
                times += took
            return made, times

        self.timed = timed
        self._one_flush = one_flush

    @property
    def flushed_us(self):
        """What is done before a call takes so long, at the least, by this process's last calls."""
        return MIN_FLUSHES * self._one_flush[0]

    def _check(self, code, what):
        if code:
            raise RuntimeError(f"{what} failed with CUDA error {code}")

    def _event(self):
        event = ctypes.c_void_p()
        self._check(self._lib.cuEventCreate(ctypes.byref(event), ctypes.c_uint(0)), "cuEventCreate")
        return event

    def make(self, size):
        lib, handle, grain, fd = self._lib, ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_int()
        wanted = _Properties(type=self.PINNED, handles=self.DESCRIPTOR, location=self._where)
        self._check(lib.cuMemGetAllocationGranularity(ctypes.byref(grain), ctypes.byref(wanted), ctypes.c_int(0)),
                    "cuMemGetAllocationGranularity")
        size = -(-size // grain.value) * grain.value
        code = lib.cuMemCreate(ctypes.byref(handle), ctypes.c_size_t(size), ctypes.byref(wanted), ctypes.c_uint64(0))
        if code == 2:
            raise MemoryError(f"no {size} bytes of device memory are free")
        self._check(code, "cuMemCreate")
        self._check(lib.cuMemExportToShareableHandle(ctypes.byref(fd), handle, ctypes.c_int(self.DESCRIPTOR),
                                                     ctypes.c_uint64(0)), "cuMemExportToShareableHandle")
        return fd.value, self._map(handle, size)

    def open(self, fd, size):
        handle = ctypes.c_uint64()
        self._check(self._lib.cuMemImportFromShareableHandle(ctypes.byref(handle), ctypes.c_void_p(fd),
                                                             ctypes.c_int(self.DESCRIPTOR)),
                    "cuMemImportFromShareableHandle")
        return self._map(handle, size)

    def _map(self, handle, size):
        lib, address, nothing = self._lib, ctypes.c_uint64(), ctypes.c_uint64(0)
        size = ctypes.c_size_t(size)
        self._check(lib.cuMemAddressReserve(ctypes.byref(address), size, ctypes.c_size_t(0), nothing, nothing),
                    "cuMemAddressReserve")
        self._check(lib.cuMemMap(address, size, ctypes.c_size_t(0), handle, nothing), "cuMemMap")
        access = _Access(self._where, self.READ_WRITE)
        self._check(lib.cuMemSetAccess(address, size, ctypes.byref(access), ctypes.c_size_t(1)), "cuMemSetAccess")
        # The mapping keeps the memory.
        self._check(lib.cuMemRelease(handle), "cuMemRelease")
        return torch.as_tensor(_Memory(address.value, size.value), device=self.torch)

    def drop(self, box):
        """Unmaps a box. No tensor in it may be used after this."""
        address, size = ctypes.c_uint64(box.data_ptr()), ctypes.c_size_t(box.numel())
        self.sync()
        self._check(self._lib.cuMemUnmap(address, size), "cuMemUnmap")
        self._check(self._lib.cuMemAddressFree(address, size), "cuMemAddressFree")

    def sync(self):
        self._check(self._lib.cuCtxSynchronize(), "cuCtxSynchronize")

    def facts(self):
        found = torch.cuda.get_device_properties(0)
        return {"kind": self.kind, "name": found.name, "l2_bytes": found.L2_cache_size,
                "capability": [found.major, found.minor], "processors": found.multi_processor_count,
                "shared_bytes": found.shared_memory_per_block_optin}


def up(kind):
    return Cuda() if kind == "cuda" else Host()
