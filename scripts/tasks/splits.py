"""Which task is in which split, and which training tasks get worked examples.

Stratified over families. A task may be held out (or kept for RL alone) only if every line of its answer stays common
enough among the tasks that remain: held-out tasks are unseen combinations of seen lines, never unseen lines.
"""

import ast
import random
from collections import Counter

# Found by `check_examples.py --all`: leaving out one op, or a trivial answer, is too close to the right one, or fp32 is too
# coarse for scaled inputs.
UNDISCRIMINATING = frozenset([
    "l2_attention_tanh_mul05_2x16x16",
    "l2_batched_matmul_sub05_relu_32x32x32",
    "l2_cos_logsumexp_last_2x4x25",
    "l2_gelu_softmax_sin_last_3x3x50",
    "l2_l1norm_add01_last_2x3x41",
    "l2_l2norm_silu_rows_8x64",
    "l2_leakyrelu_add05_abs_12x100",
    "l2_mul15_logsigmoid_add01_4x8x32",
    "l2_nn_matmul_silu_sub05_32x32x32",
    "l2_nt_matmul_sub15_sin_16x64x48",
    "l2_relu_amax_leakyrelu_cols_64x6",
    "l2_sigmoid_mul025_clamp_3x7x41",
    "l2_silu_add01_sqrtabs_13x77",
    "l2_sin_amin_rows_8x128",
    "l2_softmargin_mean_sqrtabs_rows_7x77",
    "l2_softplus_mul20_abs_2x16x24",
    "l2_softsign_mul025_clamp_16x64",
    "l2_sqrtabs_sum_rows_8x128",
    "l2_sqrtabs_sum_sqrtabs_last_2x4x25",
    "l2_square_add01_4x8x32",
    "l2_square_cumsum_abs_7x77",
    "l2_std_relu_last_3x3x50",
    "l2_tanh_softmax_sqrtabs_rows_8x50",
    "l2_tn_matmul_sin_20x36x70",
])

HELD_OUT, VALIDATION, EXAMPLES = 0.155, 0.085, 0.56
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


def assign(drafts):
    """[(draft, split, has example)] sorted by name; no normalised model in two splits."""
    unique = {}
    for draft in drafts:
        if draft.name not in UNDISCRIMINATING:
            unique.setdefault(normalised(draft.source()), draft)
    pool = sorted(unique.values(), key=lambda d: d.name)
    families = sorted({d.family for d in pool})
    split = {d.name: "train" for d in pool}
    count = Counter(line for d in pool for line in lines(d))
    for target, share in (("held_out", HELD_OUT), ("validation", VALIDATION)):
        for family in families:
            members = shuffled([d for d in pool if d.family == family], f"{target} {family}")
            take(members, round(share * len(members)), split, target, count)
    train = [d for d in pool if split[d.name] == "train"]
    shown = {d.name: True for d in train}
    count = Counter(line for d in train for line in lines(d))
    for family in families:
        members = shuffled([d for d in train if d.family == family], f"examples {family}")
        for draft in members:
            inside = [d for d in members if shown[d.name]]
            if len(inside) - 1 < EXAMPLES * len(members):
                break
            if all(count[line] > EXAMPLE_LINES for line in lines(draft)):
                shown[draft.name] = False
                count.subtract(lines(draft))
    return [(d, split[d.name], shown.get(d.name, False)) for d in pool]


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
