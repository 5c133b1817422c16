//! Sizes of tensors, as far as tests for tensors without elements go: whose they are, and what keeps them sizes.

use std::rc::Rc;

use super::call::Args;
use super::condition::Emptiness;
use super::state::Written;
use super::value::{COPY, ObjId, PART, Value};
use super::{Engine, Origin};

/// Whose size it is. Whatever it is of, it is never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeOf {
    /// Of inputs: 0 only where one of them has no elements.
    Inputs,
    /// The same; it divides the number of elements of this input, such as one of its dimensions.
    Part(ObjId),
    /// All elements of this input; of a shape, all its dimensions.
    Whole(ObjId),
    /// Parameters are among what it is of, and those the candidate may have made without elements.
    Parameter,
}

impl SizeOf {
    /// Of one or the other.
    pub fn join(self, other: SizeOf) -> SizeOf {
        match (self, other) {
            (a, b) if a == b => a,
            (SizeOf::Parameter, _) | (_, SizeOf::Parameter) => SizeOf::Parameter,
            _ => SizeOf::Inputs,
        }
    }

    /// Of both.
    pub(super) fn with(self, other: SizeOf) -> SizeOf {
        self.plain().join(other.plain())
    }

    /// Whose it is, without how it relates to that.
    pub(super) fn plain(self) -> SizeOf {
        match self {
            SizeOf::Parameter => SizeOf::Parameter,
            _ => SizeOf::Inputs,
        }
    }

    /// Of a shape: what one of its dimensions is, or some of them together.
    pub(super) fn part(self) -> SizeOf {
        match self {
            SizeOf::Whole(id) => SizeOf::Part(id),
            other => other,
        }
    }
}

/// Whose sizes these are, one or several; `None` where one of them may be anything.
pub(super) fn sizes(value: &Value<'_>) -> Option<SizeOf> {
    match value {
        Value::Size(of) => Some(*of),
        Value::Shape(of) => Some(of.part()),
        Value::Int(i) if *i > 0 => Some(SizeOf::Inputs),
        Value::List(items) => {
            let mut all = items.iter().map(sizes);
            let first = all.next().unwrap_or(Some(SizeOf::Inputs))?;
            all.try_fold(first, |of, next| Some(of.join(next?)))
        }
        Value::Bag(item) => sizes(item),
        _ => None,
    }
}

/// `math.prod(x.shape)`
pub(super) fn product<'a>(args: &Args<'a>) -> Option<Value<'a>> {
    let (true, None, [factors]) = (args.keywords.is_empty(), &args.rest, args.positional.as_slice()) else {
        return None;
    };
    match factors {
        Value::Shape(of) => Some(Value::Size(*of)),
        Value::List(_) | Value::Bag(_) => Some(Value::Size(sizes(factors)?.plain())),
        _ => None,
    }
}

/// `triton.cdiv(n, 256)`: 0 only where n is.
pub(super) fn blocks<'a>(name: &str, args: &Args<'a>) -> Option<Value<'a>> {
    let whole = |size: &Value<'a>| match size {
        Value::Size(of) => Some(Value::Size(of.plain())),
        Value::Numel(_) => Some(size.clone()),
        _ => None,
    };
    match (name, args.positional.as_slice()) {
        ("cdiv", [size, Value::Size(_)]) => whole(size),
        ("cdiv", [size, Value::Int(by)]) if *by > 0 => whole(size),
        ("next_power_of_2", [size]) => whole(size),
        _ => None,
    }
}

/// `min(x.shape)`, `max(M, N)`
pub(super) fn extreme<'a>(args: &Args<'a>) -> Option<Value<'a>> {
    if !args.keywords.is_empty() || args.rest.is_some() {
        return None;
    }
    match args.positional.as_slice() {
        [items @ (Value::Shape(_) | Value::List(_) | Value::Bag(_))] => sizes(items).map(Value::Size),
        [_] => None,
        several => sizes(&Value::List(Rc::new(several.to_vec()))).map(Value::Size),
    }
}

/// Sizes that are made of sizes by an operator.
pub(super) fn operate<'a>(op: ruff_python_ast::Operator, a: &Value<'a>, b: &Value<'a>) -> Option<Value<'a>> {
    use ruff_python_ast::Operator::{Add, FloorDiv, Mult};
    match (a, b, op) {
        (Value::Size(x), Value::Size(y), Mult) => Some(Value::Size(x.with(*y))),
        (Value::Size(x), Value::Int(i), Mult) | (Value::Int(i), Value::Size(x), Mult) if *i > 0 => {
            Some(Value::Size(x.plain()))
        }
        // Rows by division. Any other quotient of two sizes may be 0.
        (Value::Size(SizeOf::Whole(x)), Value::Size(SizeOf::Part(y)), FloorDiv) if x == y => {
            Some(Value::Size(SizeOf::Part(*x)))
        }
        (Value::Shape(_), more, Add) | (more, Value::Shape(_), Add)
            if matches!(more, Value::Shape(_) | Value::List(_) | Value::Bag(_)) =>
        {
            // A zero that is hung on a shape is no size of a tensor.
            Some(Value::Shape(sizes(a)?.with(sizes(b)?)))
        }
        (Value::Shape(x), Value::Int(_), Mult) | (Value::Int(_), Value::Shape(x), Mult) => {
            Some(Value::Shape(x.plain()))
        }
        _ => None,
    }
}

