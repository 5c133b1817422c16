"""Reference modules and answers around a list of ops: one skeleton per way of tiling the data.

A skeleton gives the lines before and after the ops, byte-identical from task to task. The result is a `Draft`: the task
source, and the parts from which an answer is written.
"""

from dataclasses import dataclass, field

from . import ops as O

DOT = 'input_precision="ieee"'


@dataclass
class Draft:
    """A task and its worked answer, before names and splits are given."""

    name: str
    family: str
    level: int
    shape: tuple
    tags: list
    args: list          # forward's arguments
    inputs: list        # expressions of get_inputs
    init: list          # expressions of get_init_inputs: sizes
    params: list        # (name, expression) of the constructor
    ref: list           # lines of Model.forward
    plan: list          # op lines of the plan
    tiling: str         # last line of the plan
    head: list          # kernel lines: signature to loads
    body: list          # kernel lines of the ops
    tail: list          # kernel lines: store
    glue: list          # lines of ModelNew.forward
    bodies: list = field(default_factory=list)  # other spellings of `body`

    @property
    def sizes(self):
        names = {1: ["N"], 2: ["M", "N"], 3: ["B", "M", "N"], 4: ["B", "C", "H", "W"]}[len(self.shape)]
        return list(zip(names, self.shape))

    def constructor(self):
        argument = {0: "", 1: ", features", 2: ", features, outputs"}[len(self.init)]
        lines = [f"    def __init__(self{argument}):", "        super().__init__()"]
        return lines + [f"        self.{name} = nn.Parameter({expr})" for name, expr in self.params]

    def source(self, sizes=None):
        text = [f"# tags: {', '.join(self.tags)}", "import torch", "import torch.nn as nn"]
        if any("F." in line for line in self.ref):
            text.append("import torch.nn.functional as F")
        text += [""] + [f"{name} = {value}" for name, value in sizes or self.sizes]
        text += ["", "", "class Model(nn.Module):"] + self.constructor()
        text += ["", f"    def forward(self, {', '.join(self.args)}):"]
        text += [f"        {line}" for line in self.ref] + ["        return x", "", ""]
        text += ["def get_inputs():", f"    return [{', '.join(self.inputs)}]", "", ""]
        text += ["def get_init_inputs():", f"    return [{', '.join(self.init)}]", ""]
        return "\n".join(text)

    def answer(self, body=None):
        text = ["<think>"] + [f"- {line}" for line in self.plan] + [self.tiling, "</think>", "```python"]
        text += ["import torch", "import torch.nn as nn", "import triton", "import triton.language as tl", ""]
        text += ["@triton.jit"] + self.head + [f"    {line}" for line in (body or self.body) + self.tail]
        text += ["", "class ModelNew(nn.Module):"] + self.constructor()
        text += ["", f"    def forward(self, {', '.join(self.args)}):"]
        text += [f"        {line}" for line in self.glue] + ["        return out", "```", ""]
        return "\n".join(text)


def load(name, index="idx", mask="mask"):
    return f"    {name} = tl.load({name}_ptr + {index}, mask={mask}, other=0.0)"


def needs(keys):
    found = {need for key in keys for need in O.get(key).needs}
    return [name for name in ("y", "w", "b") if name in found]


def signature(pointers, rest):
    return "def kernel(" + ", ".join(f"{p}_ptr" for p in pointers) + f", {rest}):"


PARAM_NAME = {"w": "weight", "b": "bias"}


def params_of(wanted):
    return [(PARAM_NAME[name], "torch.randn(features)") for name in wanted if name in PARAM_NAME]


def launch(grid, extra, rest):
    values = ["x"] + [{"y": "y", "w": "self.weight", "b": "self.bias"}[name] for name in extra] + ["out"]
    return f"kernel[{grid}]({', '.join(values)}, {rest})"


def lines_of(keys, dim=None, spelling="kern"):
    out = []
    for key in keys:
        op = O.get(key)
        out += (spelling == "alt" and op.alt) or op.kern
    return out


