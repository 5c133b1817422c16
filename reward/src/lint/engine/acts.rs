//! Calls of methods of objects that are not known: which of them change what is there in the next call.

use ruff_python_ast::Expr;

use super::Engine;
use super::expr::shown;
use super::memory::MOVES;
use super::prepass::Place;
use super::trace::Stage;
use super::value::Value;

/// Methods of an object that is not known, called as a statement, that change nothing that is asked for later.
pub(super) const SAYS: &[&str] = &[
    "debug",
    "info",
    "warning",
    "warn",
    "error",
    "exception",
    "critical",
    "log",
    "synchronize",
    "wait",
    "record",
    "wait_stream",
    "wait_event",
    "record_event",
    "record_stream",
    "save_for_backward",
    "mark_dirty",
    "mark_non_differentiable",
    "set_materialize_grads",
    "clear",
];

impl<'a> Engine<'a> {
    /// A method of an object that is not known, and that was there before: does it change it?
    pub(super) fn acts_on(&mut self, place: &'a Expr, base: &Value<'a>, name: &str, statement: bool) {
        let opaque = |v: &Value<'a>| {
            v.is_scalar() || matches!(v, Value::Unknown(ids) if ids.is_empty()) || matches!(v, Value::Attr(..))
        };
        if self.stage != Stage::Forward || !base.each().iter().all(opaque) || matches!(base, Value::Str(_)) {
            return;
        }
        let setter = name.starts_with("set") || name.starts_with("add") || MOVES.contains(&name);
        let acts = setter && !SAYS.contains(&name) || statement && !SAYS.contains(&name);
        if acts && self.stays(place) {
            self.counts(format!("{} by .{name}", shown(place)));
        }
    }

    /// A place that is there in the next call, by its text.
    fn stays(&mut self, place: &'a Expr) -> bool {
        match place {
            Expr::Attribute(a) => match self.quiet(&a.value) {
                Value::Instance(object, _) => self.memory.is_early(object),
                Value::Class(_) | Value::Func(_) | Value::NnModule(_) | Value::Path(_) => true,
                Value::Tensor(_) => false,
                _ => self.stays(&a.value),
            },
            Expr::Subscript(s) => self.stays(&s.value),
            Expr::Call(c) => match &*c.func {
                Expr::Attribute(a) => self.stays(&a.value),
                _ => false,
            },
            Expr::Name(n) => {
                let name = n.id.as_str();
                let frames = &self.state.frames;
                let local = frames.len() > 1 && frames.last().is_some_and(|f| f.contains_key(name));
                if !local {
                    return frames[0].contains_key(name);
                }
                let linked = self.mutable.reach([Place::Name(name)]);
                linked.iter().any(|p| matches!(p, Place::Attribute(_)))
            }
            _ => false,
        }
    }
}
