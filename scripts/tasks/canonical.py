"""One form for models that differ in writing only, for the comparison with KernelBench.

Docstrings, annotations, decorators and the class's name go; arguments are numbered; `super(Model, self)` is `super()`; and in
a body without branches a value that is used once is put where it is used: `y = f(x); return g(y)` is `return g(f(x))`.
"""

import ast
import copy
from collections import Counter


def canonical(source):
    """The dump of `class Model` in that form."""
    model = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Model")
    return ast.dump(ast.Module([method(n) for n in model.body if not is_doc(n)], []))


def is_doc(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def method(node):
    if not isinstance(node, ast.FunctionDef):
        return node
    node = copy.deepcopy(node)
    node.body = [n for n in node.body if not is_doc(n)] or [ast.Pass()]
    node.returns, node.decorator_list = None, []
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = {a.arg: f"arg{n}" for n, a in enumerate(args) if n}
    for arg in args:
        arg.annotation, arg.arg = None, names.get(arg.arg, arg.arg)
    node.body = [Rename(names).visit(n) for n in node.body]
    if all(is_plain(n) for n in node.body):
        node.body = inline(node.body)
    return node


def is_plain(node):
    if isinstance(node, ast.Assign):
        return len(node.targets) == 1 and isinstance(node.targets[0], (ast.Name, ast.Attribute))
    return isinstance(node, (ast.Return, ast.Expr, ast.Pass))


class Rename(ast.NodeTransformer):
    """Other names; `super(A, self)` without its arguments."""

    def __init__(self, names):
        self.names = names

    def visit_Name(self, node):
        return ast.Name(self.names.get(node.id, node.id), node.ctx)

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        return ast.Assign([node.target], node.value) if node.value else ast.Pass()

    def visit_Call(self, node):
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            node.args = []
        return node


class Put(ast.NodeTransformer):
    def __init__(self, values):
        self.values = values

    def visit_Name(self, node):
        return self.values.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


def inline(body):
    """Every assignment gets a name of its own; those used once disappear."""
    now, single = {}, []
    for n, node in enumerate(body):
        name = node.targets[0] if isinstance(node, ast.Assign) else None
        if node.__class__ is not ast.Pass and getattr(node, "value", None) is not None:
            node.value = Rename(dict(now)).visit(node.value)
        if isinstance(name, ast.Name):
            now[name.id] = f"value{n}"
            node.targets[0] = ast.Name(f"value{n}", ast.Store())
        single.append(node)
    uses = Counter(x.id for node in single for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load))
    values, out = {}, []
    for node in single:
        node = Put(values).visit(node)
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and uses[target.id] == 1:
            values[target.id] = node.value
        else:
            out.append(node)
    # Numbers again without the gaps, so that they do not tell what was put elsewhere.
    kept = [n.targets[0].id for n in out if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)]
    return [Rename({name: f"kept{n}" for n, name in enumerate(kept)}).visit(node) for node in out]


def check():
    """The form joins what differs in writing only, and nothing else."""
    def model(body, head="self, x"):
        return f"class Model(nn.Module):\n    def forward({head}):\n" + "".join(f"        {line}\n" for line in body)

    plain = canonical(model(["return torch.relu(x)"]))
    assert plain == canonical(model(["x = torch.relu(x)", "return x"]))
    assert plain == canonical(model(['"""Doc."""', "y = torch.relu(a)", "z = y", "return z"], "self, a: torch.Tensor"))
    assert plain != canonical(model(["return torch.tanh(x)"]))
    chain = canonical(model(["return torch.tanh(torch.relu(x))"]))
    assert chain == canonical(model(["x = torch.relu(x)", "x = torch.tanh(x)", "return x"])) != plain
    twice = model(["y = torch.relu(x)", "return y + y"])
    assert canonical(twice) == canonical(model(["q = torch.relu(x)", "q = q + q", "return q"])) != plain