/// Some of it is a size.
fn holds_sizes(value: &Value<'_>) -> bool {
    match value {
        Value::Size(_) | Value::Shape(_) => true,
        Value::List(values) | Value::Union(values) => values.iter().any(holds_sizes),
        Value::Bag(value) => holds_sizes(value),
        _ => false,
    }
}

/// What a dict holds. Who goes through a dict gets its keys, and those are no sizes whatever it holds.
pub(super) fn entry<'a>(value: Value<'a>) -> Value<'a> {
    match &value {
        plain if !holds_sizes(plain) => value,
        Value::Size(_) => Value::Scalar,
        Value::Shape(_) => Value::Bag(Rc::new(Value::Scalar)),
        Value::List(values) => Value::List(Rc::new(values.iter().cloned().map(entry).collect())),
        Value::Union(values) => Value::Union(Rc::new(values.iter().cloned().map(entry).collect())),
        Value::Bag(one) => Value::Bag(Rc::new(entry((**one).clone()))),
        _ => value,
    }
}

impl<'a> Engine<'a> {
    /// A way is entered that is taken only for tensors without elements, as far as that is known.
    pub(super) fn enter_way(&mut self, empty: Emptiness) {
        match empty {
            Emptiness::No => {}
            Emptiness::Inputs => self.state.empty = true,
            Emptiness::Own(id) if self.state.written(id) == Written::No && !self.touched.contains(&id) => {
                self.state.set_written(id, Written::Spared);
            }
            Emptiness::Own(_) => {}
            Emptiness::Parameter if self.state.hollow => {}
            Emptiness::Parameter => {
                self.state.hollow = true;
                let alloc = |id: &ObjId| matches!(self.origins.get(*id as usize), Some(Origin::Alloc));
                let all = self.state.objects.iter();
                let spared: Vec<ObjId> =
                    all.filter(|(id, how)| **how == Written::No && alloc(id)).map(|(id, _)| *id).collect();
                for id in spared {
                    self.state.set_written(id, Written::Spared);
                }
            }
        }
    }

    /// Whose sizes the sizes of this tensor are; `None` where they may be 0 for any reason.
    pub(super) fn sized(&self, value: &Value<'a>) -> Option<SizeOf> {
        let ids = value.tensors();
        let mut of: Option<SizeOf> = None;
        for id in ids.iter().filter(|id| **id != COPY) {
            let one = match self.origins.get(*id as usize) {
                _ if *id == PART => return None,
                Some(Origin::Input) if self.inputs.contains(id) => SizeOf::Whole(*id),
                Some(Origin::Input) => SizeOf::Inputs,
                Some(Origin::Parameter) => SizeOf::Parameter,
                _ => *self.like_input.get(id)?,
            };
            of = Some(of.map_or(one, |of| of.join(one)));
        }
        of
    }

    /// `y.numel()` of a new buffer, whatever its sizes are.
    pub(super) fn numel_of(&self, value: &Value<'a>) -> Value<'a> {
        match &*value.tensors() {
            [id] if matches!(self.origins.get(*id as usize), Some(Origin::Alloc)) => Value::Numel(*id),
            _ => Value::Scalar,
        }
    }

    /// What torch works on may get other sizes by that.
    pub(super) fn touches(&mut self, operands: &[Value<'a>]) {
        for id in operands.iter().flat_map(|v| v.all_tensors().to_vec()) {
            if matches!(self.origins.get(id as usize), Some(Origin::Alloc)) && self.touched.insert(id) {
                let spared = !self.state.hollow && self.state.written(id) == Written::Spared;
                if spared {
                    self.state.set_written(id, Written::No);
                }
            }
        }
    }

    /// A new tensor has these sizes.
    pub(super) fn sized_as(&mut self, tensor: &Value<'a>, of: Option<SizeOf>) {
        if let Some(of) = of {
            self.like_input.extend(tensor.tensors().iter().map(|id| (*id, of.plain())));
        }
    }

    /// The sizes that `torch.empty(..)` and the like are called with.
    pub(super) fn sizes_asked(&self, name: &str, args: &Args<'a>) -> Option<SizeOf> {
        let size = args.keywords.iter().find(|(name, _)| *name == Some("size")).map(|(_, value)| value);
        let given: Vec<Value<'a>> = match name {
            "empty" | "ones" | "zeros" | "new_empty" | "new_ones" | "new_zeros" => {
                args.positional.iter().chain(size).chain(&args.rest).cloned().collect()
            }
            "full" | "new_full" => args.positional.first().or(size).into_iter().cloned().collect(),
            _ => return None,
        };
        if given.is_empty() { None } else { sizes(&Value::List(Rc::new(given))) }
    }
}

/// `x.view(dtype)`: as other numbers, and so perhaps of others.
pub(super) fn by_dtype(args: &Args<'_>) -> bool {
    match (args.positional.as_slice(), &args.rest) {
        ([], None) => true,
        ([one], None) => {
            !matches!(one, Value::Int(_) | Value::Size(_) | Value::Shape(_) | Value::List(_) | Value::Bag(_))
        }
        _ => false,
    }
}

/// A view by this name has as many elements as what it looks at.
pub(super) fn keeps_size(name: &str) -> bool {
    !matches!(
        name,
        "narrow"
            | "select"
            | "split"
            | "split_with_sizes"
            | "chunk"
            | "tensor_split"
            | "hsplit"
            | "vsplit"
            | "dsplit"
            | "unbind"
            | "diagonal"
            | "as_strided"
            | "unfold"
            | "expand"
            | "expand_as"
            | "broadcast_to"
            | "view_as_complex"
            | "view_as_real"
    )
}
