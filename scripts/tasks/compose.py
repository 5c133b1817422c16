"""Random compositions of the same ops and skeletons: the bulk of the training tasks.

A small policy learns to translate line by line only from many different sequences of lines; hand-written lists are too few.
"""

import random

from . import ops as O
from . import skeletons as S
from . import families as F

POINT = F.ACT + F.MATH + F.SCALAR
SHIFTS = [k for k in F.SCALAR if k[:3] in ("add", "sub")]
SCALES = [k for k in F.SCALAR if k[:3] in ("mul", "div")]


def ops(rng, low, high, pool=None):
    """A sequence of pointwise ops: none twice, no two scalars in a row, half of all ops scalar."""
    keys = []
    while len(keys) < rng.randint(low, high):
        key = rng.choice(pool or (F.SCALAR if rng.random() < 0.4 else F.ACT + F.MATH))
        if F.fits(keys, key):
            keys.append(key)
    return keys


def draw(rng):
    """One task, the family by weight."""
    build = rng.choices(*zip(*((f, w) for f, w in WEIGHTS.items())))[0]
    return build(rng)


def named(kind, keys, shape):
    return f"l2_{kind}{'_' if kind and keys else ''}{'_'.join(F.short(k) for k in keys)}_{F.shape_name(shape)}"


def flat(rng):
    keys, shape = ops(rng, 2, 4), rng.choice(F.FLAT_SHAPES)
    return S.flat(named("", keys, shape), "chain", 2, shape, keys, S.tags_of(keys, "elementwise", "fused"))


def binary(rng):
    keys, shape = ops(rng, 1, 3), rng.choice(F.FLAT_SHAPES)
    keys.insert(rng.randint(0, len(keys)), rng.choice(F.BINARY))
    return S.flat(named("", keys, shape), "binary", 2, shape, keys, S.tags_of(keys, "elementwise", "fused"))


def affine(rng):
    keys, shape = ops(rng, 1, 2), rng.choice(F.ROW_SHAPES)
    for key in rng.choice([["scale"], ["bias"], ["scale", "bias"]]):
        keys.insert(rng.randint(0, len(keys)), key)
    return S.rows(named("", keys, shape), "affine", 2, shape, keys, S.tags_of(keys, "elementwise", "fused"))


def where(rng, *more):
    return rng.choice([("rows", "dim=1", F.ROW_SHAPES), ("cols", "dim=0", F.COL_SHAPES), ("last", "dim=-1", F.CUBE_SHAPES), *more])


def around(rng, key, before, after):
    """One op with pointwise neighbours: at least one, on either side."""
    while True:
        keys = (ops(rng, 1, 1, before) if rng.random() < 0.5 else []) + [key]
        keys += ops(rng, 1, 2, after) if rng.random() < 0.65 else []
        if len(keys) > 1:
            return keys


def reduction(rng):
    place, dim, shapes = where(rng, ("keep", "dim=1, keepdim=True", F.ROW_SHAPES), ("all", "", F.SMALL_SHAPES))
    op = rng.choice([o for o in O.REDUCE if dim or o.key != "logsumexp"])
    shape, keys = rng.choice(shapes), around(rng, op.key, F.SCALAR + F.MATH + F.ACT, F.SCALAR + F.EPILOGUE)
    return S.rows(named("", keys, shape) + "_" + place, "fused_reduction", 2, shape, keys, S.tags_of(keys, "reduction", "fused"),
                  dim)


def softmax(rng):
    place, dim, shapes = where(rng)
    shape, keys = rng.choice(shapes), around(rng, rng.choice(O.SOFTMAX).key, SCALES + F.ACT + F.MATH, F.SCALAR + F.MATH)
    return S.rows(named("", keys, shape) + "_" + place, "softmax", 2, shape, keys, S.tags_of(keys, "softmax", "fused"), dim)


def norm(rng):
    dim, shapes = rng.choice([("dim=1", F.ROW_SHAPES), ("dim=-1", F.CUBE_SHAPES)])
    shape, keys = rng.choice(shapes), around(rng, rng.choice(O.NORMS).key, F.ACT + F.MATH, F.SCALAR + F.ACT)
    return S.rows(named("", keys, shape), "norm", 2, shape, keys, S.tags_of(keys, "norm", "fused"), dim)


def group_norm(rng):
    shape, groups = rng.choice([((2, 8, 20), 4), ((2, 6, 25), 2), ((3, 4, 30), 2), ((2, 8, 16), 4)])
    affine, keys = rng.random() < 0.5, ops(rng, 1, 2)
    kind = f"groupnorm{groups}" + ("" if affine else "_plain")
    return S.group_norm(named(kind, keys, shape), 2, shape, groups, affine, keys, S.tags_of(keys, "norm", "fused"))


