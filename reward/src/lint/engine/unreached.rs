//! The net under the interpreter: a function of the candidate that reached code speaks of, and that was never called, may
//! have been lost on a way that is not followed. It is run at the end, as if on data.

use std::collections::HashSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, Keyword, Stmt};

use super::call::Args;
use super::trace::{Fact, Seen};
use super::value::{ClassId, FuncId, Value};
use super::{Binding, Engine, Origin};

/// Rounds of looking: what is run may speak of others.
const ROUNDS: usize = 3;
/// Most functions that are run for this.
const MAX_RUN: usize = 48;
/// Methods that a library calls, and never in forward or where they are followed.
const OTHERS: &[&str] = &["forward", "backward", "setup_context", "vmap", "jvp", "get_inputs", "get_init_inputs"];

impl<'a> Engine<'a> {
    /// Runs what was spoken of and never called.
    pub(super) fn run_unreached(&mut self, body: &'a [Stmt]) {
        let mut run = 0;
        for _ in 0..ROUNDS {
            if (0..self.functions.len()).all(|id| self.reached.contains(&id)) {
                return;
            }
            let (names, members) = self.spoken_of(body);
            let lost: Vec<FuncId> =
                (0..self.functions.len()).filter(|id| self.is_lost(*id, &names, &members)).collect();
            if lost.is_empty() {
                return;
            }
            for id in lost {
                run += 1;
                if run > MAX_RUN {
                    return;
                }
                self.run_lost(id);
            }
        }
    }

    fn is_lost(&self, id: FuncId, names: &HashSet<&'a str>, members: &HashSet<&'a str>) -> bool {
        let info = &self.functions[id];
        let class = info.owner.and_then(|c| self.classes.get(c));
        let elsewhere = class.is_some_and(|c| c.name == "Model")
            || info.owner.is_some_and(|c| self.descends(c, "torch.autograd.Function"));
        let kernel = self.defined.contains(&id);
        let special = info.name.starts_with("__") || OTHERS.contains(&info.name);
        let named = names.contains(info.name) || info.owner.is_some() && members.contains(info.name);
        let spoken = info.node.is_some() && named;
        !self.reached.contains(&id) && !elsewhere && !kernel && !special && spoken
    }

    fn run_lost(&mut self, id: FuncId) {
        let Some(func) = self.made.get(&id).cloned() else {
            return;
        };
        let info = &self.functions[id];
        let method = matches!(info.binding, Binding::Plain | Binding::Property | Binding::Class);
        let owner = info.owner.filter(|_| method && func.closure.is_none());
        let receiver = owner.map(|class| self.some_object(class));
        let data = self.fresh(Origin::Input);
        // What it takes for data may be anything: a text of it says nothing.
        self.raised(|engine| {
            engine.aside(|engine| {
                engine.call_function(&func, receiver, Args { rest: Some(data), ..Args::default() });
            });
        });
    }

    /// Runs something that may run, for what it would do wrong: a launch in it is not one of forward's.
    pub(super) fn aside(&mut self, run: impl FnOnce(&mut Self)) {
        let (count, state) = (self.seen.len(), self.fork());
        self.state.alive = true;
        run(self);
        self.state = state;
        self.state.alive = true;
        let kept = |fact: &Fact| !matches!(fact, Fact::Launch { .. } | Fact::DeadLaunch { .. } | Fact::Returns { .. });
        let seen: Vec<Seen> = self.seen.drain(count..).collect();
        for one in seen {
            if kept(&one.fact) {
                self.seen.push(one);
            } else {
                self.known.remove(&one);
            }
        }
    }

    /// An object of a class or of one that inherits from it.
    fn some_object(&mut self, class: ClassId) -> Value<'a> {
        let known = self.instances.iter().rev().find(|(_, of)| *of == class);
        match known {
            Some((object, class)) => Value::Instance(*object, *class),
            None => Value::Instance(self.object(Origin::Instance), class),
        }
    }

    /// Names, and names of members, in code that runs.
    fn spoken_of(&self, body: &'a [Stmt]) -> (HashSet<&'a str>, HashSet<&'a str>) {
        let mut search = Search { engine: self, names: HashSet::new(), members: HashSet::new() };
        search.visit_body(body);
        (search.names, search.members)
    }
}

struct Search<'e, 'a> {
    engine: &'e Engine<'a>,
    names: HashSet<&'a str>,
    members: HashSet<&'a str>,
}

/// `getattr` and its kin.
fn asks_by_name(callee: &Expr) -> bool {
    let name = match callee {
        Expr::Name(n) => n.id.as_str(),
        Expr::Attribute(a) => a.attr.id.as_str(),
        _ => return false,
    };
    matches!(name, "getattr" | "methodcaller" | "attrgetter")
}

impl<'a> Visitor<'a> for Search<'_, 'a> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(f) => {
                let id = self.engine.function_ids.get(&(std::ptr::from_ref(f) as usize));
                if id.is_some_and(|id| self.engine.reached.contains(id)) {
                    self.visit_body(&f.body);
                }
                f.parameters
                    .iter_non_variadic_params()
                    .filter_map(|p| p.default.as_deref())
                    .for_each(|d| self.visit_expr(d));
                f.decorator_list.iter().for_each(|d| self.visit_decorator(d));
            }
            _ => walk_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(n) if n.ctx.is_load() => self.names.extend([n.id.as_str()]),
            Expr::Attribute(a) if a.ctx.is_load() => self.members.extend([a.attr.id.as_str()]),
            Expr::Call(c) if asks_by_name(&c.func) => {
                for arg in &c.arguments.args {
                    if let Expr::StringLiteral(s) = arg {
                        self.members.extend(s.value.iter().map(|part| &*part.value));
                    }
                }
            }
            // Gradients and shapes of an operator.
            Expr::Call(c) if matches!(&*c.func, Expr::Attribute(a) if a.attr.id.as_str().starts_with("register")) => {
                return self.visit_expr(&c.func);
            }
            _ => {}
        }
        walk_expr(self, expr);
    }

    fn visit_keyword(&mut self, keyword: &'a Keyword) {
        // What a profiler asks of a launch; without one it does not run.
        if keyword.arg.as_ref().is_none_or(|name| name.id.as_str() != "launch_metadata") {
            self.visit_expr(&keyword.value);
        }
    }
}
