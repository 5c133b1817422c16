"""The op vocabulary: for each op its line in a reference, its lines in a kernel, and its line in a plan.

Every op reads and writes one value named `x`, so that any sequence of ops is a program and a translation goes line by
line. A kernel line is the same text in every family (flat, row, column, matmul epilogue): only the skeleton differs.
"""

from dataclasses import dataclass

INF = 'float("inf")'
NEG_INF = 'float("-inf")'


@dataclass(frozen=True)
class Op:
    """One op. `needs`: kernel values besides x (y: second input, w: weight, b: bias); `alt`: another honest spelling."""

    key: str
    plan: str
    ref: tuple
    kern: tuple
    tag: str = "elementwise"
    needs: tuple = ()
    alt: tuple = ()
    # reduce: drops the reduced dimension; map: keeps the shape but reads the whole row
    kind: str = "point"


def _point(key, ref, *kern, plan=None, tag="elementwise", needs=(), alt=()):
    return Op(key, plan or key.replace("_", " "), (f"x = {ref}",), tuple(f"x = {k}" for k in kern), tag, needs,
              tuple(f"x = {k}" for k in alt))


ACT = "activation"
MUL, ADD, SUB, DIV = (0.5, 2.0, 1.5, 0.25, 3.0), (0.5, 2.0, 1.5, 0.1), (0.5, 1.5), (2.0, 3.0)

ACTIVATIONS = [
    _point("relu", "torch.relu(x)", "tl.maximum(x, 0.0)", tag=ACT, alt=("tl.where(x > 0.0, x, 0.0)",)),
    _point("sigmoid", "torch.sigmoid(x)", "tl.sigmoid(x)", tag=ACT, alt=("1.0 / (1.0 + tl.exp(-x))",)),
    _point("tanh", "torch.tanh(x)", "2.0 * tl.sigmoid(2.0 * x) - 1.0", tag=ACT),
    _point("silu", "F.silu(x)", "x * tl.sigmoid(x)", tag=ACT),
    _point("gelu", "F.gelu(x)", "0.5 * x * (1.0 + tl.erf(x * 0.70710678))", tag=ACT),
    _point("leaky_relu", "F.leaky_relu(x, 0.1)", "tl.where(x > 0.0, x, 0.1 * x)", tag=ACT, alt=("tl.maximum(x, 0.1 * x)",)),
    _point("elu", "F.elu(x)", "tl.where(x > 0.0, x, tl.exp(tl.minimum(x, 0.0)) - 1.0)", tag=ACT),
    _point("softplus", "F.softplus(x)", "tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))", tag=ACT),
    _point("logsigmoid", "F.logsigmoid(x)", "tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))", tag=ACT),
    _point("softsign", "F.softsign(x)", "x / (1.0 + tl.abs(x))", tag=ACT),
    _point("hardtanh", "F.hardtanh(x)", "tl.minimum(tl.maximum(x, -1.0), 1.0)", tag=ACT),
    _point("hardsigmoid", "F.hardsigmoid(x)", "tl.minimum(tl.maximum(x / 6.0 + 0.5, 0.0), 1.0)", tag=ACT),
    _point("hardswish", "F.hardswish(x)", "x * tl.minimum(tl.maximum(x / 6.0 + 0.5, 0.0), 1.0)", tag=ACT),
    _point("softshrink", "F.softshrink(x)", "x - tl.minimum(tl.maximum(x, -0.5), 0.5)", tag=ACT),
    _point("quick_gelu", "x * torch.sigmoid(1.7 * x)", "x * tl.sigmoid(1.7 * x)", tag=ACT),
]
MATH = [
    _point("abs", "torch.abs(x)", "tl.abs(x)"),
    _point("neg", "torch.neg(x)", "-x", plan="negate"),
    _point("square", "torch.square(x)", "x * x"),
    _point("sin", "torch.sin(x)", "tl.sin(x)"),
    _point("cos", "torch.cos(x)", "tl.cos(x)"),
    _point("log1p_abs", "torch.log1p(torch.abs(x))", "tl.log(1.0 + tl.abs(x))", plan="log1p of abs"),
    _point("exp_neg_abs", "torch.exp(-torch.abs(x))", "tl.exp(-tl.abs(x))", plan="exp of negated abs"),
    _point("sqrt_abs", "torch.sqrt(torch.abs(x) + 1.0)", "tl.sqrt(tl.abs(x) + 1.0)", plan="sqrt of abs plus 1"),
    _point("recip", "1.0 / (1.0 + x * x)", "1.0 / (1.0 + x * x)", plan="reciprocal of 1 plus square"),
    _point("clamp", "torch.clamp(x, -0.5, 1.5)", "tl.minimum(tl.maximum(x, -0.5), 1.5)"),
]
SCALAR = (
    [_point(f"mul_{c}", f"x * {c}", f"x * {c}", plan=f"times {c}") for c in MUL]
    + [_point(f"add_{c}", f"x + {c}", f"x + {c}", plan=f"plus {c}") for c in ADD]
    + [_point(f"sub_{c}", f"x - {c}", f"x - {c}", plan=f"minus {c}") for c in SUB]
    + [_point(f"div_{c}", f"x / {c}", f"x / {c}", plan=f"divided by {c}") for c in DIV]
)
BINARY = [
    _point("add_y", "x + y", "x + y", plan="plus y", needs=("y",)),
    _point("mul_y", "x * y", "x * y", plan="times y", needs=("y",)),
    _point("sub_y", "x - y", "x - y", plan="minus y", needs=("y",)),
    _point("max_y", "torch.maximum(x, y)", "tl.maximum(x, y)", plan="maximum with y", needs=("y",)),
    _point("min_y", "torch.minimum(x, y)", "tl.minimum(x, y)", plan="minimum with y", needs=("y",)),
]
PARAM = [
    _point("scale", "x * self.weight", "x * w", plan="times weight", needs=("w",)),
    _point("bias", "x + self.bias", "x + b", plan="plus bias", needs=("b",)),
]

