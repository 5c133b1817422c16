//! Loops: run twice to see what they leave behind, and what follows where they did not run at all.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use ruff_python_ast::{Expr, Stmt, StmtFor, StmtWhile};

use super::state::State;
use super::trace::{Fact, Seen};
use super::value::Value;
use super::{Engine, Loop};

impl<'a> Engine<'a> {
    pub(super) fn while_loop(&mut self, w: &'a StmtWhile) {
        let test = self.condition(&w.test);
        if test.truth == Some(false) {
            self.dead(&w.body, "a loop that never runs");
            return self.block(&w.orelse);
        }
        self.repeat(&w.body, test.truth == Some(true), |_| {});
        if self.state.alive {
            self.condition(&w.test);
            self.block(&w.orelse);
        }
    }

    pub(super) fn for_loop(&mut self, stmt: &'a StmtFor) {
        let items = self.eval(&stmt.iter);
        let nothing = matches!(&items, Value::List(items) if items.is_empty());
        if nothing || self.is_empty_range(&stmt.iter) {
            let tried = self.dead(&stmt.body, "a loop over nothing");
            if nothing && !self.is_tuple(&items) {
                // Something that was not seen may fill it. What is done to its items nobody knows.
                let known =
                    |seen: &&Seen| matches!(seen.fact, Fact::Compute { data: true, .. } | Fact::Reference { .. });
                tried.iter().filter(known).for_each(|seen| self.note_again(seen));
            }
            return self.block(&stmt.orelse);
        }
        self.walked(&items);
        let item = self.element(&items);
        let names: Vec<&'a str> = match &*stmt.target {
            Expr::Name(n) => vec![n.id.as_str()],
            Expr::Tuple(t) => t.elts.iter().filter_map(|e| Some(e.as_name_expr()?.id.as_str())).collect(),
            _ => Vec::new(),
        };
        let searches = u32::from(has_break(&stmt.body));
        self.memory.searching += searches;
        let certain = self.runs_surely(&stmt.iter);
        self.repeat(&stmt.body, certain, |engine| {
            if let Some(innermost) = engine.loops.last_mut() {
                innermost.items.clone_from(&names);
            }
            engine.assign(&stmt.target, item.clone());
        });
        self.memory.searching = self.memory.searching.saturating_sub(searches);
        if self.state.alive {
            self.block(&stmt.orelse);
        }
    }

    /// Runs a loop's body twice: once for what it does, once more with what it left behind. What follows sees the end of
    /// the body, or a break: to have kernels write, a loop is taken to run at least once. Everything else that follows may
    /// also find the loop passed by, unless it surely runs.
    fn repeat(&mut self, body: &'a [Stmt], certain: bool, mut prepare: impl FnMut(&mut Self)) {
        self.turns += 1;
        let before = self.fork();
        let (first, mut breaks) = self.turn(body, &mut prepare);
        let mut end = first.clone();
        if first.alive {
            let objects = Rc::clone(&first.objects);
            self.state = before.clone().join(first);
            self.state.objects = objects;
            let (second, more) = self.turn(body, &mut prepare);
            end = second;
            breaks.extend(more);
        }
        for state in breaks {
            end = end.join(state);
        }
        self.turns = self.turns.saturating_sub(1);
        self.state = end;
        match (self.state.alive, certain) {
            (true, false) => self.perhaps_unturned(&before),
            (false, false) => self.state = State { passed: true, ..before },
            _ => {}
        }
    }

    /// `range(3)`, `(256, 128)`: there is something to go through.
    fn runs_surely(&mut self, iter: &'a Expr) -> bool {
        match iter {
            Expr::Tuple(t) => !t.elts.is_empty() && !t.elts.iter().any(Expr::is_starred_expr),
            Expr::List(l) => !l.elts.is_empty() && !l.elts.iter().any(Expr::is_starred_expr),
            Expr::Call(c) if self.is_builtin(&c.func, "range") => {
                let bounds: Vec<Value<'a>> = c.arguments.args.iter().map(|a| self.quiet(a)).collect();
                matches!(bounds.as_slice(), [Value::Int(end)] if *end > 0)
                    || matches!(bounds.as_slice(), [Value::Int(start), Value::Int(end)] if start < end)
            }
            _ => false,
        }
    }

    /// Python's own function, not one of the candidate by its name.
    pub(super) fn is_builtin(&mut self, callee: &'a Expr, name: &str) -> bool {
        callee.as_name_expr().is_some_and(|n| n.id.as_str() == name)
            && matches!(self.quiet(callee), Value::Path(path) if path.strip_prefix("builtins.") == Some(name))
    }

    /// Runs something that Python may not run here, or not yet: that it raises says nothing of what follows, and what it binds
    /// may not be bound.
    pub(super) fn perhaps<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.fork();
        let made = run(self);
        if self.state.alive {
            self.perhaps_unturned(&before);
        } else {
            self.state = before;
        }
        made
    }

    /// After a loop that may have been passed by: what it bound anew may still be what it was before.
    pub(super) fn perhaps_unturned(&mut self, before: &State<'a>) {
        let bound = self.state.frames.iter().map(|f| f.len()).sum::<usize>() + self.state.fields.len();
        self.budget = self.budget.saturating_sub(bound as u32 / 8);
        for (now, old) in self.state.frames.iter_mut().zip(&before.frames).filter(|(a, b)| !Rc::ptr_eq(a, b)) {
            loosen(Rc::make_mut(now), old);
        }
        if !Rc::ptr_eq(&self.state.fields, &before.fields) {
            loosen(Rc::make_mut(&mut self.state.fields), &before.fields);
        }
    }

    /// One turn of a loop: the state at the body's end (continues included), and those at its breaks.
    fn turn(&mut self, body: &'a [Stmt], prepare: &mut impl FnMut(&mut Self)) -> (State<'a>, Vec<State<'a>>) {
        self.loops.push(Loop::default());
        prepare(self);
        self.block(body);
        let ended = self.loops.pop().unwrap_or_default();
        let mut after = std::mem::take(&mut self.state);
        for state in ended.continues {
            after = after.join(state);
        }
        (after, ended.breaks)
    }
}