def matmul(rng):
    form, sizes = rng.choice(["nn", "nt", "tn", "linear", "linear", "batched"]), rng.choice(F.MATMUL_SIZES)
    keys = ops(rng, 1, 3, F.SCALAR + [k for k in F.EPILOGUE if k != "sin"])
    if form in ("nn", "linear") and rng.random() < 0.6:
        keys.insert(0, "bias")
    return S.matmul(named(f"{form}_matmul", keys, sizes), "fused_matmul", 2, sizes, form, keys,
                    S.tags_of([k for k in keys if k != "bias"], "matmul", "fused"))


def transpose(rng):
    key = rng.choice(list(S.MOVES))
    shape = rng.choice([(8, 40), (9, 33), (7, 50), (6, 64)] if S.MOVES[key][1] == 2 else [(2, 4, 32), (3, 3, 25), (2, 5, 20)])
    keys, after = ops(rng, 1, 3), rng.random() < 0.5
    return S.move(named(key, keys, shape) + ("_after" if after else ""), "transpose", 2, shape, key, keys,
                  S.tags_of(keys, "transpose", "fused"), after)


def pooling(rng):
    kind, rank = rng.choice(["avg", "max"]), rng.choice([1, 2])
    window, stride = rng.choice([(2, 2), (3, 2), (3, 1), (2, 1), (3, 3)] + [(4, 4), (4, 2)] * (rank == 1))
    shape = rng.choice([(2, 4, 32), (2, 3, 41), (2, 4, 50)] if rank == 1 else [(1, 3, 8, 8), (1, 4, 9, 7), (2, 2, 10, 8)])
    keys = ops(rng, 1, 3)
    return S.pool(named(f"{kind}pool{rank}d_{window}_{stride}", keys, shape), 2, shape, kind, window, stride, keys,
                  S.tags_of(keys, "pooling", "fused"))


def loss(rng):
    op, reduce = rng.choice(O.LOSSES + O.PAIRS), rng.choice([["mean"], ["sum"]])
    dim, place, shapes = rng.choice([("", "all", F.SMALL_SHAPES), ("dim=1", "rows", F.ROW_SHAPES)])
    if op in O.PAIRS:
        dim, place, shapes = "dim=1", "rows", F.ROW_SHAPES
        reduce = ["sum"] if op.key == "kl" else []
    shape, keys = rng.choice(shapes), [op.key] + reduce + ops(rng, 1, 2, SCALES + SHIFTS + ["log1p_abs", "sqrt_abs"])
    return S.rows(named("", keys, shape) + "_" + place, "loss", 2, shape, keys, ["loss", "reduction", "fused"], dim,
                  y_expr="torch.rand(M, N)" if op.key == "bce" else None)


def scan(rng):
    op = rng.choice(O.SCANS)
    keys = around(rng, op.key, ["mul_0.5", "mul_2.0", "mul_0.25"] + F.EPILOGUE, SCALES + F.EPILOGUE)
    (place, dim, shapes), scale = where(rng), ""
    if op.key == "revcumsum" or op.key == "cumprod":
        place, dim, shapes = "rows", "dim=1", F.ROW_SHAPES
    if op.key == "cumprod":
        keys, scale, shapes = ["cumprod"] + ops(rng, 1, 2, SCALES + F.EPILOGUE), " * 0.25 + 1.0", [(8, 24), (7, 20), (9, 17)]
    shape = rng.choice(shapes)
    return S.rows(named("", keys, shape) + "_" + place, "cumulative", 2, shape, keys, S.tags_of(keys, "cumulative", "fused"), dim,
                  scale)


def attention(rng):
    shape = rng.choice([(2, 16, 16), (3, 13, 16), (2, 16, 9), (4, 10, 12), (2, 24, 16)])
    before, weights = ops(rng, 0, 1, SCALES), rng.choice(["softmax", "causal", "relu", "sigmoid"])
    after = ops(rng, 0, 2, F.SCALAR + F.EPILOGUE)
    kind = "_".join(["attention"] + [F.short(k) for k in before] + [weights])
    return S.attention(named(kind, after, shape), 2, shape, before, weights, after,
                       ["attention", "matmul"] + (["softmax"] if weights in ("softmax", "causal") else []))


WEIGHTS = {flat: 5, binary: 2, affine: 2, reduction: 3, softmax: 2, norm: 2, group_norm: 1, matmul: 3, transpose: 2, pooling: 2,
           loss: 2, scan: 2, attention: 1}


def drafts(count, seed="composed"):
    """`count` draws; names and models may repeat, the caller keeps the first of each."""
    rng = random.Random(f"troupe tasks: {seed}")
    return [F.tidy(draw(rng)) for _ in range(count)]
