"""Writes `tasks/`: sources by split and level, worked examples, and the manifest. Deterministic; needs no torch.

    python3 scripts/make_tasks.py [--out tasks] [--kernelbench DIR] [--check]

`--check` writes nothing and fails when the committed files differ from what would be written.
"""

import argparse
import ast
import hashlib
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tasks import splits  # noqa: E402
from tasks.canonical import canonical, check as check_canonical  # noqa: E402

NAMES = "kernelbench_names.txt"
# Single operators whose whole model is KernelBench's, at other sizes: `return torch.relu(x)` can be written in one way.
# Closed list: one more is a problem, and so is a name here that is no longer so.
SAME_MODEL = {
    "l1_batched_matmul_33x50x40", "l1_nn_matmul_40x33x25", "l1_relu_12x100", "l1_sigmoid_2x16x24", "l1_softmax_rows_9x33",
    "l1_tanh_16x64",
}


def plain(name):
    """A problem name without number, level, shape and punctuation: `19_ReLU` and `l1_relu_12x100` are both `relu`."""
    name = re.sub(r"^(l?\d+_)", "", name)
    name = re.sub(r"(_\d+)?(_\d+x[\dx]+)?$", "", name)
    return re.sub(r"[^a-z0-9]", "", name.lower())


def kernelbench(folder):
    """(names, {name: canonical model}) of a KernelBench checkout."""
    models = {}
    for path in sorted(folder.glob("level*/*.py")):
        models[f"{path.parent.name}/{path.stem}"] = canonical(path.read_text())
    return sorted(models), models


def decontaminate(assigned, names, models):
    """Level 2 names must differ from every KernelBench name; no model but those of SAME_MODEL may be the same in canonical
    form. Level 1 operators are shared by nature (both sets have a ReLU), so same names at level 1 are reported only;
    tests/tests/tasks.rs pins them."""
    problems, shared, found = [], [], set()
    known = {plain(name.split("/")[1]): name for name in names}
    trees = {tree: name for name, tree in models.items()}
    for draft, _, _ in assigned:
        same = known.get(plain(draft.name))
        if same and draft.level == 1:
            shared.append(f"{draft.name} ~ {same}")
        elif same:
            problems.append(f"{draft.name} has the name of KernelBench {same}")
        same = trees.get(canonical(draft.source()))
        if same and draft.name in SAME_MODEL:
            found.add(draft.name)
        elif same:
            problems.append(f"{draft.name} has the model of KernelBench {same}")
    if models:
        problems += [f"{name} has no model of KernelBench: take it from SAME_MODEL" for name in SAME_MODEL - found]
    return problems, shared


def check_splits(assigned):
    """No model in two splits, no name twice, every held-out line seen in training examples."""
    problems = []
    where = {}
    for draft, split, _ in assigned:
        ast.parse(draft.source())
        other = where.setdefault(canonical(draft.source()), (draft.name, split))
        if other[1] != split:
            problems.append(f"{draft.name} ({split}) has the model of {other[0]} ({other[1]})")
    if len({d.name for d, _, _ in assigned}) != len(assigned):
        problems.append("two tasks have one name")
    shown = Counter(line for d, _, has in assigned if has for line in splits.lines(d))
    for draft, split, _ in assigned:
        rare = [line for line in splits.lines(draft) if shown[line] < 2]
        if rare and split != "train":
            problems.append(f"{draft.name} ({split}) needs a line in fewer than two examples: {rare[0]}")
    return problems


def files(assigned):
    """{relative path: text} of everything generated."""
    out, entries = {}, []
    for draft, split, has in assigned:
        source = draft.source()
        out[f"{split}/level{draft.level}/{draft.name}.py"] = source
        answers = [draft.answer(body) for body in splits.spellings(draft)] if has else []
        for n, answer in enumerate(answers):
            out[f"examples/{draft.name}__{n}.md"] = answer
        entries.append({"id": draft.name, "level": draft.level, "split": split, "family": draft.family, "tags": draft.tags,
                        "examples": len(answers), "sha256": hashlib.sha256(source.encode()).hexdigest()})
    lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
    out["manifest.json"] = f"[\n{lines}\n]\n"
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "tasks")
    parser.add_argument("--kernelbench", type=Path, help="a KernelBench checkout: its names are listed, its models compared")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()

    check_canonical()
    assigned = splits.assign()
    listed = args.out / NAMES
    names, models = listed.read_text().split() if listed.exists() else [], {}
    if args.kernelbench:
        names, models = kernelbench(args.kernelbench)
    problems, shared = decontaminate(assigned, names, models)
    problems += check_splits(assigned)
    out = files(assigned)
    if args.check:
        problems += [f"{path} differs" for path, text in out.items()
                     if not (args.out / path).exists() or (args.out / path).read_text() != text]
        known = {args.out / path for path in out}
        problems += [f"{p} is not generated" for p in args.out.glob("*/**/*") if p.is_file() and p not in known]
    elif not problems:
        for folder in ("train", "validation", "held_out", "examples"):
            shutil.rmtree(args.out / folder, ignore_errors=True)
        for path, text in out.items():
            (args.out / path).parent.mkdir(parents=True, exist_ok=True)
            (args.out / path).write_text(text)
        if args.kernelbench:
            listed.write_text("\n".join(names) + "\n")
    report(assigned, out, shared)
    for problem in problems:
        print(f"PROBLEM {problem}")
    return 1 if problems else 0


def report(assigned, out, shared):
    table = Counter((d.family, d.level, s) for d, s, _ in assigned)
    shown = Counter((d.family, d.level) for d, _, has in assigned if has)
    print(f"{'family':16} level train (examples) validation held_out")
    for family, level in sorted({(d.family, d.level) for d, _, _ in assigned}):
        n = [table[family, level, s] for s in ("train", "validation", "held_out")]
        print(f"{family:16} {level:5} {n[0]:5} {shown[family, level]:10} {n[1]:10} {n[2]:8}")
    total = Counter(s for _, s, _ in assigned)
    print(f"{'all':16}       {total['train']:5} {sum(shown.values()):10} {total['validation']:10} {total['held_out']:8}")
    print(f"{sum(p.startswith('examples/') for p in out)} example files; single operators KernelBench also has: {len(shared)}")


if __name__ == "__main__":
    sys.exit(main())
