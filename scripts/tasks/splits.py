"""Which task is in which split, and which training tasks get worked examples.

Stratified over families. A task may be held out (or kept for RL alone) only if every line of its answer stays common
enough among the tasks that remain: held-out tasks are unseen combinations of seen lines, never unseen lines.
"""

import ast
import random
from collections import Counter
from pathlib import Path

from . import compose, families

# Names found by `check_examples.py --all --write`: leaving out one op, or a trivial answer, is too close to the right one,
# or single precision is too coarse for scaled inputs.
DROPPED = frozenset((Path(__file__).parent / "dropped.txt").read_text().split())

HELD_OUT, VALIDATION, EXAMPLES = 0.125, 0.08, 0.56
# Composed tasks: all in training, the first so many with an example (see compose.py).
DRAWN, COMPOSED_EXAMPLES = 1550, 1000
# A line of a held-out answer is in at least this many training tasks, and in this many examples.
TRAIN_LINES, EXAMPLE_LINES = 2, 2


def normalised(source):
    """The tree of `class Model` alone: no comments, sizes or layout."""
    tree = ast.parse(source)
    model = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Model")
    return ast.dump(ast.Module([n for n in model.body if not is_doc(n)], []))


def is_doc(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def lines(draft):
    return set(draft.answer().splitlines())


def assign():
    """[(draft, split, has example)] sorted by name; no normalised model in two splits."""
    unique, taken = {}, set()
    composed = compose.drafts(DRAWN)
    every = families.all_drafts() + composed
    unfit = {normalised(draft.source()) for draft in every if draft.name in DROPPED}
    for draft in every:
        model = normalised(draft.source())
        if model not in unfit and draft.name not in taken and model not in unique:
            unique[model] = draft
            taken.add(draft.name)
    drawn = {id(d) for d in composed}
    extra = sorted((d for d in unique.values() if id(d) in drawn), key=lambda d: d.name)
    pool = sorted((d for d in unique.values() if id(d) not in drawn), key=lambda d: d.name)
    kinds = sorted({d.family for d in pool})
    split = {d.name: "train" for d in pool}
    count = Counter(line for d in pool + extra for line in lines(d))
    for target, share in (("held_out", HELD_OUT), ("validation", VALIDATION)):
        for family in kinds:
            members = shuffled([d for d in pool if d.family == family], f"{target} {family}")
            take(members, round(share * len(members)), split, target, count)
    train = [d for d in pool if split[d.name] == "train"]
    shown = {d.name: True for d in train}
    count = Counter(line for d in train for line in lines(d))
    for family in kinds:
        members = shuffled([d for d in train if d.family == family], f"examples {family}")
        for draft in members:
            inside = [d for d in members if shown[d.name]]
            if len(inside) - 1 < EXAMPLES * len(members):
                break
            if all(count[line] > EXAMPLE_LINES for line in lines(draft)):
                shown[draft.name] = False
                count.subtract(lines(draft))
    for draft in shuffled(extra, "composed")[:COMPOSED_EXAMPLES]:
        shown[draft.name] = True
    out = [(d, split.get(d.name, "train"), shown.get(d.name, False)) for d in pool + extra]
    return sorted(out, key=lambda entry: entry[0].name)


def spellings(draft):
    """Bodies of the answers to ship: the plain one, and for short programs with another spelling that one too."""
    return [None] + (draft.bodies if len(draft.plan) == 1 else [])


def take(members, wanted, split, target, count):
    """Moves up to `wanted` tasks of one family, both levels in turn, whose lines all stay common."""
    queues = [[d for d in members if d.level == level] for level in (1, 2)]
    moved = 0
    while moved < wanted and any(queues):
        for queue in queues:
            while queue and moved < wanted:
                draft = queue.pop()
                if split[draft.name] == "train" and all(count[line] > TRAIN_LINES for line in lines(draft)):
                    split[draft.name] = target
                    count.subtract(lines(draft))
                    moved += 1
                    break


def shuffled(items, seed):
    items = list(items)
    random.Random(f"troupe tasks: {seed}").shuffle(items)
    return items
