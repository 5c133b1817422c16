"""A reference on a device: how it is timed, what it computes, and whether what a candidate returned while it was timed is the same."""
import math
import time

import torch

import device
import oracle
from plain import Modes

# Timed outputs are compared with a reference in float32: both may be off.
TIMED_MARGIN = 2.0


def near(got, want, reduction):
    """Whether a timed output is right: as `oracle.allowed_error`, against the reference in float32, in few passes."""
    if not want.is_floating_point():
        return bool((got == want).all())
    relative, share = oracle.TOLERANCE.get(str(want.dtype).removeprefix("torch."), oracle.TOLERANCE["float32"])

    def within(sane, also):
        rms = float(torch.linalg.vector_norm(sane, dtype=torch.float64)) / max(1, want.numel()) ** 0.5
        # One infinite element would allow every error in all of them.
        if not math.isfinite(rms):
            return False
        allowed = sane.abs().mul_(TIMED_MARGIN * relative).add_(TIMED_MARGIN * share * max(4, reduction) ** 0.5 * rms)
        # Written to fail on what is not a number.
        good = (got - want).abs_() <= allowed
        return bool((good if also is None else good | also).all())

    if within(want, None):
        return True
    return within(torch.nan_to_num(want, 0.0, 0.0, 0.0), (got == want) | ((got != got) & (want != want)))


def nears(got, want, reduction):
    """Which of these outputs, all of one shape and dtype, are right beyond doubt: `near` of each, in as many operations as of one. What
    is not may still be `near`: where something expected is not finite."""
    count, size = len(want), want[0].numel()
    got, want = (torch.stack(tensors).reshape(count, size) for tensors in (got, want))
    if not want.is_floating_point():
        return (got == want).all(1).tolist()
    relative, share = oracle.TOLERANCE.get(str(want.dtype).removeprefix("torch."), oracle.TOLERANCE["float32"])
    rms = torch.linalg.vector_norm(want, dim=1, keepdim=True, dtype=torch.float64) / max(1, size) ** 0.5
    # A little less, for its rounding to a small dtype.
    floor = (0.99 * TIMED_MARGIN * share * max(4, reduction) ** 0.5 * rms).to(want.dtype)
    allowed = want.abs().mul_(TIMED_MARGIN * relative).add_(floor)
    # Written to fail on what is not a number.
    return (((got - want).abs_() <= allowed) & torch.isfinite(rms)).all(1).tolist()


def sames(got, want):
    """Which of these, all of one shape and dtype, are the same to the bit beyond doubt."""
    count, size = len(want), want[0].numel()
    return (torch.stack(got) == torch.stack(want)).reshape(count, size).all(1).tolist()


def runs_plainly(model, args):
    """Whether a reference says itself where what it makes is to be."""
    held = torch.get_default_device()
    torch.set_default_device(None)
    try:
        with torch.no_grad():
            model(*args)
        return True
    except Exception:
        return False
    finally:
        torch.set_default_device(held)


def timed_calls(where, model, calls, plain=True, synced=0, heating=None, kept=True):
    """Each call's times and the wall time of all, warmed up on `heating`. PyTorch's own settings, as users have them. What is not
    kept of a call is gone before the next one."""
    heating = calls[0][1] if heating is None else heating
    torch.backends.cudnn.allow_tf32 = True

    def asked(seed, args):
        def call():
            # As a candidate's call, so that the host has as much to do.
            oracle.seed_everything(seed)
            modes.set(True)
            with torch.set_grad_enabled(False):
                out = model(*args)
            return out if kept else None
        return call

    # As users run it: a default device would be asked at every call.
    torch.set_default_device(None if plain else where.torch)
    try:
        if isinstance(model, torch.nn.Module):
            oracle.set_mode(model, True)
        modes = Modes(model)
        with torch.no_grad():
            device.heat(lambda: model(*heating))
            where.sync()
            began = time.perf_counter()
            made, times = where.timed([asked(*call) for call in calls], synced)
            wall = time.perf_counter() - began
    finally:
        torch.set_default_device(where.torch)
        torch.backends.cudnn.allow_tf32 = False
    return {"times": times, "wall_us": wall * 1e6}


def flops(model, args):
    """Floating-point operations of the reference's products, by torch's own counter; 0 where it knows none."""
    from torch.utils.flop_counter import FlopCounterMode
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*args)
        return counter.get_total_flops()
    except Exception:
        return 0


# The counter imports 800 modules at the first operation that it sees, which takes seconds: who stands by has that behind it.
flops(torch.nn.Linear(4, 4), [torch.ones(2, 4)])
