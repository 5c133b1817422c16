//! New tensors: made of sizes and constants, or of what they are handed.

use super::call::Args;
use super::trace::{Fact, How, Stage};
use super::value::Value;
use super::{Engine, Origin};

/// These take nothing but sizes, whatever the sizes are: an allocator's callback does not know what it is given.
const SIZED: &[&str] = &[
    "empty",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "new_ones",
    "new_zeros",
    "ones",
    "zeros",
];

/// Of these the first argument is what the new tensor holds.
const HOLDS: &[&str] = &["tensor", "as_tensor", "scalar_tensor", "new_tensor"];

impl<'a> Engine<'a> {
    /// `x.mH` and the like, where the conjugate is not made before somebody reads it.
    pub(super) fn conjugates(&mut self, name: &str) {
        if matches!(name, "H" | "mH" | "adjoint") {
            self.note(Fact::Conjugates { what: name.to_owned() });
        }
    }

    /// `torch.empty(..)` and the like.
    pub(super) fn allocate(&mut self, path: &str, rest: &str, args: &Args<'a>) -> Value<'a> {
        if args.keywords.iter().any(|(name, value)| *name == Some("out") && !matches!(value, Value::Nothing)) {
            // It writes, and sizes anew, what is there: neither is making a tensor.
            if self.stage == Stage::Forward {
                self.note(Fact::Compute { how: How::Function(format!("{path}(out=..)")), data: true });
            }
            return self.fresh(Origin::Compute);
        }
        let first = args.get(0, "input").cloned();
        let like = rest.ends_with("_like");
        // What is made in the likeness of a tensor is not made of it.
        let handed: Vec<Value<'a>> = if like { args.all().into_iter().skip(1).collect() } else { args.all() };
        if let Some(made) = self.made_of(How::Function(path.to_owned()), rest, &handed) {
            return made;
        }
        let host = |(name, value): &(Option<&str>, Value<'a>)| match (name, value) {
            (Some("pin_memory"), value) => value.truth() != Some(false),
            (Some("device"), Value::Str(device)) => device.starts_with("cpu"),
            _ => false,
        };
        if self.stage == Stage::Forward && args.keywords.iter().any(host) {
            self.note(Fact::Host { what: format!("{path} in the host's memory"), reject: true });
        }
        let buffer = self.fresh(Origin::Alloc);
        let of = if like { first.and_then(|v| self.sized(&v)) } else { self.sizes_asked(rest, args) };
        self.sized_as(&buffer, of);
        buffer
    }

    /// `x.new_empty(..)` and the like.
    pub(super) fn allocate_by(&mut self, name: &str, args: &Args<'a>) -> Value<'a> {
        match self.made_of(How::Method(name.to_owned()), name, &args.all()) {
            Some(made) => made,
            None => {
                let buffer = self.fresh(Origin::Alloc);
                let of = self.sizes_asked(name, args);
                self.sized_as(&buffer, of);
                buffer
            }
        }
    }

    /// What torch works on while forward runs: data, if nothing is known of it.
    pub(super) fn suspected(&mut self, value: &Value<'a>) -> Value<'a> {
        if self.stage == Stage::Forward && hides(value) { self.fresh(Origin::Copy) } else { value.clone() }
    }

    /// A tensor that is made of other tensors, or of something that may hide them; `None` where there is nothing of them.
    fn made_of(&mut self, how: How, name: &str, handed: &[Value<'a>]) -> Option<Value<'a>> {
        if !SIZED.contains(&name) && handed.iter().any(|v| !v.all_tensors().is_empty()) {
            return Some(self.compute(how, handed));
        }
        let holds = HOLDS.contains(&name) || name.ends_with("Tensor");
        // Nothing is known against it; what torch computes on it afterwards is work on data.
        (holds && self.stage == Stage::Forward && handed.iter().any(hides)).then(|| self.fresh(Origin::Copy))
    }
}

/// There is something in it of which nothing is known.
pub(super) fn hides(value: &Value<'_>) -> bool {
    match value {
        Value::Unknown(ids) => ids.is_empty(),
        Value::List(values) | Value::Union(values) => values.iter().any(hides),
        Value::Bag(value) => hides(value),
        _ => false,
    }
}