def refs_of(keys, dim):
    return [line.replace("{d}", dim) for key in keys for line in O.get(key).ref]


def tags_of(keys, *first):
    seen = list(first)
    for key in keys:
        if O.get(key).tag not in seen:
            seen.append(O.get(key).tag)
    return seen


def bodies(keys):
    """The other spelling of the ops, if some op has one."""
    other = lines_of(keys, spelling="alt")
    return [other] if other != lines_of(keys) else []


def rand(shape_names, scale=""):
    return f"torch.randn({', '.join(shape_names)}){scale}"


def size_names(shape):
    return {1: ["N"], 2: ["M", "N"], 3: ["B", "M", "N"], 4: ["B", "C", "H", "W"]}[len(shape)]


def common(keys, shape, scale="", y_expr=None):
    extra = needs(keys)
    names = size_names(shape)
    args = ["x"] + (["y"] if "y" in extra else [])
    inputs = [rand(names, scale)] + ([y_expr or rand(names)] if "y" in extra else [])
    params = params_of(extra)
    glue = ["x = x.contiguous()"] + (["y = y.contiguous()"] if "y" in extra else [])
    return extra, args, inputs, params, glue


def flat(name, family, level, shape, keys, tags):
    """One program per 256 elements of equally shaped tensors."""
    extra, args, inputs, params, glue = common(keys, shape)
    head = [signature(["x"] + extra + ["out"], "L, BLOCK: tl.constexpr"),
            "    idx = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)", "    mask = idx < L", load("x")]
    head += [load(e) for e in extra]
    glue += ["out = torch.empty_like(x)", "L = x.numel()", "grid = (triton.cdiv(L, 256),)",
             launch("grid", extra, "L, BLOCK=256")]
    return Draft(name, family, level, shape, tags, args, inputs, [], params, refs_of(keys, ""),
                 [O.get(k).plan for k in keys], "One program per 256 elements, tail masked.", head, lines_of(keys),
                 ["tl.store(out_ptr + idx, x, mask=mask)"], glue, bodies(keys))


def rows(name, family, level, shape, keys, tags, dim="dim=1", scale="", y_expr=None):
    """One program per row (dim=1 or -1), per column (dim=0), or one for the whole tensor (dim="")."""
    extra, args, inputs, params, glue = common(keys, shape, scale, y_expr)
    reduced = any(O.get(k).kind == "reduce" for k in keys)
    keep = "keepdim=True" in dim
    pointers = ["x"] + extra + ["out"]
    tail = ["tl.store(out_ptr + idx, x, mask=mask)"]
    if dim == "":
        head = [signature(pointers, "L, BLOCK: tl.constexpr"), "    idx = tl.arange(0, BLOCK)", "    mask = idx < L"]
        glue += ["out = torch.empty((), device=x.device, dtype=x.dtype)", "L = x.numel()", "grid = (1,)"]
        tail, tiling, rest = ["tl.store(out_ptr, x)"], "One program for all elements, padding masked.", "L"
    elif dim.startswith("dim=0"):
        head = [signature(pointers, "L, N, BLOCK: tl.constexpr"), "    row = tl.program_id(0)",
                "    offs = tl.arange(0, BLOCK)", "    mask = offs < L", "    idx = offs * N + row"]
        glue += ["L, N = x.shape", "grid = (N,)"]
        tiling, rest = "One program per column, padding masked.", "L, N"
        shape_out = "(1, N)" if keep else "(N,)"
    else:
        head = [signature(pointers, "L, BLOCK: tl.constexpr"), "    row = tl.program_id(0)",
                "    offs = tl.arange(0, BLOCK)", "    mask = offs < L", "    idx = row * L + offs"]
        glue += ["L = x.shape[-1]", "M = x.numel() // L", "grid = (M,)"]
        tiling, rest = "One program per row, padding masked.", "L"
        shape_out = "x.shape[:-1] + (1,)" if keep else "x.shape[:-1]"
    head += [load("x")] + [load(e, "idx" if e == "y" else "offs") for e in extra]
    if dim != "":
        if reduced:
            tail = ["tl.store(out_ptr + row, x)"]
            glue.append(f"out = torch.empty({shape_out}, device=x.device, dtype=x.dtype)")
        else:
            glue.append("out = torch.empty_like(x)")
    glue.append(launch("grid", extra, f"{rest}, BLOCK=triton.next_power_of_2(L)"))
    return Draft(name, family, level, shape, tags, args, inputs, ["N"] if params else [], params, refs_of(keys, dim),
                 [O.get(k).plan for k in keys], tiling, head, lines_of(keys), tail, glue, bodies(keys))


