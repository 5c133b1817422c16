//! Operators on constants.

use ruff_python_ast::{CmpOp, Operator};

use super::value::Value;

pub(super) fn special_name(op: Operator) -> &'static str {
    match op {
        Operator::Add => "add",
        Operator::Sub => "sub",
        Operator::Mult => "mul",
        Operator::MatMult => "matmul",
        Operator::Div => "truediv",
        Operator::Mod => "mod",
        Operator::Pow => "pow",
        Operator::LShift => "lshift",
        Operator::RShift => "rshift",
        Operator::BitOr => "or",
        Operator::BitXor => "xor",
        Operator::BitAnd => "and",
        Operator::FloorDiv => "floordiv",
    }
}

pub(super) fn fold(op: Operator, x: i64, y: i64) -> Option<i64> {
    match op {
        Operator::Add => x.checked_add(y),
        Operator::Sub => x.checked_sub(y),
        Operator::Mult => x.checked_mul(y),
        Operator::FloorDiv => x.checked_div_euclid(y),
        Operator::Mod => x.checked_rem_euclid(y),
        Operator::Pow => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        Operator::LShift => u32::try_from(y).ok().filter(|y| *y < 62).and_then(|y| x.checked_mul(1 << y)),
        Operator::RShift => u32::try_from(y).ok().map(|y| x >> y.min(63)),
        Operator::BitAnd => Some(x & y),
        Operator::BitOr => Some(x | y),
        Operator::BitXor => Some(x ^ y),
        Operator::Div | Operator::MatMult => None,
    }
}

pub(super) fn decide(op: CmpOp, left: &Value<'_>, right: &Value<'_>) -> Option<bool> {
    let is_none = |v: &Value<'_>| match v {
        Value::Nothing => Some(true),
        Value::Union(_) | Value::Unknown(_) | Value::Scalar | Value::StateScalar => None,
        _ => Some(false),
    };
    match op {
        CmpOp::Is | CmpOp::IsNot => {
            let same = match (left, right) {
                (value, Value::Nothing) | (Value::Nothing, value) => is_none(value)?,
                (Value::Bool(a), Value::Bool(b)) => a == b,
                _ => return None,
            };
            Some(same == (op == CmpOp::Is))
        }
        CmpOp::In | CmpOp::NotIn => None,
        _ => match (left, right) {
            (Value::Int(a), Value::Int(b)) => Some(ordered(op, a.cmp(b))),
            (Value::Str(a), Value::Str(b)) => Some(ordered(op, a.cmp(b))),
            // A size is never negative.
            (Value::Size(_), Value::Int(b)) if *b < 0 || (*b == 0 && op == CmpOp::Lt) => match op {
                CmpOp::Lt | CmpOp::LtE | CmpOp::Eq => Some(false),
                _ => Some(true),
            },
            (Value::Size(_), Value::Int(0)) if op == CmpOp::GtE => Some(true),
            _ => None,
        },
    }
}

fn ordered(op: CmpOp, order: std::cmp::Ordering) -> bool {
    match op {
        CmpOp::Eq => order.is_eq(),
        CmpOp::NotEq => order.is_ne(),
        CmpOp::Lt => order.is_lt(),
        CmpOp::LtE => order.is_le(),
        CmpOp::Gt => order.is_gt(),
        _ => order.is_ge(),
    }
}
