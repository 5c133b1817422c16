//! What a task's own reference needs, read off its syntax tree: the operations of `Model.forward` and the modules built in
//! `__init__` that it uses, or a list `REQUIRED_OPS` in the task.
//!
//! Only what certainly runs counts, and what an honest answer could simplify away is left out.

use std::collections::{BTreeMap, BTreeSet};

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, ExprCall, Operator, Stmt, StmtClassDef, StmtFunctionDef};

use super::aliases::{Aliases, constant_text};
use super::needs::{self, Need};

/// Most functions and classes of a task that are read.
const MAX_PARTS: usize = 64;

/// What the reference says about its answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// Components and the operation that asks for each.
    pub needs: BTreeMap<&'static str, (Need, String)>,
    /// Names in `REQUIRED_OPS` that are not known.
    pub unknown: Vec<String>,
    /// The reference may write over its inputs.
    pub mutates: bool,
    /// Some tensor of the task may be complex.
    pub complex: bool,
    /// Training and inference may be two functions: batch statistics, dropout, a look at `training`.
    pub modes: bool,
}

/// Reads a task's module.
pub fn read(body: &[Stmt]) -> Reference {
    let mut aliases = Aliases::default();
    aliases.visit_body(body);
    let mut reader = Reader::new(&aliases);
    let mut reference = Reference::default();
    reader.declared(body, &mut reference);
    let mut open: BTreeSet<String> = BTreeSet::from(["Model".to_owned()]);
    let mut done = BTreeSet::new();
    while let Some(name) = open.pop_first() {
        if done.len() >= MAX_PARTS || !done.insert(name.clone()) {
            continue;
        }
        for stmt in body {
            match stmt {
                Stmt::ClassDef(c) if c.name.id.as_str() == name => reader.class(c),
                Stmt::FunctionDef(f) if f.name.id.as_str() == name && !name.starts_with("get_") => reader.function(f),
                _ => {}
            }
        }
        open.extend(reader.names.iter().filter(|n| !done.contains(*n)).cloned());
    }
    reference.mutates = reader.mutates;
    reference.modes = reader.modes;
    for name in reader.certain() {
        for need in needs::of(&name).unwrap_or_default() {
            reference.needs.entry(need.shown()).or_insert((*need, name.clone()));
        }
    }
    reference
}

struct Reader<'b> {
    aliases: &'b Aliases,
    /// Operations that certainly run, by their plain name.
    operations: Vec<String>,
    /// Modules of torch by the attribute they are kept in.
    modules: BTreeMap<String, Vec<String>>,
    /// Attributes that forward mentions.
    used: BTreeSet<String>,
    /// Other functions and classes of the task that are mentioned.
    names: BTreeSet<String>,
    keepdims: usize,
    /// Constant weights, a return on a condition: what runs is not certain.
    uncertain: bool,
    ones: bool,
    squares: bool,
    mutates: bool,
    modes: bool,
    in_init: bool,
    /// Names of the function at hand whose values come from its arguments, sizes aside.
    derived: BTreeSet<String>,
}

impl<'b> Reader<'b> {
    fn new(aliases: &'b Aliases) -> Self {
        Reader {
            aliases,
            operations: Vec::new(),
            modules: BTreeMap::new(),
            used: BTreeSet::new(),
            names: BTreeSet::new(),
            keepdims: 0,
            uncertain: false,
            ones: false,
            squares: false,
            mutates: false,
            modes: false,
            in_init: false,
            derived: BTreeSet::new(),
        }
    }

    /// `REQUIRED_OPS = ["matmul", ..]`
    fn declared(&mut self, body: &[Stmt], reference: &mut Reference) {
        for stmt in body {
            let Stmt::Assign(a) = stmt else {
                continue;
            };
            if !a.targets.iter().any(|t| matches!(t, Expr::Name(n) if n.id.as_str() == "REQUIRED_OPS")) {
                continue;
            }
            let items = match &*a.value {
                Expr::List(l) => &l.elts,
                Expr::Tuple(t) => &t.elts,
                _ => continue,
            };
            for name in items.iter().filter_map(constant_text) {
                match needs::of(&needs::plain(&name)) {
                    Some(needs) => {
                        for need in needs {
                            reference.needs.entry(need.shown()).or_insert((*need, name.clone()));
                        }
                    }
                    None => reference.unknown.push(name),
                }
            }
        }
    }

    fn class(&mut self, class: &StmtClassDef) {
        for stmt in &class.body {
            if let Stmt::FunctionDef(f) = stmt {
                self.in_init = f.name.id.as_str() == "__init__";
                self.function(f);
                self.in_init = false;
            }
        }
    }