# name: (reference, output shape, line of the output index, sizes the kernel needs)
MOVES = {
    "t": ("x = x.t().contiguous()", 2, "(N, M)", "out_idx = offs * M + row", "transpose"),
    "t12": ("x = x.transpose(1, 2).contiguous()", 3, "(B, N, M)",
            "out_idx = row // M * M * L + offs * M + row % M", "transpose of dims 1 and 2"),
    "t01": ("x = x.transpose(0, 1).contiguous()", 3, "(M, B, N)",
            "out_idx = (row % M * B + row // M) * L + offs", "transpose of dims 0 and 1"),
    "p201": ("x = x.permute(2, 0, 1).contiguous()", 3, "(N, B, M)", "out_idx = offs * B * M + row", "permute 2, 0, 1"),
    "p210": ("x = x.permute(2, 1, 0).contiguous()", 3, "(N, M, B)",
             "out_idx = offs * M * B + row % M * B + row // M", "permute 2, 1, 0"),
    "flip": ("x = x.flip(1)", 2, "(M, N)", "out_idx = row * L + L - 1 - offs", "flip the columns"),
}


def move(name, family, level, shape, move_key, keys, tags, after=False):
    """Rows are read in order and written where the transposition puts them; ops before (or in the text, after) it."""
    ref, rank, out_shape, line, plan = MOVES[move_key]
    extra, args, inputs, params, glue = common(keys, shape)
    sizes = "M" if rank == 2 else "B, M"
    head = [signature(["x"] + extra + ["out"], f"L, {sizes}, BLOCK: tl.constexpr"), "    row = tl.program_id(0)",
            "    offs = tl.arange(0, BLOCK)", "    mask = offs < L", "    idx = row * L + offs", load("x")]
    head += [load(e) for e in extra]
    glue += ["M, N = x.shape" if rank == 2 else "B, M, N = x.shape", "grid = (M,)" if rank == 2 else "grid = (B * M,)",
             f"out = torch.empty({out_shape}, device=x.device, dtype=x.dtype)",
             launch("grid", extra, f"N, {sizes}, BLOCK=triton.next_power_of_2(N)")]
    refs, plans = refs_of(keys, "dim=-1"), [O.get(k).plan for k in keys]
    return Draft(name, family, level, shape, tags, args, inputs, [], params, refs + [ref] if not after else [ref] + refs,
                 plans + [plan] if not after else [plan] + plans, "One program per row, padding masked.", head,
                 lines_of(keys), [line, "tl.store(out_ptr + out_idx, x, mask=mask)"], glue, bodies(keys))


