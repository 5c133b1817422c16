//! Statements of the abstract interpreter.

use std::rc::Rc;

use ruff_python_ast::{Expr, Stmt, StmtIf, StmtImport, StmtImportFrom, StmtTry, StmtWith, UnaryOp};

use super::paths::canonical;
use super::state::State;
use super::trace::{Fact, Seen, Stage};
use super::value::Value;
use super::{Engine, Loop};

impl<'a> Engine<'a> {
    /// Runs statements in order until the path ends.
    pub(super) fn block(&mut self, body: &'a [Stmt]) {
        for stmt in body {
            if !self.state.alive || !self.step() {
                return;
            }
            self.line = self.lines.of(stmt);
            self.statement(stmt);
        }
    }

    fn statement(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(f) => self.define_function(f),
            Stmt::ClassDef(c) => self.define_class(c),
            Stmt::Return(r) => {
                let value = r.value.as_deref().map_or(Value::Nothing, |v| self.eval(v));
                self.leave(value);
            }
            Stmt::Delete(d) => d.targets.iter().for_each(|t| self.delete(t)),
            Stmt::TypeAlias(t) => {
                self.eval(&t.value);
            }
            Stmt::Pass(_) | Stmt::IpyEscapeCommand(_) => {}
            Stmt::Assign(a) => {
                let value = self.eval(&a.value);
                for target in &a.targets {
                    self.assign(target, value.clone());
                }
            }
            Stmt::AugAssign(a) => self.augmented(a),
            Stmt::AnnAssign(a) => {
                let value = a.value.as_deref().map(|v| self.eval(v));
                self.eval(&a.annotation);
                if let Some(value) = value {
                    self.assign(&a.target, value);
                }
            }
            Stmt::For(f) => self.for_loop(f),
            Stmt::While(w) => {
                self.memory.searching += 1;
                self.while_loop(w);
                self.memory.searching = self.memory.searching.saturating_sub(1);
            }
            Stmt::If(i) => self.branch(i),
            Stmt::With(w) => self.with(w),
            Stmt::Match(m) => {
                let subject = self.eval(&m.subject);
                self.decides(&subject);
                let before = self.fork();
                let mut after = before.clone();
                for case in &m.cases {
                    self.state = before.clone();
                    self.bind_pattern(&case.pattern, &subject);
                    if let Some(guard) = case.guard.as_deref() {
                        self.condition(guard);
                    }
                    self.block(&case.body);
                    let done = std::mem::take(&mut self.state);
                    after = if case.pattern.is_irrefutable() && case.guard.is_none() {
                        // Nothing falls past an irrefutable case; what came before it may still have matched.
                        done.join(after)
                    } else {
                        after.join(done)
                    };
                }
                self.state = after;
            }
            Stmt::Raise(r) => {
                for part in [r.exc.as_deref(), r.cause.as_deref()].into_iter().flatten() {
                    self.raised(|engine| engine.eval(part));
                }
                self.state.alive = false;
            }
            Stmt::Try(t) => self.attempt(t),
            Stmt::Assert(a) => {
                self.condition(&a.test);
                if let Some(message) = a.msg.as_deref() {
                    let passed = self.fork();
                    self.raised(|engine| engine.eval(message));
                    self.state = passed;
                }
            }
            Stmt::Import(i) => self.import(i),
            Stmt::ImportFrom(i) => self.import_from(i),
            Stmt::Global(g) => {
                if let Some(names) = self.globals.last_mut() {
                    names.extend(g.names.iter().map(|n| n.id.as_str()));
                }
            }
            Stmt::Nonlocal(n) => {
                if let Some(names) = self.nonlocals.last_mut() {
                    names.extend(n.names.iter().map(|n| n.id.as_str()));
                }
            }
            Stmt::Expr(e) => {
                self.eval(&e.value);
                if let Expr::Call(c) = &*e.value {
                    self.acts(c);
                }
            }
            Stmt::Break(_) => {
                let state = self.fork();
                if let Some(innermost) = self.loops.last_mut() {
                    innermost.breaks.push(state);
                }
                self.state.alive = false;
            }
            Stmt::Continue(_) => {
                let state = self.fork();
                if let Some(innermost) = self.loops.last_mut() {
                    innermost.continues.push(state);
                }
                self.state.alive = false;
            }
        }
    }

    /// A return of the running call.
    pub(super) fn leave(&mut self, value: Value<'a>) {
        if !self.state.alive {
            return;
        }
        if self.returns.len() == self.entry {
            self.check_output(&value);
        }
        let state = self.fork();
        if let Some(returns) = self.returns.last_mut() {
            returns.push((value, state));
        }
        self.state.alive = false;
    }

    fn branch(&mut self, stmt: &'a StmtIf) {
        let mut arms: Vec<(Option<&'a Expr>, &'a [Stmt])> = vec![(Some(&stmt.test), &stmt.body)];
        arms.extend(stmt.elif_else_clauses.iter().map(|c| (c.test.as_ref(), &*c.body)));
        let mut done: Option<State<'a>> = None;
        let keep = |done: &mut Option<State<'a>>, state: State<'a>| {
            *done = Some(match done.take() {
                Some(other) => other.join(state),
                None => state,
            });
        };
        let mut open = true;
        // Some of what a loop goes through is of the kind that it looks for.
        let mut sifted = true;
        let mut branches = 0;
        for (test, body) in arms {
            let Some(test) = test else {
                sifted = false;
                if open {
                    self.block(body);
                } else {
                    self.dead(body, "a branch that never runs");
                }
                break;
            };
            if !open {
                self.dead(body, "a branch that never runs");
                continue;
            }
            let drops = only_drops(body) && asks_length(test);
            self.evicting = drops;
            let found = self.condition(test);
            self.evicting = false;
            branches += u32::from(found.state);
            self.memory.branches += u32::from(found.state);
            if found.truth == Some(false) {
                self.dead(body, "a branch that never runs");
                continue;
            }
            let sieve = self.sieve(test);
            sifted &= sieve == Some(true);
            if sieve == Some(false) && matches!(body, [Stmt::Continue(_)]) {
                self.narrow(test, false);
                continue;
            }
            let before = self.fork();
            self.narrow(test, true);
            self.enter_way(found.empty);
            let dropping = std::mem::replace(&mut self.memory.dropping, drops);
            self.block(body);
            self.memory.dropping = dropping;
            let after = std::mem::replace(&mut self.state, before);
            keep(&mut done, after);
            if found.truth == Some(true) {
                open = false;
                self.state.alive = false;
                continue;
            }
            self.narrow(test, false);
            self.enter_way(found.filled_otherwise);
        }
        self.memory.branches -= branches;
        // The way past all arms (or through else) is the present state.
        let last = std::mem::take(&mut self.state);
        let sifted = sifted && done.as_ref().is_some_and(|d| d.alive);
        if !sifted {
            keep(&mut done, last.clone());
        }
        if let Some(state) = done {
            self.state = state;
        }
        if sifted && last.alive {
            // That one of them is of that kind is taken for granted for what kernels write, and for nothing else.
            self.perhaps_unturned(&last);
        }
    }

    /// Whether a test looks for (`true`) or against the class of what the innermost loop goes through.
    fn sieve(&self, test: &Expr) -> Option<bool> {
        match test {
            Expr::UnaryOp(u) if u.op == UnaryOp::Not => self.sieve(&u.operand).map(|found| !found),
            Expr::Call(c) if matches!(&*c.func, Expr::Name(n) if n.id.as_str() == "isinstance") => {
                let item = c.arguments.args.first()?.as_name_expr()?.id.as_str();
                self.loops.last()?.items.contains(&item).then_some(true)
            }
            _ => None,
        }
    }

    fn with(&mut self, stmt: &'a StmtWith) {
        let mut entered = Vec::new();
        for item in &stmt.items {
            let context = self.eval(&item.context_expr);
            let value = self.enter(&context);
            if let Some(target) = item.optional_vars.as_deref() {
                self.assign(target, value);
            }
            entered.push(context);
        }
        let before = self.fork();
        self.block(&stmt.body);
        // However the body ends, and even where it does not.
        let ended = self.state.alive;
        let mut swallows = false;
        if !ended {
            self.state = before.clone();
        }
        for context in entered.iter().rev() {
            let raised = Value::Nothing.join(&Value::Scalar);
            let left = self.special(context, "__exit__", vec![raised.clone(), raised.clone(), raised]);
            swallows |= left.is_some_and(|v| v.truth() != Some(false));
        }
        if swallows {
            // A true result swallows the exception: what follows runs after any part of the body.
            if self.stage == Stage::Forward {
                self.note(Fact::Try);
            }
            let after = std::mem::take(&mut self.state);
            self.state = if ended { after.join(before) } else { after };
        } else if !ended {
            self.state.alive = false;
        }
    }

    fn enter(&mut self, context: &Value<'a>) -> Value<'a> {
        if let Some(value) = self.special(context, "__enter__", Vec::new()) {
            return value;
        }
        let known = context.is_scalar() || matches!(context, Value::Path(_));
        if !known && self.stage == Stage::Forward {
            self.note(Fact::OpaqueCall { what: "a context manager".to_owned() });
        }
        Value::Unknown(context.all_tensors())
    }

    fn attempt(&mut self, stmt: &'a StmtTry) {
        if self.stage == Stage::Forward && self.may_swallow(stmt) {
            self.note(Fact::Try);
        }
        let before = self.fork();
        self.block(&stmt.body);
        self.block(&stmt.orelse);
        let mut after = std::mem::replace(&mut self.state, before.clone());
        for handler in &stmt.handlers {
            let ruff_python_ast::ExceptHandler::ExceptHandler(handler) = handler;
            self.state = before.clone();
            if let Some(kinds) = handler.type_.as_deref() {
                self.eval(kinds);
            }
            if let Some(name) = &handler.name {
                self.state.bind(name.id.as_str(), Value::Scalar);
            }
            self.block(&handler.body);
            let done = std::mem::take(&mut self.state);
            after = after.join(done);
        }
        self.state = after;
        let alive = self.state.alive;
        self.state.alive = true;
        self.block(&stmt.finalbody);
        self.state.alive &= alive;
    }

    fn import(&mut self, stmt: &'a StmtImport) {
        for alias in &stmt.names {
            let full = alias.name.id.as_str();
            match &alias.asname {
                Some(name) => self.state.bind(name.id.as_str(), Value::path(full)),
                None => {
                    let root = full.split('.').next().unwrap_or(full);
                    self.state.bind(root, Value::path(root));
                }
            }
        }
    }

    fn import_from(&mut self, stmt: &'a StmtImportFrom) {
        let module = stmt.module.as_ref().map_or("", |m| m.id.as_str());
        let dots = ".".repeat(stmt.level as usize);
        for alias in &stmt.names {
            let name = alias.name.id.as_str();
            if name == "*" {
                continue;
            }
            let bound = alias.asname.as_ref().unwrap_or(&alias.name).id.as_str();
            self.state.bind(bound, Value::Path(Rc::from(canonical(&format!("{dots}{module}.{name}")))));
        }
    }

    /// Code that never runs: it is tried out, and only a launch in it is worth a word. What else was seen is handed back.
    pub(super) fn dead(&mut self, body: &'a [Stmt], why: &'static str) -> Vec<Seen> {
        if self.stage != Stage::Forward {
            return Vec::new();
        }
        let line = self.line;
        let (seen, state) = (self.seen.len(), self.fork());
        let returns = self.returns.last().map_or(0, Vec::len);
        self.loops.push(Loop::default());
        self.block(body);
        self.loops.pop();
        if let Some(all) = self.returns.last_mut() {
            all.truncate(returns);
        }
        self.state = state;
        let tried: Vec<Seen> = self.seen.drain(seen..).collect();
        for fact in &tried {
            self.known.remove(fact);
        }
        self.line = body.first().map_or(line, |first| self.lines.of(first));
        if tried.iter().any(|s| matches!(s.fact, Fact::Launch { .. } | Fact::DeadLaunch { .. })) {
            self.note(Fact::DeadLaunch { why });
        }
        self.line = line;
        tried
    }
}

/// The test asks how much something holds.
fn asks_length(test: &Expr) -> bool {
    match test {
        Expr::Call(c) => c.func.as_name_expr().is_some_and(|n| n.id.as_str() == "len"),
        Expr::Compare(c) => asks_length(&c.left) || c.comparators.iter().any(asks_length),
        Expr::BoolOp(b) => b.values.iter().any(asks_length),
        _ => false,
    }
}

/// Nothing but `c.clear()`, `c.pop(..)` and the like.
fn only_drops(body: &[Stmt]) -> bool {
    body.iter().all(|stmt| match stmt {
        Stmt::Delete(_) | Stmt::Pass(_) => true,
        Stmt::Expr(e) => match &*e.value {
            Expr::Call(c) => {
                matches!(&*c.func, Expr::Attribute(a) if matches!(a.attr.id.as_str(), "clear" | "pop" | "popitem"))
            }
            _ => false,
        },
        _ => false,
    })
}