    fn function(&mut self, function: &StmtFunctionDef) {
        let named = function.parameters.iter().map(|p| p.name().id.to_string());
        self.derived = named.filter(|n| n != "self").collect();
        self.visit_body(&function.body);
    }

    /// Whether a value may depend on what the function was given, and not on its sizes alone.
    fn depends(&self, expr: &Expr) -> bool {
        let mut finder = Finder { names: &self.derived, found: false };
        finder.visit_expr(expr);
        finder.found
    }

    /// The operations that no answer can do without.
    fn certain(&self) -> Vec<String> {
        let used = self.modules.iter().filter(|(name, _)| self.used.contains(*name)).flat_map(|(_, all)| all);
        let all: Vec<&String> = self.operations.iter().chain(used).collect();
        if self.uncertain {
            return Vec::new();
        }
        let has = |names: &[&str]| all.iter().any(|o| names.contains(&o.as_str()));
        let wants = |need: Need| all.iter().filter(|o| needs::of(o).is_some_and(|needs| needs.contains(&need))).count();
        // Reduced to one value along an axis, a further reduction or softmax there is nothing.
        let collapsed = self.keepdims > 0 && wants(Need::Sum) + wants(Need::Select) > 1;
        let exponentials = ["exp", "exp2", "expm1"];
        let logarithms = ["log", "log2", "log10", "log1p"];
        let inverse = has(&exponentials) && has(&logarithms);
        let signs = !self.squares && all.iter().all(|o| needs::keeps_signs(o));
        let certain = |name: &&&String| {
            let needs = needs::of(name).unwrap_or_default();
            let only = |list: &[&str]| list.contains(&name.as_str());
            let work = needs.contains(&Need::Multiply);
            !(inverse && (only(&exponentials) || only(&logarithms)))
                && (!collapsed || work)
                && !(self.ones && work)
                && (!needs.contains(&Need::Clip) || signs)
        };
        all.iter().filter(certain).map(|o| (*o).clone()).collect()
    }

    fn call(&mut self, call: &ExprCall) {
        for keyword in &call.arguments.keywords {
            let on = !matches!(&keyword.value, Expr::BooleanLiteral(b) if !b.value);
            match keyword.arg.as_ref().map(|a| a.id.as_str()) {
                Some("keepdim" | "keepdims") if on => self.keepdims += 1,
                Some("inplace" | "out") if on => self.mutates = true,
                _ => {}
            }
        }
        let paths = self.aliases.resolve(&call.func);
        let path = paths.iter().find(|p| p.starts_with("torch."));
        let name = match (&*call.func, path) {
            (_, Some(path)) => path.rsplit('.').next().unwrap_or_default(),
            // The task's own modules and methods are read where they are defined.
            (Expr::Attribute(a), None) if matches!(&*a.value, Expr::Name(n) if n.id.as_str() == "self") => return,
            (Expr::Attribute(a), None) => a.attr.id.as_str(),
            (Expr::Name(n), None) => {
                self.names.insert(n.id.to_string());
                return;
            }
            _ => return,
        };
        self.ones |= name.starts_with("ones") || name.starts_with("constant");
        self.modes |= name.starts_with("BatchNorm")
            || name.to_ascii_lowercase().contains("dropout")
            || matches!(name, "batch_norm" | "bernoulli" | "multinomial")
            || name.starts_with("rrelu")
            || name == "RReLU";
        if self.in_init {
            return;
        }
        // A table of positions or frequencies is as well made beforehand.
        let given = call.arguments.args.iter().chain(call.arguments.keywords.iter().map(|k| &k.value));
        let receiver = call.func.as_attribute_expr().map(|a| &*a.value);
        if !given.chain(receiver).any(|e| self.depends(e)) {
            return;
        }
        self.mutates |= name.ends_with('_') && !name.starts_with("__");
        if name == "einsum" {
            let product = call.arguments.args.first().and_then(constant_text).is_some_and(|t| t.contains(','));
            if product {
                self.operations.push("matmul".to_owned());
            }
        }
        self.squares |= matches!(name, "mul" | "multiply" | "square" | "pow" | "abs");
        // The receiver of a method may be one of the task's own modules; those are read by name.
        self.operations.push(needs::plain(name));
    }

