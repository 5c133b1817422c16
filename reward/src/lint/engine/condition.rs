//! Tests of branches: what they decide, whether they single out tensors without elements, what they say about None.

use std::rc::Rc;

use ruff_python_ast::{BoolOp, CmpOp, Expr, ExprCall, ExprCompare, ExprGenerator, ExprListComp, UnaryOp};

use super::Engine;
use super::fold::decide;
use super::sizes::{SizeOf, sizes};
use super::state::State;
use super::trace::{Fact, How, Stage};
use super::value::{ObjId, Value};

/// Which tensors a test singles out by their having no elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Emptiness {
    #[default]
    No,
    /// This new buffer alone: nothing is missing where it is returned as it is.
    Own(ObjId),
    /// Parameters may be among them, and those the candidate makes: only what is empty anyway is free then.
    Parameter,
    Inputs,
}

impl Emptiness {
    fn of(sizes: SizeOf) -> Self {
        if sizes == SizeOf::Parameter { Emptiness::Parameter } else { Emptiness::Inputs }
    }

    /// Of one or the other, whichever it was.
    fn either(self, other: Self) -> Self {
        match (self, other) {
            (Emptiness::Own(a), Emptiness::Own(b)) if a != b => Emptiness::No,
            (a, b) => a.min(b),
        }
    }
}

/// True only for tensors without elements, and false only for them.
pub(super) type Sides = (Emptiness, Emptiness);
const NEITHER: Sides = (Emptiness::No, Emptiness::No);

/// What a test decides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Condition {
    pub truth: Option<bool>,
    /// True only for tensors without elements.
    pub empty: Emptiness,
    /// False only for tensors without elements.
    pub filled_otherwise: Emptiness,
    /// A number that an earlier call left decides it.
    pub state: bool,
}

impl<'a> Engine<'a> {
    /// Evaluates a test.
    pub(super) fn condition(&mut self, test: &'a Expr) -> Condition {
        let (value, (empty, filled)) = self.test(test);
        self.decides(&value);
        let state = self.stage == Stage::Forward && matches!(value, Value::StateScalar);
        if state {
            self.note(Fact::StateBranch);
            self.searched_by(&value);
        }
        match value.truth() {
            // What is always so singles nothing out.
            Some(truth) => Condition { truth: Some(truth), state, ..Condition::default() },
            None => Condition { truth: None, empty, filled_otherwise: filled, state },
        }
    }

    /// The value of a test, and which tensors it singles out: by what its parts are when they are evaluated, not by what their
    /// names mean afterwards.
    pub(super) fn test(&mut self, test: &'a Expr) -> (Value<'a>, Sides) {
        if !self.step() {
            return (Value::unknown(), NEITHER);
        }
        match test {
            Expr::UnaryOp(u) if u.op == UnaryOp::Not => {
                let (value, (empty, filled)) = self.test(&u.operand);
                (self.unary(UnaryOp::Not, &value), (filled, empty))
            }
            Expr::BoolOp(b) => self.logic(b.op, &b.values),
            Expr::Compare(c) => self.compare(c),
            Expr::Call(c) => {
                let value = self.eval(test);
                let sides = self.of_each(c).unwrap_or_else(|| filled(&value));
                (value, sides)
            }
            Expr::Name(_) | Expr::Attribute(_) | Expr::Subscript(_) | Expr::Named(_) => {
                let value = self.eval(test);
                let sides = filled(&value);
                (value, sides)
            }
            _ => (self.eval(test), NEITHER),
        }
    }