_ZERO = "x = tl.where(mask, x, 0.0)"
_LOW = f"x = tl.where(mask, x, {NEG_INF})"
_HIGH = f"x = tl.where(mask, x, {INF})"
_MEAN = "mean = tl.sum(x, axis=0) / L"
_CENTRE = "x = tl.where(mask, x - mean, 0.0)"


def _reduce(key, plan, ref, *kern):
    return Op(key, plan, (f"x = {ref}",), kern, "reduction", (), (), "reduce")


def _map(key, plan, ref, *kern, tag, needs=()):
    return Op(key, plan, (f"x = {ref}",), kern, tag, needs, (), "map")


# `{d}` is the dimension argument: "dim=1", "dim=0" or "dim=1, keepdim=True".
REDUCE = [
    _reduce("sum", "sum", "torch.sum(x, {d})", _ZERO, "x = tl.sum(x, axis=0)"),
    _reduce("mean", "mean", "torch.mean(x, {d})", _ZERO, "x = tl.sum(x, axis=0) / L"),
    _reduce("amax", "maximum", "torch.amax(x, {d})", _LOW, "x = tl.max(x, axis=0)"),
    _reduce("amin", "minimum", "torch.amin(x, {d})", _HIGH, "x = tl.min(x, axis=0)"),
    _reduce("l1norm", "L1 norm", "torch.linalg.vector_norm(x, ord=1, {d})", _ZERO, "x = tl.sum(tl.abs(x), axis=0)"),
    _reduce("l2norm", "L2 norm", "torch.linalg.vector_norm(x, ord=2, {d})", _ZERO, "x = tl.sqrt(tl.sum(x * x, axis=0))"),
    _reduce("var", "variance", "torch.var(x, {d})", _ZERO, _MEAN, _CENTRE, "x = tl.sum(x * x, axis=0) / (L - 1)"),
    _reduce("std", "standard deviation", "torch.std(x, {d})", _ZERO, _MEAN, _CENTRE,
            "x = tl.sqrt(tl.sum(x * x, axis=0) / (L - 1))"),
    _reduce("logsumexp", "logsumexp", "torch.logsumexp(x, {d})", _LOW, "m = tl.max(x, axis=0)",
            "x = m + tl.log(tl.sum(tl.exp(x - m), axis=0))"),
]
SOFTMAX = [
    _map("softmax", "softmax", "torch.softmax(x, {d})", _LOW, "x = tl.exp(x - tl.max(x, axis=0))",
         "x = x / tl.sum(x, axis=0)", tag="softmax"),
    _map("log_softmax", "log softmax", "torch.log_softmax(x, {d})", _LOW, "x = x - tl.max(x, axis=0)",
         "x = x - tl.log(tl.sum(tl.exp(x), axis=0))", tag="softmax"),
]
NORMS = [
    _map("layer_norm", "layer norm", "F.layer_norm(x, (x.shape[-1],), self.weight, self.bias)", _ZERO, _MEAN, _CENTRE,
         "x = x / tl.sqrt(tl.sum(x * x, axis=0) / L + 1e-5)", "x = x * w", "x = x + b", tag="norm", needs=("w", "b")),
    _map("plain_norm", "layer norm, no affine", "F.layer_norm(x, (x.shape[-1],))", _ZERO, _MEAN, _CENTRE,
         "x = x / tl.sqrt(tl.sum(x * x, axis=0) / L + 1e-5)", tag="norm"),
    _map("rms_norm", "RMS norm", "F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)", _ZERO,
         "x = x / tl.sqrt(tl.sum(x * x, axis=0) / L + 1e-5)", "x = x * w", tag="norm", needs=("w",)),
    _map("l2_normalize", "L2 normalize", "F.normalize(x, {d})", _ZERO,
         "x = x / tl.maximum(tl.sqrt(tl.sum(x * x, axis=0)), 1e-12)", tag="norm"),
    _map("centre", "subtract mean", "x - torch.mean(x, {d}, keepdim=True)", _ZERO, _MEAN, "x = x - mean", tag="norm"),
]
SCANS = [
    _map("cumsum", "cumulative sum", "torch.cumsum(x, {d})", "x = tl.cumsum(x, axis=0)", tag="cumulative"),
    _map("cumprod", "cumulative product", "torch.cumprod(x, {d})", "x = tl.cumprod(x, axis=0)", tag="cumulative"),
    _map("revcumsum", "reverse cumulative sum", "torch.cumsum(x.flip(1), {d}).flip(1)", _ZERO,
         "x = tl.cumsum(x, axis=0, reverse=True)", tag="cumulative"),
    _map("excumsum", "exclusive cumulative sum", "torch.cumsum(x, {d}) - x", "x = tl.cumsum(x, axis=0) - x",
         tag="cumulative"),
]


