//! What a `@triton.jit` function does to the pointers it is given: which it loads, which it stores to, and whether what
//! it stores depends on anything it loaded.
//!
//! Flow of pointers is followed through assignments and through calls of the candidate's other jit functions; a value
//! that was loaded is data, not a pointer. Control flow counts: a constant stored under a condition on loaded data is
//! data.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use ruff_python_ast::visitor::{Visitor, walk_expr};
use ruff_python_ast::{Expr, ExprCall, Stmt, UnaryOp};

use super::features::{Features, of_call, of_operator};
use super::value::{Env, FuncId, Value};
use super::{Body, FuncInfo};

/// Bit set over parameters 0..=126; bit 127 marks loaded data.
type Flow = u128;
const DATA: Flow = 1 << 127;
const MAX_PARAMETERS: usize = 127;
/// Most expressions visited for one kernel and its helpers.
const BUDGET: u32 = 60_000;
/// The same for all kernels of a candidate.
pub const TOTAL_BUDGET: u32 = 500_000;
/// Deepest chain of jit helper calls that is followed.
const MAX_HELPERS: usize = 8;

/// Python's own functions that work in a kernel.
const BUILTINS: &[&str] = &["range", "min", "max", "abs", "len", "int", "float", "bool", "sum", "tuple", "isinstance"];

/// The facts of one kernel.
#[derive(Clone, Debug, Default)]
pub struct KernelFacts {
    pub parameters: Vec<String>,
    /// Parameters loaded from, one bit each.
    pub loads: u128,
    /// Parameters stored to.
    pub stores: u128,
    /// Parameters stored to with something that depends on loaded data.
    pub stores_data: u128,
    /// Has a store or an atomic at all.
    pub any_store: bool,
    /// Has a load at all.
    pub any_load: bool,
    /// What it does to loaded data.
    pub features: Features,
    /// Calls something that is not understood, or is too long to be followed: its features are not all there.
    pub opaque: bool,
    /// What it returns.
    returns: Flow,
}

/// Analyses one function, and takes what it costs off what is left for all kernels.
pub fn facts(id: FuncId, functions: &[FuncInfo<'_>], frames: &[Rc<Env<'_>>], left: &mut u32) -> KernelFacts {
    let budget = Cell::new(BUDGET.min(*left));
    let before = budget.get();
    let facts = analyse(id, functions, frames, 0, &budget);
    *left -= before - budget.get();
    facts
}

fn analyse(
    id: FuncId,
    functions: &[FuncInfo<'_>],
    frames: &[Rc<Env<'_>>],
    depth: usize,
    budget: &Cell<u32>,
) -> KernelFacts {
    let Some(FuncInfo { params: Some(params), body: Body::Block(body), .. }) = functions.get(id) else {
        return KernelFacts::default();
    };
    let mut walk =
        Walk { functions, frames, depth, budget, names: HashMap::new(), control: 0, facts: KernelFacts::default() };
    for (index, parameter) in params.iter_non_variadic_params().enumerate().take(MAX_PARAMETERS) {
        walk.facts.parameters.push(parameter.parameter.name.id.to_string());
        walk.names.insert(parameter.parameter.name.id.as_str(), 1 << index);
    }
    // Twice, for what one turn of a loop leaves to the next.
    walk.block(body);
    walk.block(body);
    walk.facts
}

struct Walk<'a, 'b> {
    functions: &'b [FuncInfo<'a>],
    frames: &'b [Rc<Env<'a>>],
    depth: usize,
    budget: &'b Cell<u32>,
    names: HashMap<&'a str, Flow>,
    /// Data that decides whether the present statement runs.
    control: Flow,
    facts: KernelFacts,
}