    /// A comparison, and which tensors it singles out by the values that were compared.
    pub(super) fn compare(&mut self, c: &'a ExprCompare) -> (Value<'a>, Sides) {
        let mut left = self.eval(&c.left);
        let mut sides = NEITHER;
        let mut result: Option<bool> = Some(true);
        let mut kept = false;
        for (at, (op, right)) in c.ops.iter().zip(&*c.comparators).enumerate() {
            // What comes after the first comparison may not be asked.
            let right = if at == 0 { self.eval(right) } else { self.perhaps(|engine| engine.eval(right)) };
            self.address_compared(&left, *op, &right);
            let identity = matches!(op, CmpOp::Is | CmpOp::IsNot | CmpOp::In | CmpOp::NotIn);
            if !identity && (!left.tensors().is_empty() || !right.tensors().is_empty()) {
                return (self.compute(How::Operator(op.as_str()), &[left, right]), NEITHER);
            }
            kept |= [&left, &right].into_iter().any(|v| v.tensors().is_empty() && self.is_state(v));
            if identity {
                self.searched(&right);
                self.searched_by(&left);
            } else {
                self.measured(&left);
                self.measured(&right);
            }
            result = match (result, decide(*op, &left, &right)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
            if c.ops.len() == 1 {
                sides = compared(&left, *op, &right);
            }
            left = right;
        }
        let value = match result {
            Some(truth) => Value::Bool(truth),
            None if kept => Value::StateScalar,
            None => Value::Scalar,
        };
        (value, sides)
    }

    /// `a and b`, `a or b`
    pub(super) fn logic(&mut self, op: BoolOp, values: &'a [Expr]) -> (Value<'a>, Sides) {
        let Some((first, rest)) = values.split_first() else {
            return (Value::unknown(), NEITHER);
        };
        let (mut result, mut sides) = self.test(first);
        let mut done: Option<State<'a>> = None;
        for value in rest {
            let decided = result.truth();
            let stops = matches!((op, decided), (BoolOp::And, Some(false)) | (BoolOp::Or, Some(true)));
            if stops {
                break;
            }
            if decided.is_none() {
                let here = self.fork();
                done = Some(match done.take() {
                    Some(other) => other.join(here),
                    None => here,
                });
            }
            let (next, more) = self.test(value);
            sides = match op {
                BoolOp::Or => (sides.0.either(more.0), Emptiness::No),
                BoolOp::And => (sides.0.max(more.0), sides.1.either(more.1)),
            };
            result = if decided.is_some() { next } else { result.join(&next) };
        }
        if let Some(short) = done {
            let long = std::mem::take(&mut self.state);
            self.state = long.join(short);
        }
        (result, sides)
    }

    /// `any(s == 0 for s in x.shape)`, `all(s > 0 for s in x.shape)`, `all(x.shape)`
    fn of_each(&mut self, call: &'a ExprCall) -> Option<Sides> {
        let [over] = &*call.arguments.args else {
            return None;
        };
        let Value::Path(name) = self.quiet(&call.func) else {
            return None;
        };
        let any = match &*name {
            "builtins.any" => true,
            "builtins.all" => false,
            _ => return None,
        };
        let one = match over {
            Expr::Generator(ExprGenerator { elt, generators, .. })
            | Expr::ListComp(ExprListComp { elt, generators, .. }) => {
                let [generator] = generators.as_slice() else {
                    return None;
                };
                if !generator.ifs.is_empty() || !generator.target.is_name_expr() {
                    return None;
                }
                let items = self.quiet(&generator.iter);
                sizes(&items)?;
                let state = self.fork();
                let item = self.element(&items);
                self.assign(&generator.target, item);
                let one = self.quietly(|engine| engine.test(elt).1);
                self.state = state;
                one
            }
            _ => (Emptiness::No, sizes(&self.quiet(over)).map_or(Emptiness::No, Emptiness::of)),
        };
        Some(if any { (one.0, Emptiness::No) } else { (Emptiness::No, one.1) })
    }

    /// Evaluates again without writing facts.
    pub(super) fn quiet(&mut self, expr: &'a Expr) -> Value<'a> {
        self.quietly(|engine| engine.eval(expr))
    }

    fn quietly<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let (count, state) = (self.seen.len(), self.fork());
        let value = run(self);
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
        if !self.is_builtin(&call.func, "range") {
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

/// A size as a test.
fn filled(value: &Value<'_>) -> Sides {
    match value {
        Value::Size(of) => (Emptiness::No, Emptiness::of(*of)),
        Value::Numel(id) => (Emptiness::No, Emptiness::Own(*id)),
        _ => NEITHER,
    }
}

/// What a comparison with 0 or 1 says of sizes.
fn compared(left: &Value<'_>, op: CmpOp, right: &Value<'_>) -> Sides {
    let whose = |value: &Value<'_>| match value {
        Value::Size(of) => Some(Emptiness::of(*of)),
        Value::Numel(id) => Some(Emptiness::Own(*id)),
        _ => None,
    };
    let (empty, number, op) = match (left, right, op) {
        // Of a dict, the keys are asked for.
        (Value::Int(0), Value::Shape(_) | Value::List(_), CmpOp::In | CmpOp::NotIn) => match sizes(right) {
            Some(of) => (Some(Emptiness::of(of)), 0, if op == CmpOp::In { CmpOp::Eq } else { CmpOp::NotEq }),
            None => return NEITHER,
        },
        (size, Value::Int(number), op) => (whose(size), *number, op),
        (Value::Int(number), size, op) => {
            let turned = match op {
                CmpOp::Lt => CmpOp::Gt,
                CmpOp::LtE => CmpOp::GtE,
                CmpOp::Gt => CmpOp::Lt,
                CmpOp::GtE => CmpOp::LtE,
                other => other,
            };
            (whose(size), *number, turned)
        }
        _ => return NEITHER,
    };
    let Some(empty) = empty else {
        return NEITHER;
    };
    match (op, number) {
        (CmpOp::Eq | CmpOp::LtE, 0) | (CmpOp::Lt, 1) => (empty, Emptiness::No),
        (CmpOp::Gt | CmpOp::NotEq, 0) | (CmpOp::GtE, 1) => (Emptiness::No, empty),
        _ => NEITHER,
    }
}
