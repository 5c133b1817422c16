//! Tests of branches: what they decide, whether they single out tensors without elements, what they say about None.

use std::rc::Rc;

use ruff_python_ast::{BoolOp, CmpOp, Expr, UnaryOp};

use super::Engine;
use super::trace::{Fact, Stage};
use super::value::Value;

/// What a test decides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Condition {
    pub truth: Option<bool>,
    /// True only for tensors without elements.
    pub empty: bool,
    /// False only for tensors without elements.
    pub filled_otherwise: bool,
    /// A number that an earlier call left decides it.
    pub state: bool,
}

impl<'a> Engine<'a> {
    /// Evaluates a test.
    pub(super) fn condition(&mut self, test: &'a Expr) -> Condition {
        let value = self.eval(test);
        let state = self.stage == Stage::Forward && matches!(value, Value::StateScalar);
        if state {
            self.note(Fact::StateBranch);
            self.searched_by(&value);
        }
        let mut condition = Condition { truth: value.truth(), state, ..Condition::default() };
        let (empty, filled) = self.emptiness(test);
        condition.empty = empty;
        condition.filled_otherwise = filled;
        condition
    }

    /// (true only for empty tensors, false only for empty tensors)
    fn emptiness(&mut self, test: &'a Expr) -> (bool, bool) {
        match test {
            Expr::UnaryOp(u) if u.op == UnaryOp::Not => {
                let (empty, filled) = self.emptiness(&u.operand);
                (filled, empty)
            }
            Expr::BoolOp(b) => {
                let parts: Vec<(bool, bool)> = b.values.iter().map(|v| self.emptiness(v)).collect();
                match b.op {
                    BoolOp::Or => (parts.iter().all(|p| p.0), false),
                    BoolOp::And => (parts.iter().any(|p| p.0), parts.iter().all(|p| p.1)),
                }
            }
            Expr::Compare(c) if c.ops.len() == 1 => {
                let (left, right) = (self.quiet(&c.left), self.quiet(&c.comparators[0]));
                match (&left, &c.ops[0], &right) {
                    (Value::Size, CmpOp::Eq, Value::Int(0)) | (Value::Int(0), CmpOp::Eq, Value::Size) => (true, false),
                    (Value::Size, CmpOp::LtE, Value::Int(0)) | (Value::Size, CmpOp::Lt, Value::Int(1)) => (true, false),
                    (Value::Size, CmpOp::Gt | CmpOp::NotEq, Value::Int(0)) => (false, true),
                    (Value::Int(0), CmpOp::Lt | CmpOp::NotEq, Value::Size) => (false, true),
                    _ => (false, false),
                }
            }
            Expr::Call(_) | Expr::Name(_) | Expr::Attribute(_) | Expr::Subscript(_) => {
                (false, matches!(self.quiet(test), Value::Size))
            }
            _ => (false, false),
        }
    }

    /// Evaluates again without writing facts.
    pub(super) fn quiet(&mut self, expr: &'a Expr) -> Value<'a> {
        let (count, state) = (self.seen.len(), self.fork());
        let value = self.eval(expr);
        for seen in self.seen.drain(count..) {
            self.known.remove(&seen);
        }
        self.state = state;
        value
    }

    /// What `x is None` and the like say about a name on one side of a branch.
    pub(super) fn narrow(&mut self, test: &'a Expr, holds: bool) {
        match test {
            Expr::UnaryOp(u) if u.op == UnaryOp::Not => self.narrow(&u.operand, !holds),
            Expr::BoolOp(b) if (b.op == BoolOp::And) == holds => {
                b.values.iter().for_each(|v| self.narrow(v, holds));
            }
            Expr::Compare(c) if c.ops.len() == 1 && c.comparators[0].is_none_literal_expr() => {
                let none = match c.ops[0] {
                    CmpOp::Is | CmpOp::Eq => holds,
                    CmpOp::IsNot | CmpOp::NotEq => !holds,
                    _ => return,
                };
                self.refine(&c.left, none);
            }
            Expr::Name(_) | Expr::Attribute(_) if holds => self.refine(test, false),
            _ => {}
        }
    }

    fn refine(&mut self, place: &'a Expr, none: bool) {
        let value = self.quiet(place);
        let Value::Union(values) = &value else {
            return;
        };
        let keep: Vec<Value<'a>> = values.iter().filter(|v| matches!(v, Value::Nothing) == none).cloned().collect();
        let Some((first, rest)) = keep.split_first() else {
            return;
        };
        let refined = rest.iter().fold(first.clone(), |all, v| all.join(v));
        match place {
            Expr::Name(n) if self.state.frames.last().is_some_and(|f| f.contains_key(n.id.as_str())) => {
                self.state.bind(n.id.as_str(), refined);
            }
            Expr::Attribute(a) => {
                if let Value::Instance(object, _) = self.quiet(&a.value) {
                    self.state.set_field(object, Rc::from(a.attr.id.as_str()), refined);
                }
            }
            _ => {}
        }
    }

    /// `range(0)`, `range(5, 5)`.
    pub(super) fn is_empty_range(&mut self, iter: &'a Expr) -> bool {
        let Expr::Call(call) = iter else {
            return false;
        };
        if !matches!(&*call.func, Expr::Name(n) if n.id.as_str() == "range") {
            return false;
        }
        let bounds: Vec<Value<'a>> = call.arguments.args.iter().map(|a| self.quiet(a)).collect();
        match bounds.as_slice() {
            [Value::Int(end)] => *end <= 0,
            [Value::Int(start), Value::Int(end)] => end <= start,
            _ => false,
        }
    }
}
