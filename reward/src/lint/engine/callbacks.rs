//! The candidate's functions in the hands of a library: what is called there is run here, as if on data.

use std::collections::HashSet;

use super::call::Args;
use super::trace::Stage;
use super::value::Value;
use super::{Engine, Origin};

/// Most functions that are remembered for the time forward runs.
const MAX_HANDED: usize = 64;

/// Methods without arguments that Python calls where it likes: for an object's text, for its parts.
const ASKED: &[&str] = &["__repr__", "extra_repr", "__iter__", "__next__", "keys"];

/// Roots of library functions that are followed themselves, or call nothing that is handed to them.
const FOLLOWED: &[&str] = &["builtins", "triton", "typing", "typing_extensions", "abc", "enum"];

/// Of `functools` and torch, the same: wrappers, and what registers the gradient of an operator.
const FOLLOWED_PATHS: &[&str] = &[
    "functools.partial",
    "functools.wraps",
    "functools.update_wrapper",
    "functools.lru_cache",
    "functools.cache",
    "functools.reduce",
    "torch.library.",
    "torch.amp.custom_",
    "torch.compiler.disable",
];

/// Code of the candidate that can be called.
pub(super) fn is_function(value: &Value<'_>) -> bool {
    let one = |v: &Value<'_>| match v {
        Value::Func(_) | Value::Bound(..) | Value::Partial(_) => true,
        // `flag.append`
        Value::Attr(base, _) => matches!(**base, Value::List(_) | Value::Bag(_)),
        _ => false,
    };
    value.each().iter().any(one)
}

/// The functions among values, those in collections included.
pub(super) fn functions_among<'a>(values: &[Value<'a>]) -> Vec<Value<'a>> {
    let mut found: Vec<Value<'a>> = Vec::new();
    for value in values {
        let inner: &[Value<'a>] = match value {
            Value::List(items) => items,
            Value::Bag(item) => std::slice::from_ref(item),
            other => other.each(),
        };
        let new: Vec<&Value<'a>> = inner.iter().filter(|v| is_function(v)).take(MAX_HANDED).collect();
        for function in new {
            if found.len() < MAX_HANDED && !found.iter().any(|v| v.same(function)) {
                found.push(function.clone());
            }
        }
    }
    found
}

fn is_followed(path: &str) -> bool {
    let root = path.split('.').next().unwrap_or(path);
    FOLLOWED.contains(&root) || FOLLOWED_PATHS.iter().any(|p| path.starts_with(p))
}

impl<'a> Engine<'a> {
    /// A call of a library function that may call what it is handed, now or later: what may come of it.
    pub(super) fn hand_over(&mut self, path: &str, args: &Args<'a>, result: Value<'a>) -> Value<'a> {
        if is_followed(path) {
            return result;
        }
        let functions = functions_among(&args.all());
        if functions.is_empty() {
            return result;
        }
        self.callbacks(args);
        self.remember(&functions);
        // What a wrapper returns is called in place of what it wraps.
        match result {
            Value::Scalar | Value::Nothing => functions.iter().fold(Value::Scalar, |all, f| all.join(f)),
            other => other,
        }
    }

    /// Functions that a library was handed before forward runs: it may call them then.
    pub(super) fn remember(&mut self, functions: &[Value<'a>]) {
        for function in functions {
            if self.stage != Stage::Forward
                && self.handed.len() < MAX_HANDED
                && !self.handed.iter().any(|v| v.same(function))
            {
                self.handed.push(function.clone());
            }
        }
    }

    /// Runs them, once forward has left behind what they see.
    pub(super) fn run_handed(&mut self) {
        for function in std::mem::take(&mut self.handed) {
            let data = self.fresh(Origin::Input);
            // A text of what may be anything says nothing.
            self.raised(|engine| {
                engine.aside(|engine| {
                    engine.call_value(&function, Args { rest: Some(data), ..Args::default() });
                });
            });
        }
        // Python asks objects for their text and their parts in many ways.
        let mut asked = HashSet::new();
        for (object, class) in self.instances.clone() {
            for name in ASKED {
                if asked.len() < MAX_HANDED && self.member(class, name).is_some() && asked.insert((object, *name)) {
                    self.aside(|engine| {
                        engine.special(&Value::Instance(object, class), name, Vec::new());
                    });
                }
            }
        }
    }
}
