"""The peer of `troupe bench executor --cpu`: KernelBench's correctness check alone, for one candidate in a fresh process.

The same semantics as its `eval_kernel_against_ref` without timing, at a CPU's size: public seed 42, weights by the order of
random numbers, reference first, five trials on the same tensors, shape and `allclose(1e-4)`, everything in one process.
"""
import importlib.util
import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main(task_path, candidate_path, trials=5, tolerance=1e-4):
    task = load(task_path, "task")
    torch.manual_seed(42)
    init = task.get_init_inputs()
    torch.manual_seed(42)
    model = task.Model(*init)
    candidate = load(candidate_path, "candidate")
    torch.manual_seed(42)
    new = candidate.ModelNew(*init)
    torch.manual_seed(42)
    seeds = [int(torch.randint(0, 2**32 - 1, (1,))) for _ in range(trials)]
    with torch.no_grad():
        for seed in seeds:
            torch.manual_seed(seed)
            inputs = task.get_inputs()
            want, got = model(*inputs), new(*inputs)
            if want.shape != got.shape or not torch.allclose(want, got, atol=tolerance, rtol=tolerance):
                return "wrong"
    return "correct"


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2]))