impl<'a> Walk<'a, '_> {
    fn block(&mut self, body: &'a [Stmt]) {
        for stmt in body {
            self.statement(stmt);
        }
    }

    fn under(&mut self, test: Flow, body: &'a [Stmt]) {
        let outer = self.control;
        self.control |= test & DATA;
        self.block(body);
        self.control = outer;
    }

    fn statement(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Assign(a) => {
                let flow = self.eval(&a.value);
                for target in &a.targets {
                    self.bind(target, flow, false);
                }
            }
            Stmt::AugAssign(a) => {
                let flow = self.eval(&a.value);
                let old = self.eval(&a.target);
                self.does(old | flow, of_operator(a.op, None, &a.value));
                self.bind(&a.target, flow, true);
            }
            Stmt::AnnAssign(a) => {
                if let Some(value) = a.value.as_deref() {
                    let flow = self.eval(value);
                    self.bind(&a.target, flow, false);
                }
            }
            Stmt::For(f) => {
                let flow = self.eval(&f.iter);
                self.bind(&f.target, flow & DATA, false);
                self.under(flow, &f.body);
                self.block(&f.orelse);
            }
            Stmt::While(w) => {
                let flow = self.eval(&w.test);
                self.does(flow, Features::SELECT);
                self.under(flow, &w.body);
            }
            Stmt::If(i) => {
                let mut never = constant(&i.test) == Some(false);
                let flow = self.eval(&i.test);
                self.does(flow, Features::SELECT);
                if !never {
                    self.under(flow, &i.body);
                }
                never = constant(&i.test) == Some(true);
                for clause in &i.elif_else_clauses {
                    if never {
                        break;
                    }
                    let test = clause.test.as_ref().map_or(0, |t| self.eval(t));
                    self.under(flow | test, &clause.body);
                }
            }
            Stmt::With(w) => self.block(&w.body),
            Stmt::Expr(e) => {
                self.eval(&e.value);
            }
            Stmt::Return(r) => {
                if let Some(value) = r.value.as_deref() {
                    let flow = self.eval(value);
                    self.facts.returns |= flow | self.control;
                }
            }
            Stmt::Assert(a) => {
                self.eval(&a.test);
            }
            _ => {}
        }
    }

    fn bind(&mut self, target: &'a Expr, flow: Flow, add: bool) {
        match target {
            Expr::Name(n) => {
                let old = self.names.get(n.id.as_str()).copied().unwrap_or(0);
                let flow = flow | self.control;
                // What a name ever pointed to stays: branches and loops are not told apart.
                let merged = if add || old & !DATA != 0 { old | flow } else { flow | (old & DATA) };
                self.names.insert(n.id.as_str(), merged);
            }
            Expr::Tuple(t) => t.elts.iter().for_each(|e| self.bind(e, flow, add)),
            Expr::List(l) => l.elts.iter().for_each(|e| self.bind(e, flow, add)),
            Expr::Starred(s) => self.bind(&s.value, flow, add),
            _ => {}
        }
    }

    fn eval(&mut self, expr: &'a Expr) -> Flow {
        let left = self.budget.get();
        if left == 0 {
            self.facts.opaque = true;
            return 0;
        }
        self.budget.set(left - 1);
        match expr {
            Expr::Name(n) => self.names.get(n.id.as_str()).copied().unwrap_or(0),
            Expr::Call(c) => self.call(c),
            _ => {
                let flow = self.parts(expr);
                let features = match expr {
                    Expr::BinOp(b) => of_operator(b.op, Some(&b.left), &b.right),
                    Expr::Compare(_) | Expr::BoolOp(_) | Expr::If(_) => Features::SELECT,
                    Expr::UnaryOp(u) if u.op != UnaryOp::UAdd => Features::OTHER,
                    _ => Features::NONE,
                };
                self.does(flow, features);
                flow
            }
        }
    }

    /// An operation on a value. What a helper is given may be data, whatever it is.
    fn does(&mut self, flow: Flow, features: Features) {
        if self.depth > 0 || flow & DATA != 0 {
            self.facts.features |= features;
        }
    }

    fn parts(&mut self, expr: &'a Expr) -> Flow {
        struct Parts<'a>(Vec<&'a Expr>);
        impl<'a> Visitor<'a> for Parts<'a> {
            fn visit_expr(&mut self, expr: &'a Expr) {
                self.0.push(expr);
            }
        }
        let mut parts = Parts(Vec::new());
        walk_expr(&mut parts, expr);
        parts.0.into_iter().fold(0, |all, part| all | self.eval(part))
    }

    fn call(&mut self, call: &'a ExprCall) -> Flow {
        let positional: Vec<Flow> = call.arguments.args.iter().map(|a| self.eval(a)).collect();
        let named: Vec<(&'a str, Flow)> = call
            .arguments
            .keywords
            .iter()
            .map(|k| (k.arg.as_ref().map_or("", |n| n.id.as_str()), self.eval(&k.value)))
            .collect();
        let all = positional.iter().chain(named.iter().map(|(_, f)| f)).fold(0, |all, f| all | f);
        let pointer = positional.first().copied().or_else(|| named.iter().find(|(n, _)| *n == "pointer").map(|n| n.1));
        let callee = self.path(&call.func);
        let last = callee.as_deref().and_then(|p| p.rsplit('.').next()).unwrap_or_default();
        if callee.as_deref().is_some_and(|p| p.starts_with("triton.language")) {
            match last {
                "load" | "load_tensor_descriptor" | "experimental_descriptor_load" | "gather" => {
                    return self.load(pointer.unwrap_or(0), all, last == "gather");
                }
                "store" | "store_tensor_descriptor" | "experimental_descriptor_store" => {
                    self.store(pointer.unwrap_or(0), all);
                    return 0;
                }
                _ if last.starts_with("atomic_") => {
                    self.does(all, of_call(last));
                    self.store(pointer.unwrap_or(0), all | if last == "atomic_cas" { DATA } else { 0 });
                    self.facts.loads |= pointer.unwrap_or(0) & !DATA;
                    return DATA;
                }
                "inline_asm_elementwise" => {
                    self.facts.opaque = true;
                    return all;
                }
                "reduce" | "associative_scan" | "map_elementwise" => {
                    for argument in call.arguments.args.iter().chain(call.arguments.keywords.iter().map(|k| &k.value)) {
                        self.combines(argument);
                    }
                    self.does(all, of_call(last));
                    return all;
                }
                _ => {
                    self.does(all, of_call(last));
                    return all;
                }
            }
        }
        if let Expr::Attribute(a) = &*call.func {
            let base = self.eval(&a.value);
            if base & !DATA != 0 {
                match a.attr.id.as_str() {
                    "load" | "gather" => return self.load(base, all, false),
                    name @ ("store" | "scatter" | "atomic_add" | "atomic_max" | "atomic_min") => {
                        if name.starts_with("atomic") {
                            self.does(all, of_call(name));
                        }
                        self.store(base, all);
                        return 0;
                    }
                    _ => {}
                }
            }
            if callee.is_none() && !self.is_foreign(&a.value) {
                self.does(base | all, of_call(a.attr.id.as_str()));
                return base | all;
            }
        }
        match self.helper(&call.func) {
            Some(id) if self.depth < MAX_HELPERS => self.helper_call(id, &positional, &named),
            _ => {
                match (&*call.func, &callee) {
                    (_, Some(path)) if path.starts_with("triton.") => all,
                    (Expr::Name(n), None) if BUILTINS.contains(&n.id.as_str()) => {
                        self.does(all, Features::SELECT | Features::ADD);
                        all
                    }
                    _ => {
                        // It may load what it is given, and be a helper that came in as an argument.
                        self.facts.opaque = true;
                        self.facts.loads |= all & !DATA;
                        all | DATA
                    }
                }
            }
        }
    }

    /// A function that a reduction or scan combines values with.
    fn combines(&mut self, function: &'a Expr) {
        if let (Some(id), true) = (self.helper(function), self.depth < MAX_HELPERS) {
            let inner = analyse(id, self.functions, self.frames, self.depth + 1, self.budget);
            self.facts.features |= inner.features;
            self.facts.opaque |= inner.opaque;
        }
    }

    fn load(&mut self, pointer: Flow, all: Flow, register: bool) -> Flow {
        if register {
            return all;
        }
        self.facts.any_load = true;
        self.facts.loads |= pointer & !DATA;
        DATA
    }

    fn store(&mut self, pointer: Flow, all: Flow) {
        self.facts.any_store = true;
        self.facts.stores |= pointer & !DATA;
        if (all | self.control) & DATA != 0 {
            self.facts.stores_data |= pointer & !DATA;
        }
    }

    fn helper_call(&mut self, id: FuncId, positional: &[Flow], named: &[(&'a str, Flow)]) -> Flow {
        // Each call is followed on its own: what a helper does counts where it is given data.
        let inner = analyse(id, self.functions, self.frames, self.depth + 1, self.budget);
        let mut flows = Vec::with_capacity(inner.parameters.len());
        for (index, name) in inner.parameters.iter().enumerate() {
            let by_name = || named.iter().find(|(n, _)| n == name).map(|(_, f)| *f);
            flows.push(positional.get(index).copied().or_else(by_name).unwrap_or(0));
        }
        let map =
            |bits: u128| flows.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).fold(0, |all, (_, f)| all | *f);
        let given = flows.iter().fold(0, |all, f| all | *f) & DATA;
        self.facts.any_load |= inner.any_load;
        self.facts.opaque |= inner.opaque;
        if (given | self.control) & DATA != 0 || inner.any_load || self.depth > 0 {
            self.facts.features |= inner.features;
        }
        self.facts.any_store |= inner.any_store;
        self.facts.loads |= map(inner.loads) & !DATA;
        self.facts.stores |= map(inner.stores) & !DATA;
        let data = if (given | self.control) & DATA != 0 { inner.stores } else { inner.stores_data };
        self.facts.stores_data |= map(data) & !DATA;
        map(inner.returns & !DATA) | (inner.returns & DATA)
    }

    /// The full name of a library function.
    fn path(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Name(n) if !self.names.contains_key(n.id.as_str()) => library(self.lookup(n.id.as_str())?),
            Expr::Attribute(a) => Some(format!("{}.{}", self.path(&a.value)?, a.attr.id)),
            _ => None,
        }
    }

    fn helper(&self, expr: &Expr) -> Option<FuncId> {
        let Expr::Name(n) = expr else {
            return None;
        };
        // A parameter by the name of a helper is whatever it is given.
        if self.names.contains_key(n.id.as_str()) {
            return None;
        }
        match self.lookup(n.id.as_str())? {
            Value::Kernels(ids) => ids.first().copied(),
            Value::Func(func) => Some(func.id),
            _ => None,
        }
    }

    /// Something of the candidate's own that is neither a kernel's value nor a function: what its methods do is not known.
    fn is_foreign(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Name(n) if !self.names.contains_key(n.id.as_str()) => {
                self.lookup(n.id.as_str()).is_some_and(|v| !v.is_scalar())
            }
            Expr::Attribute(a) => self.is_foreign(&a.value),
            Expr::Subscript(s) => self.is_foreign(&s.value),
            _ => false,
        }
    }

    fn lookup(&self, name: &str) -> Option<&Value<'a>> {
        self.frames.iter().rev().find_map(|f| f.get(name))
    }
}

/// The one name of a library that a value stands for. Beside it None may stand, where an import failed: nothing can be called
/// of that, so no other program runs.
fn library(value: &Value<'_>) -> Option<String> {
    let mut known = value.each().iter().filter(|v| !matches!(v, Value::Nothing));
    match (known.next(), known.next()) {
        (Some(Value::Path(path)), None) => Some(path.to_string()),
        _ => None,
    }
}

fn constant(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::BooleanLiteral(b) => Some(b.value),
        Expr::NoneLiteral(_) => Some(false),
        Expr::NumberLiteral(n) => match &n.value {
            ruff_python_ast::Number::Int(i) => i.as_u64().map(|v| v != 0),
            _ => None,
        },
        _ => None,
    }
}
