//! What tells one machine or one process from another: addresses, identities, names of devices. Honest code asks whether an
//! address is aligned, whether two are the same, and how large a device is.

use std::rc::Rc;

use ruff_python_ast::{CmpOp, Operator};

use super::Engine;
use super::trace::Fact;
use super::value::Value;

/// What `data_ptr()` gives. Not a Python name.
const ADDRESS: &str = "data_ptr()";
/// What `get_device_properties()` gives. Not a Python name.
const DEVICE: &str = "get_device_properties()";
/// What `object()` gives. Not a Python name.
const OBJECT: &str = "object()";
/// Largest alignment that is asked for.
const MAX_ALIGNMENT: i64 = 256;

/// Properties of a device by which blocks and grids are chosen.
const SIZES: &[&str] = &[
    "major",
    "max_threads_per_block",
    "max_threads_per_multi_processor",
    "minor",
    "multi_processor_count",
    "regs_per_multiprocessor",
    "shared_memory_per_block",
    "shared_memory_per_block_optin",
    "shared_memory_per_multiprocessor",
    "warp_size",
];

/// Library functions that an address may be given to: tables of pointers, and what is no look at it.
const CARRIERS: &[&str] = &[
    "builtins.enumerate",
    "builtins.int",
    "builtins.isinstance",
    "builtins.list",
    "builtins.print",
    "builtins.tuple",
    "builtins.zip",
    "torch.as_tensor",
    "torch.tensor",
];

/// Methods of a list, the same.
pub(super) const MOVERS: &[&str] = &["append", "extend", "insert"];

fn marked(value: &Value<'_>, mark: &str) -> bool {
    matches!(value, Value::Attr(base, name) if &**name == mark && matches!(**base, Value::Scalar))
}

/// An address, or one of several things that may be one.
pub(super) fn is_address(value: &Value<'_>) -> bool {
    value.each().iter().any(|v| marked(v, ADDRESS))
}

/// All properties of a device at once.
pub(super) fn asks_device(value: &Value<'_>) -> bool {
    value.each().iter().any(|v| marked(v, DEVICE))
}

/// `object()`
pub(super) fn object<'a>() -> Value<'a> {
    Value::Attr(Rc::new(Value::Scalar), Rc::from(OBJECT))
}

/// Something that has no text but its address.
pub(super) fn is_object(value: &Value<'_>) -> bool {
    marked(value, OBJECT)
}

fn holds_address(value: &Value<'_>) -> bool {
    match value {
        Value::List(values) | Value::Union(values) => values.iter().any(holds_address),
        Value::Bag(item) => holds_address(item),
        value => is_address(value),
    }
}

/// `x.data_ptr()`
pub(super) fn address<'a>() -> Value<'a> {
    Value::Attr(Rc::new(Value::Scalar), Rc::from(ADDRESS))
}

/// `torch.cuda.get_device_properties()`
pub(super) fn device<'a>() -> Value<'a> {
    Value::Attr(Rc::new(Value::Scalar), Rc::from(DEVICE))
}

impl<'a> Engine<'a> {
    fn tells(&mut self, what: &str) -> Value<'a> {
        self.note(Fact::Machine { what: what.to_owned() });
        Value::Scalar
    }

    /// Something is decided by a value.
    pub(super) fn decides(&mut self, value: &Value<'a>) {
        if holds_address(value) {
            self.tells("an address");
        }
    }

    /// Arithmetic with an address, where one is among the operands.
    pub(super) fn address_arithmetic(&mut self, op: Operator, a: &Value<'a>, b: &Value<'a>) -> Option<Value<'a>> {
        let (left, right) = (is_address(a), is_address(b));
        if !left && !right {
            return None;
        }
        let number = |v: &Value<'a>| match v {
            Value::Int(i) => Some(*i),
            _ => None,
        };
        let power = |n: i64| (1..=MAX_ALIGNMENT).contains(&n) && n & (n - 1) == 0;
        let other = if left { b } else { a };
        Some(match op {
            Operator::Mod if left && number(b).is_some_and(power) => Value::Scalar,
            Operator::BitAnd if number(other).is_some_and(|n| n < MAX_ALIGNMENT && power(n + 1)) => Value::Scalar,
            // The next row's address; two addresses that are asked for at once.
            Operator::Add if left != right && other.is_scalar() => address(),
            Operator::BitOr if left && right => address(),
            _ => self.tells("an address"),
        })
    }

    /// A comparison in which an address takes part.
    pub(super) fn address_compared(&mut self, a: &Value<'a>, op: CmpOp, b: &Value<'a>) {
        let (left, right) = (holds_address(a), holds_address(b));
        let equal = matches!(op, CmpOp::Eq | CmpOp::NotEq | CmpOp::Is | CmpOp::IsNot);
        let zero = |v: &Value<'a>| matches!(v, Value::Int(0) | Value::Nothing);
        let same = is_address(a) && is_address(b) || zero(a) || zero(b);
        if (left || right) && !(equal && same) {
            self.tells("an address");
        }
    }

    /// A library's function is given an address.
    pub(super) fn address_given(&mut self, path: &str, values: &[Value<'a>]) {
        if values.iter().any(holds_address) && !CARRIERS.contains(&path) {
            self.tells("an address");
        }
    }

    /// `properties.name`
    pub(super) fn property(&mut self, name: &str) -> Value<'a> {
        if SIZES.contains(&name) {
            return Value::Attr(Rc::new(Value::Scalar), Rc::from(name));
        }
        self.tells(&format!("the device's .{name}"))
    }

    /// A function that tells one process or machine from another.
    pub(super) fn identifies(&mut self, path: &str) -> Option<Value<'a>> {
        let hashing = || self.running.last().is_some_and(|id| self.functions[*id].name == "__hash__");
        match path {
            "builtins.id"
            | "torch.cuda.get_device_name"
            | "torch.get_num_threads"
            | "torch.get_num_interop_threads" => Some(self.tells(&format!("{path}()"))),
            "builtins.hash" if !hashing() => Some(self.tells("hash()")),
            "torch.cuda.get_device_properties" => Some(device()),
            _ => None,
        }
    }

    /// How a tensor was allocated.
    pub(super) fn allocated(&mut self, method: &str) {
        if matches!(method, "is_pinned" | "is_shared") {
            self.tells(&format!(".{method}()"));
        }
    }
}
