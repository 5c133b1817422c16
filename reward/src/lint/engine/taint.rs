//! Numbers that come from an earlier call of forward, whatever is made of them, and where they may not go.

use std::rc::Rc;

use ruff_python_ast::Expr;

use super::call::Args;
use super::memory::address;
use super::trace::Stage;
use super::value::{ObjId, PART, Value};
use super::{Engine, Origin};

impl<'a> Engine<'a> {
    /// A number that an earlier call left is in this value, or decides its size.
    pub(super) fn is_state(&self, value: &Value<'a>) -> bool {
        self.state_within(value, false)
    }

    fn state_within(&self, value: &Value<'a>, inside: bool) -> bool {
        match value {
            Value::StateScalar => true,
            Value::Tensor(ids) => {
                let kept = ids.iter().any(|id| matches!(self.origins.get(*id as usize), Some(Origin::Kept)));
                kept && (inside || ids.contains(&PART)) || ids.iter().any(|id| self.memory.sized.contains(id))
            }
            Value::Union(values) => values.iter().any(|v| self.state_within(v, inside)),
            Value::List(values) => values.iter().any(|v| self.state_within(v, true)),
            Value::Bag(item) => self.state_within(item, true),
            Value::Attr(base, _) => self.state_within(base, false),
            Value::Partial(p) => {
                self.state_within(&p.callee, true)
                    || p.args.iter().chain(p.keywords.iter().map(|(_, v)| v)).any(|v| self.state_within(v, true))
            }
            Value::Func(func) if inside || func.closure.is_some() => {
                let closed = func.closure.as_ref().map(|c| c.values()).into_iter().flatten();
                let number = |v: &Value<'a>| v.each().iter().any(|one| matches!(one, Value::StateScalar));
                closed.into_iter().any(number)
            }
            _ => false,
        }
    }

    /// An object's fields hold such numbers.
    fn object_of_state(&mut self, value: &Value<'a>) -> bool {
        let objects: Vec<ObjId> = value
            .each()
            .iter()
            .filter_map(|v| match v {
                Value::Instance(object, _) => Some(*object),
                _ => None,
            })
            .collect();
        if objects.is_empty() {
            return false;
        }
        // All fields are looked through: that is paid for.
        self.budget = self.budget.saturating_sub(self.state.fields.len() as u32 / 4);
        let of_these = self.state.fields.iter().filter(|((of, _), _)| objects.contains(of));
        of_these.into_iter().any(|(_, v)| v.tensors().is_empty() && self.is_state(v))
    }

    /// Some of these numbers come from an earlier call.
    pub(super) fn any_state(&self, args: &Args<'a>) -> bool {
        let number = |v: &Value<'a>| v.tensors().is_empty() && self.is_state(v);
        args.all().iter().any(number)
    }

    /// The result of a library call: a number made from such numbers is one.
    pub(super) fn tainted(&self, state: bool, result: Value<'a>) -> Value<'a> {
        let numbers = matches!(result, Value::List(_) | Value::Bag(_)) && result.only_numbers();
        match result {
            result if state && result.is_scalar() => Value::StateScalar,
            _ if state && numbers => Value::Bag(Rc::new(Value::StateScalar)),
            result => result,
        }
    }

    /// Something is looked for among what earlier calls left: how far the search goes counts them.
    pub(super) fn searched(&mut self, value: &Value<'a>) {
        if self.memory.searching > 0 && !self.evicting && self.grows(value) {
            self.counts("a search among what earlier calls left");
        }
    }

    /// A test, in a loop that can end early, of what an earlier call left.
    pub(super) fn searched_by(&mut self, test: &Value<'a>) {
        if self.memory.searching > 0 && self.stage == Stage::Forward && test.tensors().is_empty() && self.is_state(test)
        {
            self.counts("a search among what earlier calls left");
        }
    }

    /// A tensor from an earlier call: its sizes are what that call made them.
    pub(super) fn is_kept(&self, value: &Value<'a>) -> bool {
        let kept =
            |id: &ObjId| matches!(self.origins.get(*id as usize), Some(Origin::Kept)) || self.memory.sized.contains(id);
        self.stage == Stage::Forward && value.tensors().iter().any(kept)
    }

    /// A new tensor's sizes come from such a number.
    pub(super) fn sized_by_state(&mut self, tensor: &Value<'a>) {
        if self.stage == Stage::Forward {
            self.memory.sized.extend(tensor.tensors().iter());
        }
    }

    /// A number from an earlier call in an index or in a slice's bounds.
    pub(super) fn state_in(&mut self, slice: &'a Expr, index: &Value<'a>) -> bool {
        if self.stage != Stage::Forward || self.mutable.is_empty() {
            return false;
        }
        let has_slice = match slice {
            Expr::Slice(_) => true,
            Expr::Tuple(t) => t.elts.iter().any(Expr::is_slice_expr),
            _ => false,
        };
        if !has_slice {
            return index.tensors().is_empty() && self.is_state(index);
        }
        let parts: Vec<&'a Expr> = match slice {
            Expr::Tuple(t) => t.elts.iter().collect(),
            other => vec![other],
        };
        let bounds = parts.into_iter().flat_map(|p| match p {
            Expr::Slice(s) => [s.lower.as_deref(), s.upper.as_deref(), s.step.as_deref()],
            other => [Some(other), None, None],
        });
        let bounds: Vec<&'a Expr> = bounds.flatten().collect();
        bounds.into_iter().any(|bound| {
            let value = self.quiet(bound);
            value.tensors().is_empty() && self.is_state(&value)
        })
    }

    /// Forward puts a value in a place that is there in the next call; true when that counts calls.
    pub(super) fn keeps(&mut self, place: &str, old: Option<&Value<'a>>, value: &Value<'a>) -> bool {
        if self.stage != Stage::Forward || old.is_some_and(|old| unchanged(old, value)) {
            return false;
        }
        self.is_state(value)
            || self.object_of_state(value)
            || self.holds_iterator(value)
            || self.turns_back(place, value)
    }

    /// A flag that is set and taken back, by what an earlier call left.
    fn turns_back(&mut self, place: &str, value: &Value<'a>) -> bool {
        if !matches!(value, Value::Nothing | Value::Bool(_) | Value::Int(_) | Value::Str(_)) {
            return false;
        }
        let under = self.memory.branches > 0;
        let known = self.memory.constants.entry(place.to_owned()).or_default();
        if known.len() < 4 && !known.iter().any(|v| v.same(value)) {
            known.push(value.clone());
        }
        known.len() > 1 && (under || known.iter().any(|v| matches!(v, Value::Nothing)))
    }
}

/// The same value put back.
fn unchanged(old: &Value<'_>, new: &Value<'_>) -> bool {
    match (address(old), address(new)) {
        (Some(a), Some(b)) => a == b,
        _ => old.same(new) && !matches!(new, Value::StateScalar),
    }
}