fn loosen<'a, K: Eq + Hash>(now: &mut HashMap<K, Value<'a>>, before: &HashMap<K, Value<'a>>) {
    for (name, value) in now.iter_mut() {
        if let Some(old) = before.get(name).filter(|old| !old.same(value)) {
            *value = perhaps_still(value, old);
        }
    }
}

/// What a loop made of something, or what that was before. Of two tensors the new one alone counts, as it does for what kernels
/// write.
pub(super) fn perhaps_still<'a>(now: &Value<'a>, old: &Value<'a>) -> Value<'a> {
    let tensor = may_be_tensor(now);
    let old = old.each().iter().filter(|v| !tensor || matches!(v, Value::Nothing) || is_code(v));
    old.fold(now.clone(), |all, v| all.join(v))
}

/// A tensor, or a collection of some.
fn may_be_tensor(value: &Value<'_>) -> bool {
    let one = |v: &Value<'_>| matches!(v, Value::Tensor(_) | Value::Unknown(_) | Value::List(_) | Value::Bag(_));
    value.each().iter().any(|v| one(v) && !v.all_tensors().is_empty())
}

/// It can be called.
fn is_code(value: &Value<'_>) -> bool {
    matches!(
        value,
        Value::Func(_)
            | Value::Bound(..)
            | Value::Partial(_)
            | Value::Attr(..)
            | Value::Path(_)
            | Value::Class(_)
            | Value::Instance(..)
            | Value::NnModule(_)
            | Value::Kernels(_)
            | Value::Launcher(_)
    )
}

/// A loop that can end before its time, by a break or a return in it.
fn has_break(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Break(_) | Stmt::Return(_) => true,
        Stmt::If(i) => has_break(&i.body) || i.elif_else_clauses.iter().any(|c| has_break(&c.body)),
        Stmt::With(w) => has_break(&w.body),
        Stmt::For(f) => has_break(&f.body),
        Stmt::While(w) => has_break(&w.body),
        Stmt::Try(t) => has_break(&t.body) || has_break(&t.orelse),
        Stmt::Match(m) => m.cases.iter().any(|c| has_break(&c.body)),
        _ => false,
    })
}
