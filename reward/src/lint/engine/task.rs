//! Which arguments of forward are tensors, read off the task's own `get_inputs()`.

use ruff_python_ast::Stmt;

use super::call::Args;
use super::value::Value;
use super::{Engine, prepass::Mutable};
use crate::lint::syntax::{Lines, parse};

/// Per element of what `get_inputs()` returns: is it a tensor? `None` when that cannot be told.
pub fn task_inputs(source: &str) -> Option<Vec<bool>> {
    let parsed = parse(source).ok()?;
    inputs_of(&parsed.syntax().body, &Lines::new(source))
}

/// The same, of a module that is parsed.
pub fn inputs_of(body: &[Stmt], lines: &Lines) -> Option<Vec<bool>> {
    let mut engine = Engine::new(lines, Mutable::default());
    engine.block(body);
    let get_inputs = engine.state.frames[0].get("get_inputs")?.clone();
    let Value::List(items) = engine.call_value(&get_inputs, Args::default()) else {
        return None;
    };
    Some(items.iter().map(|item| !item.is_scalar()).collect())
}
