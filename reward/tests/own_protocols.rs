//! What a candidate may not give another meaning: the methods of torch.nn.Module, the attributes of tensors and modules through
//! functools, operators that are functions of torch. What honest modules define stays free.

use std::collections::BTreeSet;

use reward::extract::from_python;
use reward::lint::lint;
use rollout::outcome::Severity;

/// The rejecting codes of a candidate that doubles x, with these parts.
fn rejected(module: &str, bases: &str, class: &str, init: &str, forward: &str) -> BTreeSet<String> {
    let indent = |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    let (class, init, forward) = (indent(class, "    "), indent(init, "        "), indent(forward, "        "));
    let text = format!(
        "import dataclasses\nimport functools\nimport torch\nimport torch.nn as nn\nimport triton\nimport triton.language as tl\n\n\n\
         @triton.jit\ndef double(x_ptr, out_ptr, n, BLOCK: tl.constexpr):\n    \
         i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    \
         tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n) * 2.0, mask=i < n)\n\n\n{module}\n\n\n\
         class ModelNew({bases}):\n    def __init__(self):\n        super().__init__()\n        self.given = self.made = None\n{init}\n\
         {class}\n    def forward(self, x):\n        n = x.numel()\n        out = torch.empty_like(x)\n{forward}        \
         double[(triton.cdiv(n, 256),)](x, out, n, BLOCK=256)\n        return out\n"
    );
    let candidate = from_python(&text).expect("a candidate");
    let report = lint(&candidate.source, None);
    report.findings.into_iter().filter(|f| f.severity == Severity::Reject).map(|f| f.code).collect()
}

const EMPTY: &str = "(self, *a, **k):\n    return []";

/// Planted: a name of torch.nn.Module bound in a class, in any way. Seen: the checker asks the candidate instead of torch.
#[test]
fn nothing_of_a_module_is_overridden() {
    let names = [
        "modules",
        "named_modules",
        "_named_members",
        "children",
        "__hash__",
        "__setstate__",
        "register_buffer",
        "training",
    ];
    for name in names {
        let codes = rejected("", "nn.Module", &format!("def {name}{EMPTY}"), "", "");
        assert!(codes.contains("K025"), "{name}: {codes:?}");
    }
    for class in [
        "if True:\n    def modules(self):\n        return []",
        "for modules in (print,):\n    pass",
        "from torch.nn.functional import relu as parameters",
        "x = (modules := print)",
        "x, modules = 1, print",
        "modules: object = print",
        "modules = functools.cached_property(lambda self: [])",
        "class modules:\n    pass",
    ] {
        let codes = rejected("", "nn.Module", class, "", "");
        assert!(codes.contains("K025"), "{class}: {codes:?}");
    }
    let mixin = format!("class Mixin:\n    def parameters{}", EMPTY.replace('\n', "\n    "));
    for (more, bases) in [
        ("", "Mixin, nn.Module"),
        ("Base = Mixin", "Base, nn.Module"),
        ("class Two(Mixin):\n    pass", "Two, nn.Module"),
        ("class Part(Mixin, nn.Linear):\n    pass", "nn.Module"),
    ] {
        let codes = rejected(&format!("{mixin}\n\n\n{more}"), bases, "", "", "");
        assert!(codes.contains("K025"), "{more}: {codes:?}");
    }
    let made =
        "def mix(base):\n    class Inner(base):\n        def modules(self):\n            return []\n    return Inner";
    assert!(rejected(&format!("{made}\n\n\nBase = mix(nn.Module)"), "Base", "", "", "").contains("K025"));
}

/// Planted: the same in an object of a module's, its own or torch's. Seen: as above.
#[test]
fn no_object_gets_a_method_of_modules() {
    let call = "class Call:\n    def __call__(self):\n        return []\n\n    def go(self):\n        return []";
    for init in [
        "self.parameters = lambda recurse=True: []",
        "self.modules, self.q = (lambda: []), 1",
        "setattr(self, 'buffers', lambda *a: [])",
        "self.modules = functools.partial(torch.softmax, dim=-1)",
        "self.modules = Call()",
        "self.modules = Call().go",
        "self.half = lambda: self",
        "for self.modules in (lambda: [],):\n    pass",
        "self.l = nn.Linear(4, 4)\nself.l.named_parameters = lambda *a, **k: []",
        "self.l = nn.ModuleList([nn.Linear(4, 4)])\nfor m in self.l:\n    m.named_parameters = lambda *a: []",
        "for m in self.modules():\n    m.named_parameters = lambda *a: []",
        "self.__setstate__({'parameters': lambda recurse=True: []})",
        "nn.Module.__setstate__(self, {'parameters': 1})",
    ] {
        assert!(!rejected(call, "nn.Module", "", init, "").is_empty(), "{init}");
    }
    let half = "@dataclasses.dataclass(eq=False)\nclass Half(nn.Module):\n    modules: object = None";
    assert!(rejected(half, "nn.Module", "", "self.h = Half(modules=lambda: [])", "").contains("K025"));
}

