//! What takes a function and gives it back: `functools.wraps`, torch's decorators for operators.

use std::rc::Rc;

use super::Engine;
use super::call::Args;
use super::trace::Fact;
use super::value::{Partial, Value};

/// Behind `functools.`: what `wraps(f)` gives. Not a Python name.
pub(super) const WRAPS: &str = "wraps(..)";

/// Of torch, decorators that leave a function as it is.
pub(super) const TRANSPARENT: &[&str] = &[
    "library.custom_op",
    "library.triton_op",
    "library.register_fake",
    "amp.custom_fwd",
    "amp.custom_bwd",
    "compiler.disable",
];

impl<'a> Engine<'a> {
    /// `functools.wraps(f)`, `functools.wraps(f)(g)`, `functools.update_wrapper(g, f)`: all that `f` has in its `__dict__` is
    /// put into `g`. In a tensor, a module or a kernel that replaces its methods.
    pub(super) fn wraps(&mut self, path: &str, rest: &str, args: Args<'a>) -> Value<'a> {
        let lists = args.keywords.iter().any(|(k, _)| matches!(k, Some("assigned" | "updated") | None));
        let into = match rest {
            "wraps" => None,
            _ => Some(args.get(0, "wrapper").cloned().or(args.rest.clone()).unwrap_or(Value::unknown())),
        };
        let function = |v: &Value<'a>| matches!(v, Value::Func(_) | Value::Bound(..) | Value::Partial(_));
        if lists || args.positional.len() > 2 || into.as_ref().is_some_and(|v| !v.each().iter().all(function)) {
            self.note(Fact::Patch { what: format!("something, by {path}") });
            return Value::unknown();
        }
        into.unwrap_or_else(|| Value::path(&format!("functools.{WRAPS}")))
    }

    /// `functools.partial(f, ..)`
    pub(super) fn partial(&mut self, args: Args<'a>) -> Value<'a> {
        let mut positional = args.positional.into_iter();
        match positional.next() {
            Some(callee) => {
                Value::Partial(Rc::new(Partial { callee, args: positional.collect(), keywords: args.keywords }))
            }
            None => Value::unknown(),
        }
    }

    /// `torch.nn.modules.utils._pair(v)` and its kin: a tuple of what can be gone through, of a number so many of it.
    pub(super) fn repeated(&mut self, rest: &str, args: &Args<'a>) -> Option<Value<'a>> {
        let count = match rest.strip_prefix("nn.modules.utils.")? {
            "_single" => 1,
            "_pair" => 2,
            "_triple" => 3,
            "_quadruple" => 4,
            _ => return None,
        };
        let value = args.get(0, "x").or(args.rest.as_ref())?.clone();
        let made: Vec<Value<'a>> = value.each().to_vec().into_iter().map(|one| self.so_many(one, count)).collect();
        made.into_iter().reduce(|all, one| all.join(&one))
    }

    fn so_many(&mut self, value: Value<'a>, count: usize) -> Value<'a> {
        match value {
            Value::Int(_)
            | Value::Bool(_)
            | Value::Size(_)
            | Value::Numel(_)
            | Value::Nothing
            | Value::Func(_)
            | Value::Bound(..)
            | Value::Partial(_)
            | Value::Kernels(_) => self.made_tuple(Value::List(Rc::new(vec![value; count]))),
            // A number or a text: which, and so how many, is not known.
            Value::Scalar | Value::Str(_) => Value::Bag(Rc::new(Value::Scalar)),
            Value::StateScalar | Value::Unknown(_) => Value::Bag(Rc::new(value)),
            // Some objects can be gone through.
            Value::Instance(..) => {
                let items = self.call_builtin("tuple", Args::of(vec![value.clone()]));
                items.join(&Value::List(Rc::new(vec![value; count])))
            }
            _ => self.call_builtin("tuple", Args::of(vec![value])),
        }
    }

    /// `triton.set_allocator(f)`: triton asks it for memory at each launch, with two numbers and a stream.
    pub(super) fn set_allocator(&mut self, args: Args<'a>) {
        let Some(allocator) = args.get(0, "allocator").cloned().or(args.rest) else {
            return;
        };
        let own = |v: &Value<'a>| match v {
            Value::Func(_) | Value::Bound(..) | Value::Instance(..) | Value::Nothing => true,
            Value::Partial(p) => matches!(p.callee, Value::Func(_) | Value::Bound(..)),
            _ => false,
        };
        if !allocator.each().iter().all(own) {
            self.note(Fact::Patch { what: "triton's allocator by what is no function written here".to_owned() });
        }
        self.hooks.allocators.push(allocator);
    }

    /// What it does while a kernel is launched is forward's work.
    pub(super) fn run_allocators(&mut self) {
        for allocator in std::mem::take(&mut self.hooks.allocators) {
            let asked = Args::of(vec![Value::Scalar, Value::Scalar, Value::Scalar]);
            self.aside(|engine| {
                for one in allocator.each().iter().filter(|v| !matches!(v, Value::Nothing)) {
                    engine.call_value(one, asked.clone());
                }
            });
        }
    }
}

/// Wrappers that register a function with torch and leave it as it is: whatever it is, it is what their result calls.
pub(super) fn library_operator<'a>(rest: &str, args: &Args<'a>) -> Option<Value<'a>> {
    let first = args.positional.first();
    let named = |value: &&Value<'a>| value.each().iter().all(|v| v.is_scalar());
    match (rest, first) {
        ("library.wrap_triton", Some(kernels @ Value::Kernels(_))) => Some(kernels.clone()),
        // `custom_op("my::op", f, ..)` and `custom_op("my::op", ..)(f)`: the name may be any.
        ("library.custom_op" | "library.triton_op", _) => {
            let function = first.filter(|v| !named(v)).or_else(|| args.get(1, "fn")).or(args.rest.as_ref());
            Some(function.cloned().unwrap_or_else(|| Value::path(&format!("torch.{rest}"))))
        }
        ("amp.custom_fwd" | "amp.custom_bwd" | "compiler.disable", _) => {
            let function = args.get(0, "fn").or_else(|| args.get(0, "fwd")).or_else(|| args.get(0, "bwd"));
            let function = function.filter(|v| !matches!(v, Value::Nothing));
            Some(function.cloned().unwrap_or_else(|| Value::path(&format!("torch.{rest}"))))
        }
        _ if TRANSPARENT.contains(&rest) => Some(Value::path(&format!("torch.{rest}"))),
        _ => None,
    }
}
