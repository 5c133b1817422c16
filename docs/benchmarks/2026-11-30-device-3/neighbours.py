"""What is accepted beside a neighbour that no look at the GPU shows, by the rules of `sandbox/src/gpu/contamination.rs`: a model of a
measurement (bursts of both sides in turn, medians, their interval) beside work that comes in fits. No GPU, no clock: `python3 neighbours.py`."""
import random
import statistics

REFERENCE, CANDIDATE, SLOWER, FLUSH, HOST = 100.0, 50.0, 2.0, 124.0, 20.0
PERIODS = (2e3, 7e3, 1.3e4, 2e4, 3e4, 1e5, 4e5, 1e6)
SHARES = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.7)


def interval(values, confidence=0.975):
    values, n = sorted(values), len(values)
    term = below = 0.5**n
    k, tail = 0, (1 - confidence) / 2
    while below <= tail and 2 * (k + 1) <= n:
        k += 1
        term *= (n - k + 1) / k
        below += term
    return values[max(k, 1) - 1], values[n - max(k, 1)]


def tolerance(us):
    return max(0.03 * us, 0.5)


def in_fits(can, bursts):
    slow = [calls for us, calls in bursts if us > can + 2 * tolerance(can)]
    return len(slow) >= 2 and sum(slow) > 0.25 * sum(calls for _, calls in bursts)


class Scene:
    def __init__(self, period, share, phase, unrest, rules, seed):
        self.period, self.share, self.phase, self.unrest, self.rules = period, share, phase, unrest, rules
        self.random, self.now = random.Random(seed), 0.0

    def step(self):
        """Drawing, putting, comparing."""
        self.now += 1700 + self.unrest * self.random.random()

    def burst(self, calls, us):
        self.step()
        times = []
        for _ in range(calls):
            self.now += FLUSH
            at_work = (self.now / self.period + self.phase) % 1 < self.share
            times.append(us * (1 + 0.006 * (self.random.random() - 0.5)) * (SLOWER if at_work else 1.0))
            self.now += times[-1] + HOST
        return times[: 3 * calls // 4]

    def attempt(self):
        """The speed-up that is paid, or None where the measurement is refused."""
        samples, bursts, first, warm = ([], []), ([], []), 1, True
        while True:
            n = min(map(len, samples))
            calls = 3 if warm else 16 if n < 55 else min(max(-(-4 * (301 - n) // 3), 16), 64)
            self.step()
            for side in (first, 1 - first):
                times = self.burst(calls, (REFERENCE, CANDIDATE)[side])
                if not warm:
                    samples[side].extend(times[1:])
                    bursts[side].append((statistics.median(times), calls))
            self.step()
            first, warm, n = 1 - first, False, min(map(len, samples))
            if n < 55:
                continue
            reference, candidate = map(statistics.median, samples)
            (low, high), (least, most) = map(interval, samples)
            if (high / least - low / most) / 2 <= 0.02 * reference / candidate or n >= 300:
                break
        refused = (abs(reference - REFERENCE) > tolerance(REFERENCE)
                   or self.rules > 0 and in_fits(REFERENCE, bursts[0])
                   or self.rules > 1 and in_fits(min(us for us, _ in bursts[1]), bursts[1]))
        return None if refused else min(reference, REFERENCE) / candidate


def main():
    idle = REFERENCE / CANDIDATE
    for rules, words in enumerate(("medians alone", "and bursts of the reference", "and bursts of the candidate")):
        for unrest in (1500, 300, 0):
            found = []
            for period in PERIODS:
                for share in SHARES:
                    for n in range(20):
                        scene = Scene(period, share, n / 20, unrest, rules, 50 * n + 7)
                        found.append(next((s for s in (scene.attempt() for _ in range(3)) if s is not None), None))
            accepted = [s / idle - 1 for s in found if s is not None]
            lower, higher = [d for d in accepted if d < -0.01], [d for d in accepted if d > 0.01]
            print(f"{words}, steps between bursts up to {unrest} us apart: {len(found)} neighbours, {len(accepted)} accepted, "
                  f"{len(lower)} of them more than 1 % lower, {len(higher)} more than 1 % higher")


if __name__ == "__main__":
    main()