/// Planted: every name in a module is suspect. Seen: honest modules are refused.
#[test]
fn what_honest_modules_define_is_free() {
    let part = "class Part(nn.Module):\n    def __init__(self, half, type='relu'):\n        super().__init__()\n        \
                self.half = half\n        self.type = type\n\n    def forward(self, x):\n        return x\n\n    \
                def __repr__(self):\n        return 'Part'\n\n    def extra_repr(self):\n        return f'half={self.half}'\n\n\n\
                class Launches:\n    def launch(self, x):\n        return x\n\n\n\
                class Plan:\n    def apply(self, x):\n        return x\n\n    def to(self, device):\n        return self\n\n\n\
                class Layer(nn.Linear):\n    def forward(self, x):\n        return x\n\n    def reset_parameters(self):\n        \
                super().reset_parameters()";
    for (bases, init, forward) in [
        ("nn.Module", "self.part = Part(32)", ""),
        ("nn.Module", "self.half = 64 // 2\nself.type = 'gelu'\nself.float = torch.float32\nself.double = False", ""),
        ("Launches, nn.Module", "", "x = self.launch(x)"),
        ("nn.Module", "self.plan = Plan()", "x = self.plan.apply(x)"),
        ("nn.Module", "self.layer = Layer(4, 4)\nself.layer.weight.requires_grad = False", ""),
    ] {
        assert_eq!(rejected(part, bases, "", init, forward), BTreeSet::new(), "{bases}; {init}");
    }
}

/// Planted: functools.wraps on a tensor, a module, a kernel. Seen: methods of it are replaced without an assignment.
#[test]
fn wraps_changes_functions_alone() {
    let tools = "class Box:\n    pass\n\n\nBOX = Box()\nBOX.detach = torch.relu\nwrap = functools.wraps(BOX)";
    for forward in [
        "functools.wraps(BOX)(out)",
        "functools.wraps(wrapped=BOX)(out)",
        "wrap(out)",
        "functools.update_wrapper(out, BOX)",
        "functools.update_wrapper(wrapper=out, wrapped=BOX)",
        "functools.partial(functools.update_wrapper, wrapped=BOX)(out)",
        "list(map(functools.wraps(BOX), [out]))",
        "functools.wraps(BOX)(self)",
        "functools.wraps(BOX)(double)",
    ] {
        assert!(rejected(tools, "nn.Module", "", "", forward).contains("K017"), "{forward}");
    }
    for wrapper in [
        "    @functools.wraps(f)\n    def inner(*a):\n        return f(*a)\n    return inner",
        "    def inner(*a):\n        return f(*a)\n    return functools.wraps(f)(inner)",
        "    def inner(*a):\n        return f(*a)\n    return functools.update_wrapper(inner, f)",
    ] {
        let tools = format!("def decorate(f):\n{wrapper}\n\n\n@decorate\ndef same(x):\n    return x");
        assert_eq!(rejected(&tools, "nn.Module", "", "", "x = same(x)"), BTreeSet::new(), "{wrapper}");
        let hides = tools.replace("return x", "return torch.relu(x)");
        assert!(rejected(&hides, "nn.Module", "", "", "x = same(x)").contains("K005"), "{wrapper}");
    }
}

/// Planted: an operator, a caster or an allocator that is or calls a function of torch. Seen: torch's work under another name.
#[test]
fn an_operator_is_what_it_is_made_of() {
    for op in [
        "torch.library.custom_op('m::c', torch.relu, mutates_args=())",
        "torch.library.custom_op('m::c', fn=torch.relu, mutates_args=())",
        "torch.library.custom_op('m::c', mutates_args=())(torch.relu)",
        "torch.library.triton_op('m::c', functools.partial(torch.softmax, dim=-1), mutates_args=())",
        "torch.library.custom_op('m::c', lambda x: torch.relu(x), mutates_args=())",
        "torch.amp.custom_fwd(torch.relu, device_type='cuda')",
        "torch.amp.custom_fwd(device_type='cuda')(torch.relu)",
        "torch.compiler.disable(torch.relu)",
        "torch.compiler.disable(recursive=False)(torch.relu)",
    ] {
        assert!(rejected(&format!("op = {op}"), "nn.Module", "", "", "x = op(x)").contains("K005"), "{op}");
    }
    let own = "def impl(x: torch.Tensor) -> torch.Tensor:\n    out = torch.empty_like(x)\n    \
               double[(1,)](x, out, x.numel(), BLOCK=256)\n    return out\n\n\nop = ";
    for op in [
        "torch.library.custom_op('m::c', impl, mutates_args=())",
        "torch.library.custom_op('m::c', mutates_args=())(impl)",
    ] {
        assert_eq!(rejected(&format!("{own}{op}"), "nn.Module", "", "", "y = op(x)"), BTreeSet::new(), "{op}");
    }
    let give = "def give(size, alignment, stream, device=None):\n    return torch.empty(size, device=device, dtype=torch.int8)";
    for allocator in [
        "lambda size, align, stream: torch.softmax(x, -1, out=out)",
        "functools.partial(torch.softmax, x, -1)",
        "torch.empty",
    ] {
        let set = format!("triton.set_allocator({allocator})");
        assert!(!rejected(give, "nn.Module", "", "", &set).is_empty(), "{set}");
    }
    let early = "triton.set_allocator(lambda *a: torch.softmax(self.given, -1, out=self.made))";
    assert!(rejected(give, "nn.Module", "", early, "self.given, self.made = x, out").contains("K005"));
    for allocator in [
        "give",
        "functools.partial(give, device='cuda')",
        "lambda size, align, stream: torch.empty(size, dtype=torch.int8)",
    ] {
        let set = format!("triton.set_allocator({allocator})");
        assert_eq!(rejected(give, "nn.Module", "", "", &set), BTreeSet::new(), "{set}");
        assert_eq!(rejected(give, "nn.Module", "", &set, ""), BTreeSet::new(), "{set}");
    }
}
