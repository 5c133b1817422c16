"""Developer's check of the shipped tasks and examples: the project's own, trusted code, run without the sandbox.

    python scripts/check_examples.py [--all] [--only SUBSTRING] [--skip-compile] [--write] [--shard I/N]

Needs torch 2.11.0 and triton 3.6.0. For every task: the reference is finite, well conditioned and quick; zeros, constants,
its inputs, and the reference without any one of its ops are all wrong answers. For every example (with --all, for the
worked answer of every task, also those that are not shipped): right in Triton's interpreter, and compiles for sm_90.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
SEEDS = (1, 2, 3)
DRAWS = (("nominal", 1.0, 0.0), ("times 3", 3.0, 0.0), ("times 0.01", 0.01, 0.0), ("negated", -1.0, 0.0), ("plus 2", 1.0, 2.0))


def answers(everything, args):
    """[(task id, variant, task source, answer)]"""
    from tasks import splits

    part, parts = map(int, args.shard.split("/"))
    out = []
    for draft, _, has in splits.assign()[part::parts]:
        if args.only in draft.name:
            bodies = [None] + draft.bodies if everything else splits.spellings(draft) if has else []
            out += [(draft.name, n, draft.source(), draft.answer(body)) for n, body in enumerate(bodies)]
    return out


def load(source, folder, name):
    path = Path(folder) / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of(answer):
    return answer.split("```python\n")[1].split("```")[0]


def randomise(model, seed):
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) + 0.25)
    return model


def close(a, b, tolerance=1e-2):
    import torch

    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def reference_problems(name, source, folder):
    """What is wrong with a task itself."""
    import torch

    problems = []
    module = load(source, folder, f"ref_{name}")
    model = randomise(module.Model(*module.get_init_inputs()), 7)
    outs, inputs = [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        inputs.append(module.get_inputs())
        start = time.perf_counter()
        outs.append(model(*inputs[-1]))
        took = (time.perf_counter() - start) * 1e3
    if took > 50:
        problems.append(f"reference takes {took:.0f} ms")
    for label, factor, offset in DRAWS:
        scaled = [x * factor + offset for x in inputs[0]]
        out = model(*scaled)
        exact = model.double()(*[x.double() for x in scaled])
        model.float()
        error = ((out - exact).abs().max() / exact.abs().max().clamp(min=1e-30)).item()
        if not torch.isfinite(out).all():
            problems.append(f"{label} inputs: not finite")
        elif error > 2e-5 and label != "plus 2":
            problems.append(f"{label} inputs: fp32 error {error:.1e}")
    nulls = {"zeros": lambda i: torch.zeros_like(outs[i]), "a constant": lambda i: outs[i - 1].mean().expand_as(outs[i]),
             "another draw's output": lambda i: outs[i - 1]}
    for k in range(len(inputs[0])):
        nulls[f"input {k}"] = lambda i, k=k: inputs[i][k]
    for label, null in nulls.items():
        if all(close(null(i), outs[i]) for i in range(len(SEEDS))):
            problems.append(f"{label} passes")
    if outs[0].numel() > 4 and (outs[0].std() / outs[0].abs().mean()).item() < 0.02:
        problems.append("nearly constant output")
    text = source.split("\n")
    first = next(i for i, line in enumerate(text) if "def forward" in line) + 1
    last = next(i for i, line in enumerate(text) if line == "        return x")
    for i in range(first, last):
        if last - first < 2:
            break
        try:
            less = load("\n".join(text[:i] + text[i + 1:]), folder, f"less_{name}_{i}")
            wrong = randomise(less.Model(*less.get_init_inputs()), 7)
            wrong = [wrong(*x) for x in inputs]
        except Exception:
            continue
        if all(a.shape == b.shape and (a - b).abs().max() < 0.03 * b.abs().max() for a, b in zip(wrong, outs)):
            problems.append(f"`{text[i].strip()}` changes nothing")
    return problems


def example_problems(name, n, source, answer, folder):
    """What the interpreter says about a worked answer."""
    import torch

    reference = load(source, folder, f"ref_{name}")
    candidate = load(code_of(answer), folder, f"new_{name}_{n}")
    model = randomise(reference.Model(*reference.get_init_inputs()), 11)
    new = candidate.ModelNew(*reference.get_init_inputs())
    new.load_state_dict(model.state_dict())
    torch.manual_seed(5)
    nominal = reference.get_inputs()
    worst, took = 0.0, 0.0
    for label, factor, offset in DRAWS:
        inputs = [x * factor + offset for x in nominal]
        with torch.no_grad():
            want = model.double()(*[x.double() for x in inputs]).float()
        model.float()
        start = time.perf_counter()
        with torch.no_grad():
            got = new(*[x.clone() for x in inputs])
        took = time.perf_counter() - start
        if got.shape != want.shape or got.dtype != want.dtype or got.stride() != want.stride():
            return [f"shape, dtype or stride: {tuple(got.shape)} {got.stride()}, want {tuple(want.shape)} {want.stride()}"], took
        error = ((got - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()
        if not error < 1e-4:
            return [f"{label} inputs: error {error:.1e} of the output's scale"], took
        worst = max(worst, error)
    return [], took


def interpret(args):
    import torch

    torch.set_num_threads(1)
    failed, slow, unfit = 0, [], set()
    todo = answers(True, args)
    kept = {(name, n) for name, n, _, _ in answers(args.all, args)}
    with tempfile.TemporaryDirectory() as folder:
        for name, n, source, answer in todo:
            try:
                problems = reference_problems(name, source, folder) if n == 0 else []
            except Exception as error:
                problems = [f"{type(error).__name__}: {str(error)[-300:]}"]
            if (name, n) in kept:
                try:
                    more, took = example_problems(name, n, source, answer, folder)
                except Exception as error:
                    more, took = [f"{type(error).__name__}: {str(error)[-300:]}"], 0.0
                problems += [f"answer {n}: {p}" for p in more]
                slow.append((took * 1e3, name))
            for problem in problems:
                failed += 1
                unfit.add(name)
                print(f"FAIL {name}: {problem}", flush=True)
    slow.sort(reverse=True)
    print("slowest in the interpreter (ms):", ", ".join(f"{name} {ms:.0f}" for ms, name in slow[:8]))
    if args.write:
        dropped = HERE / "tasks" / "dropped.txt"
        dropped.write_text("".join(f"{name}\n" for name in sorted(unfit | set(dropped.read_text().split()))))
    print(f"interpreter: {len(todo)} answers seen, {len(kept)} run, {failed} problems")
    return failed


def compile_all(args):
    import torch
    from tasks import standin

    torch.set_num_threads(1)
    standin.install()
    failed = 0
    todo = answers(args.all, args)
    with tempfile.TemporaryDirectory() as folder:
        for name, n, source, answer in todo:
            reference = load(source, folder, f"ref_{name}")
            try:
                model = load(code_of(answer), folder, f"new_{name}_{n}").ModelNew(*reference.get_init_inputs())
                standin.LAUNCHES.clear()
                with torch.no_grad():
                    model(*reference.get_inputs())
                assert standin.LAUNCHES, "no kernel was launched"
            except Exception as error:
                failed += 1
                print(f"FAIL {name} answer {n}: {type(error).__name__}: {str(error)[-400:]}", flush=True)
    print(f"compiler: {len(todo)} answers, {failed} problems")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th task from I, to use several cores")
    parser.add_argument("--skip-compile", action="store_true")
    parser.add_argument("--write", action="store_true", help="add the tasks that fail to scripts/tasks/dropped.txt")
    parser.add_argument("--stage", choices=("interpret", "compile"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        return 1 if {"interpret": interpret, "compile": compile_all}[args.stage](args) else 0
    bad = 0
    for stage in ("interpret", "compile")[: 1 if args.skip_compile else 2]:
        env = dict(os.environ, OMP_NUM_THREADS="1")
        env.pop("TRITON_INTERPRET", None)
        if stage == "interpret":
            env["TRITON_INTERPRET"] = "1"
        bad |= subprocess.run([sys.executable, __file__, *sys.argv[1:], "--stage", stage], env=env).returncode
    return bad


if __name__ == "__main__":
    sys.exit(main())