    /// `self.x = nn.Linear(..)`: all modules of torch in the value.
    fn modules_in(&self, value: &Expr) -> Vec<String> {
        struct Calls<'a>(Vec<&'a ExprCall>);
        impl<'a> Visitor<'a> for Calls<'a> {
            fn visit_expr(&mut self, expr: &'a Expr) {
                match expr {
                    Expr::Call(c) => self.0.push(c),
                    // Which of them is built is not certain.
                    Expr::If(_) | Expr::Lambda(_) => return,
                    _ => {}
                }
                walk_expr(self, expr);
            }
        }
        let mut calls = Calls(Vec::new());
        calls.visit_expr(value);
        let path = |call: &&ExprCall| {
            let paths = self.aliases.resolve(&call.func);
            let path = paths.into_iter().find(|p| p.starts_with("torch.nn."))?;
            path.rsplit('.').next().filter(|n| n.starts_with(|c: char| c.is_ascii_uppercase())).map(needs::plain)
        };
        calls.0.iter().filter_map(path).collect()
    }
}

impl<'a> Visitor<'a> for Reader<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            // What runs on a condition is not certain, and neither is what comes after a return in it.
            Stmt::If(_) | Stmt::Try(_) | Stmt::While(_) | Stmt::Match(_) => {
                let mut finder = Leaves { returns: false, names: &mut self.derived };
                walk_stmt(&mut finder, stmt);
                self.uncertain |= finder.returns && !self.in_init;
                return;
            }
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => return,
            Stmt::Assign(a) if self.in_init => {
                for target in &a.targets {
                    if let Expr::Attribute(attribute) = target {
                        let found = self.modules_in(&a.value);
                        self.modules.entry(attribute.attr.id.to_string()).or_default().extend(found);
                    }
                }
            }
            Stmt::Assign(a) => {
                self.mutates |= a.targets.iter().any(|t| t.is_subscript_expr());
                if self.depends(&a.value) {
                    a.targets.iter().for_each(|t| names_of(t, &mut self.derived));
                }
            }
            Stmt::AnnAssign(a) if !self.in_init && a.value.as_ref().is_some_and(|v| self.depends(v)) => {
                names_of(&a.target, &mut self.derived);
            }
            Stmt::For(f) if self.depends(&f.iter) => names_of(&f.target, &mut self.derived),
            Stmt::AugAssign(a) if !self.in_init => {
                self.mutates = true;
                if self.depends(&a.value) {
                    names_of(&a.target, &mut self.derived);
                }
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::If(_) | Expr::Lambda(_) => return,
            Expr::Call(c) => self.call(c),
            Expr::Attribute(a) if !self.in_init => {
                self.modes |= a.attr.id.as_str() == "training";
                self.used.insert(a.attr.id.to_string());
            }
            Expr::BinOp(b) if !self.in_init => match b.op {
                Operator::MatMult if self.depends(expr) => self.operations.push("matmul".to_owned()),
                Operator::Mult => {
                    // x * x, or w * f(x): the sign of what follows may be known.
                    let number = |e: &Expr| e.is_number_literal_expr() || e.is_attribute_expr() || e.is_unary_op_expr();
                    self.squares |= !number(&b.left) && !number(&b.right);
                }
                Operator::Pow => self.squares = true,
                _ => {}
            },
            Expr::Name(n) => {
                self.names.insert(n.id.to_string());
            }
            _ => {}
        }
        walk_expr(self, expr);
    }
}

/// Finds a return, and what is given a value on a condition.
struct Leaves<'n> {
    returns: bool,
    names: &'n mut BTreeSet<String>,
}

impl<'a> Visitor<'a> for Leaves<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Return(_) => self.returns = true,
            Stmt::Assign(a) => a.targets.iter().for_each(|t| names_of(t, self.names)),
            _ => {}
        }
        walk_stmt(self, stmt);
    }
}

/// Finds a name, sizes and kinds of it aside.
struct Finder<'n> {
    names: &'n BTreeSet<String>,
    found: bool,
}

impl<'a> Visitor<'a> for Finder<'_> {
    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(n) => self.found |= self.names.contains(n.id.as_str()),
            Expr::Attribute(a) if matches!(a.attr.id.as_str(), "shape" | "device" | "dtype" | "ndim") => {}
            Expr::Call(c)
                if c.func
                    .as_attribute_expr()
                    .is_some_and(|a| matches!(a.attr.id.as_str(), "size" | "dim" | "numel")) => {}
            _ => walk_expr(self, expr),
        }
    }
}

/// The names that a target of an assignment gives a value.
fn names_of(target: &Expr, names: &mut BTreeSet<String>) {
    match target {
        Expr::Name(n) => {
            names.insert(n.id.to_string());
        }
        Expr::Tuple(t) => t.elts.iter().for_each(|e| names_of(e, names)),
        Expr::List(l) => l.elts.iter().for_each(|e| names_of(e, names)),
        Expr::Starred(s) => names_of(&s.value, names),
        Expr::Subscript(s) => names_of(&s.value, names),
        _ => {}
    }
}
