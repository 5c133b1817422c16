"""The families: which combinations of ops, skeletons and shapes become tasks. Deterministic; no order matters later."""

import random

from . import ops as O
from . import skeletons as S

FLAT_SHAPES = [(16, 64), (13, 77), (8, 128), (24, 40), (9, 111), (4, 8, 32), (3, 7, 41), (12, 100), (2, 16, 24)]
ROW_SHAPES = [(8, 64), (7, 77), (8, 128), (6, 40), (9, 33), (5, 100), (8, 50)]
COL_SHAPES = [(32, 8), (40, 7), (64, 6), (50, 9), (33, 8)]
CUBE_SHAPES = [(2, 4, 32), (2, 3, 41), (3, 3, 50), (2, 4, 25)]
SMALL_SHAPES = [(8, 16), (6, 20), (9, 13), (5, 24)]
MATMUL_SIZES = [(32, 32, 32), (48, 40, 64), (16, 64, 48), (33, 50, 40), (20, 36, 70), (24, 64, 32), (40, 33, 25)]


def short(key):
    return key.replace("_", "").replace(".", "")


def shape_name(shape):
    return "x".join(str(n) for n in shape)


class Names:
    """Readable task names, made unique."""

    def __init__(self, family):
        self.rng = random.Random(f"troupe tasks: {family}")
        self.turn = {}

    def shape(self, shapes):
        """Shapes in turn, so that each list is used evenly."""
        i = self.turn.get(id(shapes), self.rng.randrange(len(shapes)))
        self.turn[id(shapes)] = i + 1
        return shapes[i % len(shapes)]


def chain(rng, length, pool, used):
    """A new sequence of ops from `pool`: scalars are at most every second op and never first in a chain of activations."""
    while True:
        keys = []
        while len(keys) < length:
            op = O.get(rng.choice(pool))
            last = O.get(keys[-1]) if keys else None
            if op.key in keys or (last and op in O.SCALAR and last in O.SCALAR):
                continue
            keys.append(op.key)
        if tuple(keys) not in used and any(O.get(k) not in O.SCALAR for k in keys):
            used.add(tuple(keys))
            return keys


def balanced(rng, groups, count):
    """`count` keys, each group in turn and inside a group every key once before any comes again."""
    decks = [[] for _ in groups]
    out = []
    for i in range(count):
        which = i % len(groups)
        if not decks[which]:
            decks[which] = rng.sample(groups[which], len(groups[which]))
        out.append(decks[which].pop())
    return out


ACT = [o.key for o in O.ACTIVATIONS]
MATH = [o.key for o in O.MATH]
SCALAR = [o.key for o in O.SCALAR]
BINARY = [o.key for o in O.BINARY]
# Epilogues and neighbours of reductions: bounded growth, no op that hides a reduction's value.
EPILOGUE = ["relu", "sigmoid", "tanh", "silu", "gelu", "leaky_relu", "elu", "softplus", "hardswish", "softsign", "abs",
            "square", "sin", "sqrt_abs"]


def elementwise_single():
    names = Names("single")
    for op in O.ACTIVATIONS + O.MATH:
        shape = names.shape(FLAT_SHAPES)
        yield S.flat(f"l1_{short(op.key)}_{shape_name(shape)}", "activation" if op in O.ACTIVATIONS else "elementwise", 1,
                     shape, [op.key], S.tags_of([op.key], "elementwise"))


def elementwise_chains(counts=((2, 34), (3, 34), (4, 10))):
    names = Names("chains")
    used = set()
    for length, count in counts:
        deck = balanced(names.rng, [ACT, SCALAR, MATH, SCALAR], count * length * 4)
        for _ in range(count):
            keys = []
            while len(keys) < length:
                at = next(i for i, k in enumerate(deck) if fits(keys, k))
                keys.append(deck.pop(at))
            if tuple(keys) in used:
                continue
            used.add(tuple(keys))
            shape = names.shape(FLAT_SHAPES)
            yield S.flat(f"l2_{'_'.join(map(short, keys))}_{shape_name(shape)}", "chain", 2, shape, keys,
                         S.tags_of(keys, "elementwise", "fused"))


