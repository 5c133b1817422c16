//! Methods that torch's base classes give to a candidate's classes.

use std::rc::Rc;

use super::call::Args;
use super::prepass::Place;
use super::value::Value;
use super::{Engine, Origin};

/// Methods of an autograd context.
pub(super) const CONTEXT: &[&str] =
    &["save_for_backward", "mark_dirty", "mark_non_differentiable", "set_materialize_grads"];

impl<'a> Engine<'a> {
    /// Methods that `nn.Module` gives to a candidate's class.
    pub(super) fn module_method(&mut self, base: &Rc<Value<'a>>, name: &str, args: Args<'a>) -> Value<'a> {
        let Value::Instance(object, _) = **base else {
            return Value::unknown();
        };
        match name {
            "register_buffer" | "register_parameter" | "add_module" | "register_module" => {
                if !matches!(args.get(0, "name"), Some(Value::Str(_))) {
                    self.counts(format!("something by .{name}"));
                }
                if let (Some(Value::Str(name)), Some(value)) = (args.get(0, "name"), args.get(1, "tensor")) {
                    if let Some(name) = self.mutable.attributes.get(&**name).copied() {
                        self.store(Place::Attribute(name), value);
                    }
                    let value = match value {
                        Value::Tensor(_) | Value::Unknown(_) => self.parameter(),
                        other => other.clone(),
                    };
                    self.state.set_field(object, Rc::clone(name), value);
                }
                Value::Nothing
            }
            _ if CONTEXT.contains(&name) => Value::Nothing,
            "_asdict" => self.fields_of(&Args::of(vec![(**base).clone()])),
            "parameters" | "buffers" => Value::Bag(Rc::new(self.parameter())),
            "named_parameters" | "named_buffers" => {
                Value::Bag(Rc::new(Value::List(Rc::new(vec![Value::Scalar, self.parameter()]))))
            }
            "get_parameter" | "get_buffer" => self.parameter(),
            "children" | "modules" => Value::Bag(Rc::new(self.submodules(object))),
            "named_children" | "named_modules" => {
                Value::Bag(Rc::new(Value::List(Rc::new(vec![Value::Scalar, self.submodules(object)]))))
            }
            "get_submodule" => self.submodules(object),
            "to" | "cuda" | "half" | "float" | "double" | "bfloat16" | "eval" | "train" | "requires_grad_" => {
                (**base).clone()
            }
            "__call__" | "_call_impl" => self.call_value(&Rc::clone(base), args),
            _ => self.opaque(&format!("self.{name}"), &args),
        }
    }

    /// `Function.apply(..)`: runs the candidate's own forward; backward is not on the path.
    pub(super) fn autograd(&mut self, class: usize, args: Args<'a>) -> Value<'a> {
        let Some(Value::Func(func)) = self.member(class, "forward") else {
            return self.opaque("apply", &args);
        };
        let context = self.object(Origin::Instance);
        let context = Value::Instance(context, class);
        let receiver = if self.member(class, "setup_context").is_some() { None } else { Some(context) };
        self.call_function(&func, receiver, args)
    }
}
