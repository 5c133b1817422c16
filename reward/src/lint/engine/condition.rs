//! Tests of branches: what they decide, whether they single out tensors without elements, what they say about None.

use std::rc::Rc;

use ruff_python_ast::{BoolOp, CmpOp, Expr, ExprCall, ExprGenerator, ExprListComp, UnaryOp};

use super::Engine;
use super::sizes::{SizeOf, sizes};
use super::trace::{Fact, Stage};
use super::value::Value;

/// Which tensors a test singles out by their having no elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Emptiness {
    #[default]
    No,
    /// Parameters may be among them, and those the candidate makes: only what is empty anyway is free then.
    Parameter,
    Inputs,
}

impl Emptiness {
    fn of(sizes: SizeOf) -> Self {
        if sizes == SizeOf::Parameter { Emptiness::Parameter } else { Emptiness::Inputs }
    }
}

/// True only for tensors without elements, and false only for them.
type Sides = (Emptiness, Emptiness);
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

    fn emptiness(&mut self, test: &'a Expr) -> Sides {
        match test {
            Expr::UnaryOp(u) if u.op == UnaryOp::Not => {
                let (empty, filled) = self.emptiness(&u.operand);
                (filled, empty)
            }
            Expr::BoolOp(b) => {
                let parts: Vec<Sides> = b.values.iter().map(|v| self.emptiness(v)).collect();
                let all = |side: fn(&Sides) -> Emptiness| parts.iter().map(side).min().unwrap_or_default();
                match b.op {
                    BoolOp::Or => (all(|p| p.0), Emptiness::No),
                    BoolOp::And => (parts.iter().map(|p| p.0).max().unwrap_or_default(), all(|p| p.1)),
                }
            }
            Expr::Compare(c) if c.ops.len() == 1 => {
                let (left, right) = (self.quiet(&c.left), self.quiet(&c.comparators[0]));
                compared(&left, c.ops[0], &right)
            }
            Expr::Call(c) => match self.of_each(c) {
                Some(found) => found,
                None => self.filled(test),
            },
            Expr::Name(_) | Expr::Attribute(_) | Expr::Subscript(_) => self.filled(test),
            _ => NEITHER,
        }
    }

    /// A size as a test.
    fn filled(&mut self, test: &'a Expr) -> Sides {
        match self.quiet(test) {
            Value::Size(of) => (Emptiness::No, Emptiness::of(of)),
            _ => NEITHER,
        }
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
                let one = self.emptiness(elt);
                self.state = state;
                one
            }
            _ => (Emptiness::No, sizes(&self.quiet(over)).map_or(Emptiness::No, Emptiness::of)),
        };
        Some(if any { (one.0, Emptiness::No) } else { (Emptiness::No, one.1) })
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

/// What a comparison with 0 or 1 says of sizes.
fn compared(left: &Value<'_>, op: CmpOp, right: &Value<'_>) -> Sides {
    let (size, number, op) = match (left, right, op) {
        // Of a dict, the keys are asked for.
        (Value::Int(0), Value::Shape(_) | Value::List(_), CmpOp::In | CmpOp::NotIn) => match sizes(right) {
            Some(of) => (of, 0, if op == CmpOp::In { CmpOp::Eq } else { CmpOp::NotEq }),
            None => return NEITHER,
        },
        (Value::Size(of), Value::Int(number), op) => (*of, *number, op),
        (Value::Int(number), Value::Size(of), op) => {
            let turned = match op {
                CmpOp::Lt => CmpOp::Gt,
                CmpOp::LtE => CmpOp::GtE,
                CmpOp::Gt => CmpOp::Lt,
                CmpOp::GtE => CmpOp::LtE,
                other => other,
            };
            (*of, *number, turned)
        }
        _ => return NEITHER,
    };
    match (op, number) {
        (CmpOp::Eq | CmpOp::LtE, 0) | (CmpOp::Lt, 1) => (Emptiness::of(size), Emptiness::No),
        (CmpOp::Gt | CmpOp::NotEq, 0) | (CmpOp::GtE, 1) => (Emptiness::No, Emptiness::of(size)),
        _ => NEITHER,
    }
}