def fits(keys, key):
    """No op twice, no two scalars in a row."""
    if key in keys:
        return False
    return not (keys and key in SCALAR and keys[-1] in SCALAR)


def binary_chains(count=24):
    names = Names("binary")
    rng = names.rng
    binary = balanced(rng, [BINARY], count)
    others = balanced(rng, [ACT, SCALAR, MATH], count * 2)
    for i in range(count):
        one, two = others[2 * i], others[2 * i + 1]
        keys = [[one, binary[i]], [binary[i], one], [one, binary[i], two], [binary[i], one, two]][i % 4]
        if one in SCALAR and two in SCALAR and i % 4 == 3:
            keys = [one, binary[i], two]
        shape = names.shape(FLAT_SHAPES)
        yield S.flat(f"l2_{'_'.join(map(short, keys))}_{shape_name(shape)}", "binary", 2, shape, keys,
                     S.tags_of(keys, "elementwise", "fused"))


def affine_chains(count=15):
    names = Names("affine")
    rng = names.rng
    others = balanced(rng, [ACT, SCALAR, MATH], count * 2)
    for i in range(count):
        one, two = others[2 * i], others[2 * i + 1]
        param = [["scale"], ["bias"], ["scale", "bias"]][i % 3]
        keys = [param + [one], [one] + param, [one] + param + [two]][(i // 3) % 3]
        shape = names.shape(ROW_SHAPES)
        yield S.rows(f"l2_{'_'.join(map(short, keys))}_{shape_name(shape)}", "affine", 2, shape, keys,
                     S.tags_of(keys, "elementwise", "fused"))


def reductions():
    names = Names("reductions")
    rng = names.rng
    pre = balanced(rng, [SCALAR[:5], MATH, EPILOGUE], 200)
    post = balanced(rng, [SCALAR, EPILOGUE], 200)
    for i, op in enumerate(O.REDUCE):
        for where, dim, shapes in (("rows", "dim=1", ROW_SHAPES), ("cols", "dim=0", COL_SHAPES),
                                   ("keep", "dim=1, keepdim=True", ROW_SHAPES), ("last", "dim=-1", CUBE_SHAPES)):
            if where == "keep" and i % 2 or where == "last" and not i % 2:
                continue
            shape = names.shape(shapes)
            yield S.rows(f"l1_{op.key}_{where}_{shape_name(shape)}", "reduction", 1, shape, [op.key],
                         ["reduction"], dim)
        for j in range(3):
            where, dim, shapes = (("rows", "dim=1", ROW_SHAPES), ("cols", "dim=0", COL_SHAPES),
                                  ("last", "dim=-1", CUBE_SHAPES))[(i + j) % 3]
            before, after = pre.pop(), post.pop()
            keys = [[before, op.key], [op.key, after], [before, op.key, after]][j]
            shape = names.shape(shapes)
            yield S.rows(f"l2_{'_'.join(map(short, keys))}_{where}_{shape_name(shape)}", "fused_reduction", 2, shape, keys,
                         S.tags_of(keys, "reduction", "fused"), dim)
    for key in ("sum", "mean", "amax", "l2norm"):
        shape = names.shape(SMALL_SHAPES)
        yield S.rows(f"l1_{key}_all_{shape_name(shape)}", "reduction", 1, shape, [key], ["reduction"], "")


# torch.sum(x, ) is written torch.sum(x): `dim=""` is cleaned up in the draft's lines.
def tidy(draft):
    draft.ref = [line.replace(", )", ")") for line in draft.ref]
    return draft


def softmaxes():
    names = Names("softmax")
    rng = names.rng
    pre = balanced(rng, [["mul_0.5", "mul_2.0", "mul_0.25", "div_2.0", "mul_3.0"], ["relu", "tanh", "gelu", "abs", "sin", "neg"]], 200)
    post = balanced(rng, [["mul_3.0", "mul_2.0", "add_0.5", "mul_0.5", "sub_0.5"], ["square", "sqrt_abs", "neg", "sin"]], 200)
    for op in O.SOFTMAX:
        for where, dim, shapes in (("rows", "dim=1", ROW_SHAPES), ("cols", "dim=0", COL_SHAPES), ("last", "dim=-1", CUBE_SHAPES)):
            shape = names.shape(shapes)
            yield S.rows(f"l1_{short(op.key)}_{where}_{shape_name(shape)}", "softmax", 1, shape, [op.key], ["softmax"], dim)
        for j in range(7):
            where, dim, shapes = (("rows", "dim=1", ROW_SHAPES), ("cols", "dim=0", COL_SHAPES), ("last", "dim=-1", CUBE_SHAPES))[j % 3]
            keys = [[pre.pop(0), op.key], [op.key, post.pop(0)], [pre.pop(0), op.key, post.pop(0)]][[0, 0, 1, 2, 0, 2, 0][j]]
            shape = names.shape(shapes)
            yield S.rows(f"l2_{'_'.join(map(short, keys))}_{where}_{shape_name(shape)}", "softmax", 2, shape, keys,
                         S.tags_of(keys, "softmax", "fused"), dim)


def norms():
    names = Names("norms")
    rng = names.rng
    around = balanced(rng, [SCALAR[:5] + SCALAR[6:9], ACT], 200)
    for i, op in enumerate(O.NORMS):
        shape = names.shape(ROW_SHAPES)
        yield S.rows(f"l1_{short(op.key)}_{shape_name(shape)}", "norm", 1, shape, [op.key], ["norm"], "dim=1")
        for j in range(4):
            other = around.pop(0)
            # A scale or shift before a normalisation is undone by it.
            keys = [op.key, other] if other in SCALAR or j % 2 else [other, op.key]
            shape = names.shape(ROW_SHAPES if j != 2 else CUBE_SHAPES)
            dim = "dim=1" if j != 2 else "dim=-1"
            yield S.rows(f"l2_{'_'.join(map(short, keys))}_{shape_name(shape)}", "norm", 2, shape, keys,
                         S.tags_of(keys, "norm", "fused"), dim)
    for key in ("l2_normalize", "centre"):
        shape = names.shape(COL_SHAPES)
        yield S.rows(f"l1_{short(key)}_cols_{shape_name(shape)}", "norm", 1, shape, [key], ["norm"], "dim=0")
    for i, (shape, groups, affine) in enumerate([((2, 8, 20), 4, True), ((2, 6, 25), 2, True), ((3, 4, 30), 2, False),
                                                 ((2, 8, 16), 4, False), ((2, 6, 20), 2, True)]):
        tail = [] if i % 2 == 0 else [around.pop(0)]
        name = f"groupnorm{groups}" + ("" if affine else "_plain") + "".join("_" + short(k) for k in tail)
        yield S.group_norm(f"l{1 + bool(tail)}_{name}_{shape_name(shape)}", 1 + bool(tail), shape, groups, affine, tail,
                           S.tags_of(tail, "norm"))
        key = around.pop(0)
        yield S.group_norm(f"l2_groupnorm{groups}{'' if affine else '_plain'}_{short(key)}_{shape_name(shape)}", 2, shape,
                           groups, affine, [key], S.tags_of([key], "norm", "fused"))


def matmuls():
    names = Names("matmul")
    rng = names.rng
    for form in ("nn", "nt", "tn", "linear", "batched"):
        sizes = names.shape(MATMUL_SIZES)
        yield S.matmul(f"l1_{form}_matmul_{shape_name(sizes)}", "matmul", 1, sizes, form, [], ["matmul"])
    for form in ("linear", "nn"):
        sizes = names.shape(MATMUL_SIZES)
        yield S.matmul(f"l1_{form}_matmul_bias_{shape_name(sizes)}", "matmul", 1, sizes, form, ["bias"], ["matmul"])
    acts = balanced(rng, [EPILOGUE], 200)
    scalars = balanced(rng, [SCALAR], 200)
    for i, form in enumerate(["nn", "linear", "nt", "linear", "tn", "linear", "batched", "nn"] * 4):
        keys = [[acts.pop()], [scalars.pop(), acts.pop()], [acts.pop(), scalars.pop()]][i % 3]
        if form == "linear" and i % 4 != 3 or form == "nn" and i % 8 == 7:
            keys = ["bias"] + keys
        sizes = names.shape(MATMUL_SIZES)
        yield S.matmul(f"l2_{form}_matmul_{'_'.join(map(short, keys))}_{shape_name(sizes)}", "fused_matmul", 2, sizes, form,
                       keys, S.tags_of([k for k in keys if k != "bias"], "matmul", "fused"))


def transposes():
    names = Names("transposes")
    rng = names.rng
    two, three = [(8, 40), (9, 33), (7, 50), (6, 64)], [(2, 4, 32), (3, 3, 25), (2, 5, 20)]
    around = balanced(rng, [SCALAR, ACT], 200)
    for key, (_, rank, _, _, _) in S.MOVES.items():
        shape = names.shape(two if rank == 2 else three)
        yield S.move(f"l1_{key}_{shape_name(shape)}", "transpose", 1, shape, key, [], ["transpose"])
        for after in (False, True, False, True):
            op = around.pop()
            shape = names.shape(two if rank == 2 else three)
            name = f"{short(op)}_{key}" if not after else f"{key}_{short(op)}"
            yield S.move(f"l2_{name}_{shape_name(shape)}", "transpose", 2, shape, key, [op],
                         S.tags_of([op], "transpose", "fused"), after)


def pools():
    names = Names("pools")
    rng = names.rng
    one, two = [(2, 4, 32), (2, 3, 41), (2, 4, 50)], [(1, 3, 8, 8), (1, 4, 9, 7), (2, 2, 10, 8)]
    around = balanced(rng, [SCALAR, EPILOGUE], 200)
    windows = ((2, 2), (3, 2), (3, 1), (4, 4), (2, 1), (3, 3), (4, 2))
    for i, (kind, rank, window, stride) in enumerate(
        [(k, r, w, s) for k in ("avg", "max") for r in (1, 2) for w, s in windows if r == 1 or w < 4]
    ):
        shape = names.shape(two if rank == 2 else one)
        keys = [around.pop()] if i % 2 else []
        level = 2 if keys else 1
        name = f"{kind}pool{rank}d_{window}_{stride}" + "".join("_" + short(k) for k in keys)
        yield S.pool(f"l{level}_{name}_{shape_name(shape)}", level, shape, kind, window, stride, keys,
                     S.tags_of(keys, "pooling"))


def losses():
    names = Names("losses")
    rng = names.rng
    scales = balanced(rng, [["mul_0.5", "mul_2.0", "mul_3.0", "div_2.0", "log1p_abs", "sqrt_abs"]], 200)
    for i, op in enumerate(O.LOSSES):
        targets = "torch.rand(M, N)" if op.key == "bce" else None
        for reduce, where in (("mean", "all"), ("sum", "all"), ("mean", "rows"), ("sum", "rows")):
            if (reduce, where) == ("sum", ("all", "rows")[i % 2]):
                continue
            dim = "" if where == "all" else "dim=1"
            shape = names.shape(SMALL_SHAPES if where == "all" else ROW_SHAPES)
            yield S.rows(f"l1_{short(op.key)}_{reduce}_{where}_{shape_name(shape)}", "loss", 1, shape, [op.key, reduce],
                         ["loss", "reduction"], dim, y_expr=targets)
        post = scales.pop()
        dim, where = (("", "all"), ("dim=1", "rows"))[i % 2]
        shape = names.shape(SMALL_SHAPES if where == "all" else ROW_SHAPES)
        yield S.rows(f"l2_{short(op.key)}_mean_{short(post)}_{where}_{shape_name(shape)}", "loss", 2, shape,
                     [op.key, "mean", post], ["loss", "reduction", "fused"], dim, y_expr=targets)


def two_input_rows():
    """KL divergence of two sets of logits, cosine similarity: reductions over two inputs."""
    names = Names("pairs")
    for reduce, post in (("sum", []), ("sum", ["mul_0.5"]), ("mean", [])):
        for key in ("kl", "cosine"):
            if key == "cosine" and reduce == "mean":
                continue
            shape = names.shape(ROW_SHAPES)
            keys = (["kl", reduce] if key == "kl" else ["cosine"]) + post
            yield S.rows(f"l{1 + bool(post)}_{'_'.join(map(short, keys))}_{shape_name(shape)}", "loss", 1 + bool(post), shape,
                         keys, ["loss", "reduction"] + (["fused"] if post else []), "dim=1")


def scans():
    names = Names("scans")
    rng = names.rng
    pre = balanced(rng, [["mul_0.5", "mul_2.0", "mul_0.25", "add_0.1"], ["relu", "tanh", "abs", "square", "sigmoid", "sin"]], 200)
    post = balanced(rng, [["mul_0.5", "mul_2.0", "add_0.5"], ["tanh", "sigmoid", "abs", "softsign"]], 200)
    for op in O.SCANS:
        scale, shapes = ("", ROW_SHAPES) if op.key != "cumprod" else (" * 0.25 + 1.0", [(8, 24), (7, 20), (9, 17)])
        shape = names.shape(shapes)
        yield S.rows(f"l1_{op.key}_{shape_name(shape)}", "cumulative", 1, shape, [op.key], ["cumulative"], "dim=1", scale)
        chains = [[pre.pop(0), op.key], [op.key, post.pop(0)], [pre.pop(0), op.key, post.pop(0)]]
        if op.key == "cumprod":
            chains = [["cumprod", "mul_2.0"], ["cumprod", "tanh"]]
        for keys in chains:
            shape = names.shape(shapes)
            yield S.rows(f"l2_{'_'.join(map(short, keys))}_{shape_name(shape)}", "cumulative", 2, shape, keys,
                         S.tags_of(keys, "cumulative", "fused"), "dim=1", scale)
    shape = names.shape(COL_SHAPES)
    yield S.rows(f"l1_cumsum_cols_{shape_name(shape)}", "cumulative", 1, shape, ["cumsum"], ["cumulative"], "dim=0")
    yield S.rows("l2_cumsum_relu_cols_40x7", "cumulative", 2, (40, 7), ["cumsum", "relu"],
                 ["cumulative", "fused", "activation"], "dim=0")


def attentions():
    names = Names("attention")
    shapes = [(2, 16, 16), (3, 13, 16), (2, 16, 9), (4, 10, 12), (2, 24, 16)]
    plans = [([], "softmax", []), (["mul_0.25"], "softmax", []), ([], "causal", []), (["mul_0.25"], "causal", []),
             (["mul_0.5"], "causal", ["relu"]), (["mul_0.5"], "softmax", ["tanh"]), (["mul_0.25"], "relu", []),
             (["mul_0.25"], "sigmoid", []), (["div_2.0"], "softmax", ["mul_2.0"]), (["div_3.0"], "causal", []),
             (["mul_0.25"], "softmax", ["gelu"]), ([], "tanh", ["mul_0.5"])]
    for before, weights, after in plans:
        shape = names.shape(shapes)
        level = 1 if not before and not after else 2
        name = "_".join(["attention"] + [short(k) for k in before] + [weights] + [short(k) for k in after])
        yield S.attention(f"l{level}_{name}_{shape_name(shape)}", level, shape, before, weights, after,
                          ["attention", "matmul"] + (["softmax"] if weights in ("softmax", "causal") else []))


FAMILIES = [elementwise_single, elementwise_chains, binary_chains, affine_chains, reductions, softmaxes, norms, matmuls,
            transposes, pools, losses, two_input_rows, scans, attentions]


def all_drafts():
    return [tidy(draft) for family in FAMILIES for draft in family()]