def group_norm(name, level, shape, groups, affine, keys, tags):
    """One program per sample and group of (B, M channels, N)."""
    extra = ["w", "b"] if affine else []
    _, args, inputs, _, glue = common(keys, shape)
    params = [("weight", "torch.randn(features)"), ("bias", "torch.randn(features)")] if affine else []
    head = [signature(["x"] + extra + ["out"], "L, N, G: tl.constexpr, BLOCK: tl.constexpr"),
            "    row = tl.program_id(0)", "    offs = tl.arange(0, BLOCK)", "    mask = offs < L",
            "    idx = row * L + offs", load("x")]
    if affine:
        head += ["    channel = row % G * (L // N) + offs // N"] + [load(e, "channel") for e in extra]
    else:
        head = [line.replace("L, N, G: tl.constexpr", "L") for line in head]
    glue += ["B, M, N = x.shape", f"L = M // {groups} * N", f"grid = (B * {groups},)", "out = torch.empty_like(x)",
             launch("grid", extra, (f"L, N, G={groups}" if affine else "L") + ", BLOCK=triton.next_power_of_2(L)")]
    norm = [line for line in O.get("plain_norm").kern] + (["x = x * w", "x = x + b"] if affine else [])
    ref = f"x = F.group_norm(x, {groups}, self.weight, self.bias)" if affine else f"x = F.group_norm(x, {groups})"
    return Draft(name, "norm", level, shape, tags, args, inputs, ["M"] if affine else [], params,
                 [ref] + refs_of(keys, "dim=-1"), ["group norm", f"{groups} groups"] + [O.get(k).plan for k in keys],
                 "One program per group, padding masked.", head, norm + lines_of(keys),
                 ["tl.store(out_ptr + idx, x, mask=mask)"], glue)


def matmul(name, family, level, sizes, form, keys, tags):
    """One program per 32x32 tile of the output, a loop over K. Forms: nn, nt, tn (two inputs), linear, batched."""
    m, n, k = sizes
    extra = needs(keys)
    a_index = "rm[:, None] * K + rk[None, :]" if form != "tn" else "rk[None, :] * M + rm[:, None]"
    b_index = "rk[:, None] * N + rn[None, :]" if form in ("nn", "tn", "batched") else "rn[None, :] * K + rk[:, None]"
    other = "w" if form == "linear" else "y"
    batch = form == "batched"
    pointers = ["x", other] + [e for e in extra if e in ("b",)] + ["out"]
    head = [signature(pointers, "M, N, K: tl.constexpr, BLOCK: tl.constexpr")]
    if batch:
        head += ["    x_ptr += tl.program_id(2) * M * K", "    y_ptr += tl.program_id(2) * K * N",
                 "    out_ptr += tl.program_id(2) * M * N"]
    head += ["    rm = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
             "    rn = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
             "    x = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)", "    for k in range(0, K, BLOCK):",
             "        rk = k + tl.arange(0, BLOCK)",
             f"        p = tl.load(x_ptr + {a_index}, mask=(rm[:, None] < M) & (rk[None, :] < K), other=0.0)",
             f"        q = tl.load({other}_ptr + {b_index}, mask=(rk[:, None] < K) & (rn[None, :] < N), other=0.0)",
             f"        x = tl.dot(p, q, acc=x, {DOT})", "    idx = rm[:, None] * N + rn[None, :]",
             "    mask = (rm[:, None] < M) & (rn[None, :] < N)"]
    if "b" in extra:
        head.append("    b = tl.load(b_ptr + rn[None, :], mask=rn[None, :] < N, other=0.0)")
    if form == "linear":
        params = [("weight", "torch.randn(outputs, features)")] + ([("bias", "torch.randn(outputs)")] if "b" in extra else [])
        ref, plan = ["x = F.linear(x, self.weight)"], "matmul with the transposed weight"
        args, inputs, init = ["x"], ["torch.randn(M, K)"], ["K", "N"]
        glue = ["x = x.contiguous()", "M, K = x.shape", "N = self.weight.shape[0]"]
        values = "x, self.weight, " + ("self.bias, " if "b" in extra else "") + "out"
    else:
        params, init, args = [], [], ["x", "y"]
        ref = {"nn": ["x = torch.matmul(x, y)"], "nt": ["x = torch.matmul(x, y.t())"],
               "tn": ["x = torch.matmul(x.t(), y)"], "batched": ["x = torch.bmm(x, y)"]}[form]
        plan = {"nn": "matmul", "nt": "matmul with y transposed", "tn": "matmul with x transposed",
                "batched": "batched matmul"}[form]
        inputs = {"nn": ["torch.randn(M, K)", "torch.randn(K, N)"], "nt": ["torch.randn(M, K)", "torch.randn(N, K)"],
                  "tn": ["torch.randn(K, M)", "torch.randn(K, N)"],
                  "batched": ["torch.randn(2, M, K)", "torch.randn(2, K, N)"]}[form]
        if "b" in extra:
            params, init = [("bias", "torch.randn(features)")], ["N"]
        glue = ["x = x.contiguous()", "y = y.contiguous()"]
        glue += {"nn": ["M, K = x.shape", "N = y.shape[1]"], "nt": ["M, K = x.shape", "N = y.shape[0]"],
                 "tn": ["K, M = x.shape", "N = y.shape[1]"], "batched": ["B, M, K = x.shape", "N = y.shape[2]"]}[form]
        values = "x, y, " + ("self.bias, " if "b" in extra else "") + "out"
    glue += [f"out = torch.empty(({'B, ' if batch else ''}M, N), device=x.device, dtype=x.dtype)",
             "grid = (triton.cdiv(M, 32), triton.cdiv(N, 32)" + (", B)" if batch else ")"),
             f"kernel[grid]({values}, M, N, K, BLOCK=32)"]
    draft = Draft(name, family, level, (m, n), tags, args, inputs, init, params, ref + refs_of(keys, "dim=-1"),
                  [plan] + [O.get(key).plan for key in keys], "One program per 32x32 tile, loop over K, edges masked.",
                  head, lines_of(keys), ["tl.store(out_ptr + idx, x, mask=mask)"], glue, bodies(keys))
    draft.shape = (m, n, k)
    draft.__class__ = MatmulDraft
    return draft


