"""The peer of `troupe bench cluster --peer-python`: the same loop in Ray, as somebody who knows Ray would write it.

One line of JSON on stdin says what to measure, one line on stdout what was found. What helps Ray is done: actors live
for the whole measurement, calls are pipelined with a bounded number in flight, `ray.wait` returns whatever is ready, a call
carries `batch` candidates, the dashboard and the usage report are off, one core is promised to nobody. Two layouts:

driver   generator and learner are functions of the driver, only the executors are other processes (as in `troupe run`)
actors   generator and learner are actors too; completions stay in the object store and go from actor to actor by reference
"""
import asyncio
import json
import os
import sys
import time
from collections import deque

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
import numpy as np
import ray

PLAN = json.loads(sys.stdin.readline())
TOKENS, TEXT, STEP = PLAN["tokens"], PLAN["text_bytes"], PLAN["step"]
TAKES = PLAN["takes_ms"] / 1000.0
PAD = "#" * TEXT


def complete(prompt, first, count):
    """What a generator answers: token ids, their log-probs, and the candidate's source."""
    tokens = np.zeros((count, TOKENS), dtype=np.uint32) + prompt[0]
    logprobs = np.full((count, TOKENS), -0.01, dtype=np.float32)
    return [f"n = {n}\n{PAD}" for n in range(first, first + count)], tokens, logprobs


def verdicts(sources):
    """The report of an executor has the fields that ours has."""
    return [
        {
            "outcome": "passed" if sum(source.encode()[:12]) % 3 == 0 else "wrong_answer",
            "launches": [], "phase_ms": {}, "kernelbench_1e2": True, "kernelbench_1e4": True, "max_abs_error": None,
            "evidence": {}, "timing": None, "findings": [], "log_tail": "", "protocol": "", "reused": False,
        }
        for source in sources
    ]


@ray.remote(num_cpus=0)
class Executor:
    """Nothing to do: plain calls, which Ray serves faster than coroutines."""

    def ready(self):
        return os.getpid()

    def evaluate(self, sources):
        return verdicts(sources)

    def evaluate_completion(self, completion):
        return verdicts(completion[0])


@ray.remote(num_cpus=0)
class WaitingExecutor:
    """Stand-ins that take their time: as many at once as an executor of ours has workers."""

    def ready(self):
        return os.getpid()

    async def evaluate(self, sources):
        await asyncio.sleep(TAKES * len(sources) if PLAN["serial"] else TAKES)
        return verdicts(sources)

    async def evaluate_completion(self, completion):
        return await self.evaluate(completion[0])


@ray.remote(num_cpus=0)
class Generator:
    def ready(self):
        return os.getpid()

    def generate(self, prompt, first, count):
        return complete(prompt, first, count)


@ray.remote(num_cpus=0)
class Learner:
    def ready(self):
        return os.getpid()

    def train(self, rewards, *completions):
        return float(sum(c[2].sum() for c in completions)) * float(np.mean(rewards))


def learn(batch):
    return sum(float(logprobs.sum()) for _, (_, _, logprobs) in batch)


def main():
    ray.init(num_cpus=PLAN["cpus"], include_dashboard=False, log_to_driver=False, logging_level="error",
             object_store_memory=PLAN["object_store_bytes"], configure_logging=False, _temp_dir=PLAN["temp_dir"])
    kind = Executor if TAKES == 0 else WaitingExecutor.options(max_concurrency=PLAN["workers"])
    executors = [kind.remote() for _ in range(PLAN["nodes"])]
    actors = PLAN["layout"] == "actors"
    generator, learner = (Generator.remote(), Learner.remote()) if actors else (None, None)
    ray.get([a.ready.remote() for a in executors + [x for x in (generator, learner) if x]], timeout=120)

    batch, most = PLAN["batch"], max(1, PLAN["in_flight"] // PLAN["batch"])
    prompt = np.arange(PLAN["prompt_tokens"], dtype=np.uint32)
    # Ray has no queue over actors: each gets the next call when one of its own has ended.
    issued = 0
    flying = {}
    held = {}
    latencies = []
    trained = deque()
    steps = []
    loss = 0.0

    def issue(executor):
        nonlocal issued
        began = time.perf_counter()
        if actors:
            completion = generator.generate.remote(prompt, issued, batch)
            ref = executor.evaluate_completion.remote(completion)
        else:
            completion = complete(prompt, issued, batch)
            ref = executor.evaluate.remote(completion[0])
        issued += batch
        flying[ref] = (began, executor, completion)

    def settle(refs):
        nonlocal loss
        done = ray.get(refs)
        now = time.perf_counter()
        for ref, reports in zip(refs, done):
            began, executor, completion = flying.pop(ref)
            latencies.append(now - began)
            trained.append(([r["outcome"] == "passed" for r in reports], completion))
            issue(executor)
        while len(trained) * batch >= STEP:
            step = [trained.popleft() for _ in range(max(1, STEP // batch))]
            if actors:
                steps.append(learner.train.remote([x for rewards, _ in step for x in rewards], *[c for _, c in step]))
                if len(steps) > 4:
                    ray.get(steps.pop(0))
            else:
                loss += learn(step)
        return len(refs) * batch

    for n in range(most):
        issue(executors[n % len(executors)])
    counted = 0
    for seconds in (PLAN["warm_up_s"], PLAN["seconds"]):
        latencies.clear()
        counted, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            # As many as are ready; never a wait for all.
            ready, _ = ray.wait(list(flying), num_returns=1, timeout=30)
            if len(flying) > 1:
                ready, _ = ray.wait(list(flying), num_returns=len(flying), timeout=0)
            if not ready:
                raise SystemExit("nothing came back for 30 s")
            counted += settle(ready)
        took = time.perf_counter() - began
    latencies.sort()
    quantile = lambda q: 1000 * latencies[min(len(latencies) - 1, int(q * len(latencies)))]
    print(json.dumps({
        "rollouts": counted, "seconds": took, "rollouts_per_s": counted / took,
        "p50_ms": quantile(0.5), "p99_ms": quantile(0.99),
        "versions": f"ray {ray.__version__}, python {sys.version.split()[0]}, numpy {np.__version__}",
    }), flush=True)
    # Until the other side has taken the memory of all processes a last time.
    sys.stdin.readline()
    ray.shutdown()


main()