def _loss(key, plan, ref, *kern):
    return Op(key, plan, (f"x = {ref}",), tuple(f"x = {k}" for k in kern), "loss", ("y",))


LOSSES = [
    _loss("mse", "squared error", 'F.mse_loss(x, y, reduction="none")', "x - y", "x * x"),
    _loss("l1", "absolute error", 'F.l1_loss(x, y, reduction="none")', "x - y", "tl.abs(x)"),
    _loss("huber", "Huber error", 'F.huber_loss(x, y, reduction="none")', "tl.abs(x - y)",
          "tl.where(x < 1.0, 0.5 * x * x, x - 0.5)"),
    _loss("smooth", "smooth L1 error, beta 0.5", 'F.smooth_l1_loss(x, y, reduction="none", beta=0.5)', "tl.abs(x - y)",
          "tl.where(x < 0.5, x * x, x - 0.25)"),
    _loss("hinge", "hinge error", "torch.clamp(1.0 - x * y, min=0.0)", "tl.maximum(1.0 - x * y, 0.0)"),
    _loss("soft_margin", "soft margin error", 'F.softplus(-x * y)', "-x * y",
          "tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))"),
    _loss("bce", "cross entropy with logits", 'F.binary_cross_entropy_with_logits(x, y, reduction="none")',
          "tl.maximum(x, 0.0) - x * y + tl.log(1.0 + tl.exp(-tl.abs(x)))"),
]

PAIRS = [
    Op("kl", "KL divergence of log softmax to sigmoid", ("x = torch.log_softmax(x, dim=1)", "y = torch.sigmoid(y)",
       'x = F.kl_div(x, y, reduction="none")'),
       (_LOW, "x = x - tl.max(x, axis=0)", "x = x - tl.log(tl.sum(tl.exp(x), axis=0))", "y = tl.sigmoid(y)",
        "x = tl.where(y > 0.0, y * (tl.log(y) - x), 0.0)"), "loss", ("y",)),
    Op("cosine", "cosine similarity", ("x = F.cosine_similarity(x, y, {d})",),
       ("p = tl.sqrt(tl.sum(x * x, axis=0))", "q = tl.sqrt(tl.sum(y * y, axis=0))", "x = tl.sum(x * y, axis=0) / (p * q)"),
       "loss", ("y",), (), "reduce"),
]

POINT = ACTIVATIONS + MATH + SCALAR
BY_KEY = {op.key: op for group in (POINT, BINARY, PARAM, REDUCE, SOFTMAX, NORMS, SCANS, LOSSES, PAIRS) for op in group}


def get(key):
    return BY_KEY[key]
