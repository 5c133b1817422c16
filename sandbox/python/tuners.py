"""Which of a tuner's configurations is its best. Without a device that measures, each is as good as another, so another one is asked in
each draw: whichever a device takes has to be right.
"""
import math
import random

from triton.runtime.autotuner import Autotuner

# Kernel and configuration of what cannot be compiled: a device would not take it either.
unfit = set()
_standing, _secret, _turns, _turn = False, None, {}, 0
_bench, _run, _prune = Autotuner._bench, Autotuner.run, Autotuner.prune_configs


def begin(secret):
    """From here on by the draws in the order in which they come, and by this number."""
    global _secret, _turn
    _secret, _turn = secret, 0
    _turns.clear()


def turn(draw):
    """`draw`: the seed of the draw that is answered now. The same one is answered alike."""
    global _turn
    _turn = _turns.setdefault(draw, len(_turns))


def _places(configs):
    """Configuration -> its place in this draw; the first is taken."""
    places = list(range(len(configs)))
    if _secret is not None:
        random.Random(_secret).shuffle(places)
    return {config: (place - _turn) % len(configs) for config, place in zip(configs, places)}


def _pruned(self, kwargs):
    self._asked = list(_prune(self, kwargs))
    return self._asked


def _ranked(self, *args, config, **meta):
    found = _bench(self, *args, config=config, **meta)
    name = self.base_fn.__name__, str(config)
    if not _standing:
        return found
    if math.inf in found:
        unfit.add(name)
    return [math.inf if name in unfit else float(_places(self._asked)[config])]


def _tuned(self, *args, **kwargs):
    if not _standing:
        return _run(self, *args, **kwargs)
    known = self.__dict__.setdefault("_configurations", {})
    for key, (asked, fit) in known.items():
        places = _places(asked)
        self.cache[key] = min(fit, key=lambda config: places.get(config, len(places)))
    out = _run(self, *args, **kwargs)
    for key in self.cache.keys() - known.keys():
        fit = [config for config, time in self.configs_timings.items() if time[0] < math.inf]
        known[key] = self._asked, fit or [self.cache[key]]
    return out


def install():
    global _standing
    _standing = True
    Autotuner.prune_configs, Autotuner._bench, Autotuner.run = _pruned, _ranked, _tuned


def with_a_device():
    global _standing
    _standing = False