class MatmulDraft(Draft):
    """Sizes are M, N, K."""

    @property
    def sizes(self):
        return list(zip(["M", "N", "K"], self.shape))


class PoolDraft(Draft):
    """Sizes are B, C, N in one dimension."""

    @property
    def sizes(self):
        return list(zip(["B", "C", "N"] if len(self.shape) == 3 else ["B", "C", "H", "W"], self.shape))


def pool(name, level, shape, kind, window, stride, keys, tags):
    """One program per channel; the window is a static loop of strided loads."""
    two = len(shape) == 4
    rank = 2 if two else 1
    start = {"avg": "x = tl.zeros((BLOCK,), dtype=tl.float32)",
             "max": f"x = tl.full((BLOCK,), {NEG}, dtype=tl.float32)"}[kind]
    merge = {"avg": "x = x + t", "max": "x = tl.maximum(x, t)"}[kind]
    if two:
        head = ["def kernel(x_ptr, out_ptr, H, W, P, L, K: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr):",
                "    row = tl.program_id(0)", "    offs = tl.arange(0, BLOCK)", "    mask = offs < L",
                "    idx = row * L + offs", f"    {start}", "    for i in tl.static_range(0, K):",
                "        for j in tl.static_range(0, K):", "            h = offs // P * S + i",
                "            w = offs % P * S + j",
                "            t = tl.load(x_ptr + row * H * W + h * W + w, mask=mask, other=0.0)", f"            {merge}"]
        divide = ["x = x / (K * K)"] if kind == "avg" else []
        glue = ["x = x.contiguous()", "B, C, H, W = x.shape", f"K = {window}", f"S = {stride}", "Q = (H - K) // S + 1",
                "P = (W - K) // S + 1", "out = torch.empty((B, C, Q, P), device=x.device, dtype=x.dtype)", "L = Q * P",
                "grid = (B * C,)", "kernel[grid](x, out, H, W, P, L, K=K, S=S, BLOCK=triton.next_power_of_2(L))"]
    else:
        head = ["def kernel(x_ptr, out_ptr, N, L, K: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr):",
                "    row = tl.program_id(0)", "    offs = tl.arange(0, BLOCK)", "    mask = offs < L",
                "    idx = row * L + offs", f"    {start}", "    for i in tl.static_range(0, K):",
                "        t = tl.load(x_ptr + row * N + offs * S + i, mask=mask, other=0.0)", f"        {merge}"]
        divide = ["x = x / K"] if kind == "avg" else []
        glue = ["x = x.contiguous()", "B, C, N = x.shape", f"K = {window}", f"S = {stride}", "L = (N - K) // S + 1",
                "out = torch.empty((B, C, L), device=x.device, dtype=x.dtype)", "grid = (B * C,)",
                "kernel[grid](x, out, N, L, K=K, S=S, BLOCK=triton.next_power_of_2(L))"]
    names = "B, C, H, W" if two else "B, C, N"
    return PoolDraft(name, "pooling", level, shape, tags, ["x"], [f"torch.randn({names})"], [], [],
                     [f"x = F.{kind}_pool{rank}d(x, {window}, {stride})"] + refs_of(keys, "dim=-1"),
                     [f"{kind} pool {rank}d", f"window {window}", f"stride {stride}"] + [O.get(k).plan for k in keys],
                     "One program per channel, padding masked.", head, divide + lines_of(keys),
                     ["tl.store(out_ptr + idx, x, mask=mask)"], glue,
                     [divide + other for other in bodies(keys)])


