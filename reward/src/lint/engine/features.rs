//! What a kernel does to data it loaded, in coarse classes: enough to see that a component is missing altogether.

use ruff_python_ast::{Expr, Number, Operator};

/// A set of operations on loaded data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u16);

impl Features {
    pub const NONE: Features = Features(0);
    /// A product of two values, a power, a fused multiply-add.
    pub const MULTIPLY: Features = Features(1);
    /// A sum or difference of two values.
    pub const ADD: Features = Features(1 << 1);
    pub const DIVIDE: Features = Features(1 << 2);
    /// A matrix product.
    pub const DOT: Features = Features(1 << 3);
    /// A sum over an axis, a scan, an atomic sum.
    pub const SUM: Features = Features(1 << 4);
    /// Exponentials, logarithms, angles and all that libdevice has.
    pub const TRANSCENDENTAL: Features = Features(1 << 5);
    pub const ROOT: Features = Features(1 << 6);
    /// A choice by value: maximum, where, a comparison, a branch, an absolute value.
    pub const SELECT: Features = Features(1 << 7);
    /// Anything else that makes other data of data.
    pub const OTHER: Features = Features(1 << 8);

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn has_any(self, of: Features) -> bool {
        self.0 & of.0 != 0
    }
}

impl std::ops::BitOr for Features {
    type Output = Features;
    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Features {
    fn bitor_assign(&mut self, other: Features) {
        self.0 |= other.0;
    }
}

/// Moves, makes or annotates values.
const STRUCTURE: &[&str] = &[
    "load",
    "store",
    "load_tensor_descriptor",
    "store_tensor_descriptor",
    "arange",
    "program_id",
    "num_programs",
    "zeros",
    "zeros_like",
    "full",
    "cast",
    "to",
    "reshape",
    "view",
    "trans",
    "permute",
    "expand_dims",
    "broadcast",
    "broadcast_to",
    "join",
    "split",
    "cat",
    "interleave",
    "ravel",
    "flip",
    "gather",
    "swizzle2d",
    "multiple_of",
    "max_contiguous",
    "max_constancy",
    "assume",
    "static_range",
    "range",
    "cdiv",
    "static_assert",
    "static_print",
    "device_assert",
    "device_print",
    "debug_barrier",
    "make_block_ptr",
    "make_tensor_descriptor",
    "advance",
    "constexpr",
    "tensor",
    "item",
    "load_scalar",
    "cache_modifier",
    "atomic_xchg",
    "atomic_cas",
];

/// What a function of `triton.language` or libdevice, or a method of a value in a kernel, does.
pub fn of_call(name: &str) -> Features {
    match name {
        _ if STRUCTURE.contains(&name) => Features::NONE,
        "dot" | "dot_scaled" => Features::DOT,
        "fma" => Features::MULTIPLY | Features::ADD,
        "mul" | "mul_rn" | "umulhi" | "cumprod" => Features::MULTIPLY,
        "add" | "sub" => Features::ADD,
        "fdiv" | "div_rn" | "truediv" | "div" => Features::DIVIDE,
        "sqrt" | "sqrt_rn" | "rsqrt" | "rsqrt_rn" => Features::ROOT,
        "pow" => Features::TRANSCENDENTAL | Features::MULTIPLY | Features::ROOT,
        "sum" | "cumsum" | "atomic_add" | "xor_sum" | "histogram" => Features::SUM,
        "reduce" | "associative_scan" => Features::SUM | Features::SELECT | Features::MULTIPLY,
        "maximum" | "minimum" | "where" | "clamp" | "max" | "min" | "argmax" | "argmin" | "sort" | "topk" | "abs"
        | "atomic_max" | "atomic_min" | "fmax" | "fmin" | "fabs" | "bitonic_merge" => Features::SELECT,
        "softmax" => Features::TRANSCENDENTAL | Features::SUM | Features::SELECT | Features::DIVIDE,
        "exp" | "exp2" | "exp10" | "expm1" | "log" | "log2" | "log10" | "log1p" | "sin" | "cos" | "tan" | "sinh"
        | "cosh" | "tanh" | "asin" | "acos" | "atan" | "atan2" | "erf" | "erfc" | "sigmoid" => Features::TRANSCENDENTAL,
        _ => Features::OTHER | Features::TRANSCENDENTAL,
    }
}

/// A number that changes nothing: `x * 1`, `x + 0`.
fn is_number(expr: &Expr, value: u8) -> bool {
    match expr {
        Expr::NumberLiteral(n) => match &n.value {
            Number::Int(i) => i.as_u64() == Some(u64::from(value)),
            Number::Float(f) => *f == f64::from(value),
            Number::Complex { .. } => false,
        },
        _ => false,
    }
}

/// What a binary operator does; nothing where one side is a number that changes nothing.
pub fn of_operator(op: Operator, left: Option<&Expr>, right: &Expr) -> Features {
    let idle = |value: u8| is_number(right, value) || left.is_some_and(|l| is_number(l, value));
    match op {
        Operator::Add | Operator::Sub if idle(0) => Features::NONE,
        Operator::Mult if idle(1) => Features::NONE,
        Operator::Div | Operator::Pow if is_number(right, 1) => Features::NONE,
        Operator::Add | Operator::Sub => Features::ADD,
        Operator::Mult => Features::MULTIPLY,
        Operator::Div => Features::DIVIDE,
        Operator::MatMult => Features::DOT,
        Operator::Pow => Features::MULTIPLY | Features::ROOT | Features::TRANSCENDENTAL,
        _ => Features::OTHER,
    }
}