NEG = O.NEG_INF


def attention(name, level, shape, before, weights, after, tags):
    """One program per batch entry: (M, M) scores, softmax (plain or causal) or a pointwise weight, times v."""
    head = ["def kernel(q_ptr, k_ptr, v_ptr, out_ptr, M, N, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr):",
            "    rm = tl.arange(0, BLOCK)", "    rn = tl.arange(0, BLOCK_N)",
            "    idx = tl.program_id(0) * M * N + rm[:, None] * N + rn[None, :]",
            "    mask = (rm[:, None] < M) & (rn[None, :] < N)"] + [load(e) for e in "qkv"]
    softmax = ["x = tl.exp(x - tl.max(x, axis=1)[:, None])", "x = x / tl.sum(x, axis=1)[:, None]"]
    kern = {"softmax": [f"x = tl.where(rm[None, :] < M, x, {NEG})"] + softmax,
            "causal": [f"x = tl.where(rm[None, :] <= rm[:, None], x, {NEG})"] + softmax}
    mid_ref = {"softmax": ["x = torch.softmax(x, dim=-1)"],
               "causal": ["keep = torch.ones_like(x).tril() > 0", f"x = x.masked_fill(~keep, {NEG})",
                          "x = torch.softmax(x, dim=-1)"]}
    mid_plan = {"softmax": ["softmax"], "causal": ["causal mask", "softmax"]}
    body = [f"x = tl.dot(q, tl.trans(k), {DOT})"] + lines_of(before)
    body += kern[weights] if weights in kern else lines_of([weights])
    body += [f"x = tl.dot(x, v, {DOT})"] + lines_of(after)
    ref = ["x = torch.matmul(q, k.transpose(-2, -1))"] + refs_of(before, "")
    ref += mid_ref[weights] if weights in kern else refs_of([weights], "")
    ref += ["x = torch.matmul(x, v)"] + refs_of(after, "")
    plan = ["scores q times k transposed"] + [O.get(k).plan for k in before]
    plan += (mid_plan[weights] if weights in kern else [O.get(weights).plan]) + ["times v"] + [O.get(k).plan for k in after]
    glue = [f"{e} = {e}.contiguous()" for e in "qkv"]
    glue += ["B, M, N = q.shape", "out = torch.empty_like(q)", "BLOCK = max(16, triton.next_power_of_2(M))",
             "BLOCK_N = max(16, triton.next_power_of_2(N))", "grid = (B,)",
             "kernel[grid](q, k, v, out, M, N, BLOCK=BLOCK, BLOCK_N=BLOCK_N)"]
    names = "B, M, N"
    return Draft(name, "attention", level, shape, tags, ["q", "k", "v"], [f"torch.randn({names})"] * 3, [], [], ref, plan,
                 "One program per batch entry, padding masked.", head, body,
                 ["tl.store(out_ptr + idx, x, mask=mask)"], glue)
