//! Reading `value.name` and `value[index]`.

use std::rc::Rc;

use ruff_python_ast::{Expr, ExprSubscript};

use super::Engine;
use super::launch::GridSize;
use super::machine::asks_device;
use super::trace::{Fact, How, Stage};
use super::value::Value;
use crate::lint::members::kept;
use crate::lint::tables::{ATTR_SCALARS, ATTR_VIEWS, GRADIENTS};
use crate::lint::walk::constant_text;

impl<'a> Engine<'a> {
    pub(super) fn attribute(&mut self, base: &Value<'a>, name: &str) -> Value<'a> {
        if asks_device(base) {
            return self.property(name);
        }
        self.decides(base);
        match base {
            Value::Path(path) => self.dotted(path, name),
            Value::Tensor(ids) => {
                if ATTR_VIEWS.contains(&name) {
                    self.conjugates(name);
                    return base.clone();
                }
                if GRADIENTS.contains(&name) && ids.iter().any(|id| *id != self.parameter) {
                    self.note(Fact::Mode { what: format!("the .{name} of a tensor") });
                }
                if name == "shape" && self.is_kept(base) {
                    return Value::Bag(Rc::new(Value::StateScalar));
                }
                if name == "_version" && self.stage == Stage::Forward && !ids.contains(&self.parameter) {
                    self.counts("how often a tensor was written to");
                    return Value::StateScalar;
                }
                if name == "shape" {
                    return self.sized(base).map_or_else(|| Value::Bag(Rc::new(Value::Scalar)), Value::Shape);
                }
                if name == "__class__" {
                    return Value::path("torch.Tensor");
                }
                if name == "grad" {
                    return Value::Unknown(ids.clone());
                }
                if ATTR_SCALARS.contains(&name) {
                    return if self.is_kept(base) { Value::StateScalar } else { Value::Scalar };
                }
                Value::Attr(Rc::new(base.clone()), Rc::from(name))
            }
            Value::Instance(object, class) => self.instance_attribute(*object, *class, name),
            Value::Super(object, class) => self.super_attribute(*object, *class, name),
            Value::Class(class) => match self.member(*class, name) {
                Some(Value::Func(func)) if self.functions[func.id].binding == super::Binding::Class => {
                    Value::Bound(Rc::new(base.clone()), func)
                }
                Some(member) => self.class_attribute(member, name),
                None if matches!(name, "__name__" | "__doc__" | "__qualname__") => Value::Scalar,
                None => Value::Attr(Rc::new(base.clone()), Rc::from(name)),
            },
            Value::NnModule(class) => match name {
                "weight" | "bias" | "running_mean" | "running_var" | "in_proj_weight" | "in_proj_bias" => {
                    self.parameter()
                }
                "training" => {
                    self.note(Fact::Mode { what: "the .training flag of a module".to_owned() });
                    Value::Scalar
                }
                n if n.starts_with("weight_") || n.starts_with("bias_") => self.parameter(),
                n if is_module_method(n) => Value::Attr(Rc::new(Value::NnModule(Rc::clone(class))), Rc::from(name)),
                _ => Value::Scalar,
            },
            Value::Func(_) | Value::Bound(..) => match name {
                "__name__" | "__doc__" | "__qualname__" => Value::Scalar,
                _ if self.stage == Stage::Forward && self.mutable.attributes.contains(name) => {
                    self.class_attribute(Value::Nothing, name)
                }
                _ => Value::Attr(Rc::new(base.clone()), Rc::from(name)),
            },
            Value::Union(values) => {
                let parts: Vec<Value<'a>> =
                    values.iter().filter(|v| !matches!(v, Value::Nothing)).map(|v| self.attribute(v, name)).collect();
                parts.iter().skip(1).fold(parts.first().cloned().unwrap_or(Value::unknown()), |all, v| all.join(v))
            }
            Value::StateScalar => Value::StateScalar,
            _ => Value::Attr(Rc::new(base.clone()), Rc::from(name)),
        }
    }

    /// The first value of `m.a if hasattr(m, "a") else 1`: where nothing gives an own object an `a`, there is no method by
    /// that name. What it would be, should it be there after all, nobody knows.
    pub(super) fn if_it_has(&mut self, test: &'a Expr, value: Value<'a>, other: &Value<'a>) -> Value<'a> {
        let (Expr::Call(asked), Value::Attr(base, name)) = (test, &value) else {
            return value;
        };
        let text = asked.arguments.args.get(1).and_then(constant_text);
        let Value::Instance(_, class) = **base else {
            return value;
        };
        let set = name.starts_with("__") || kept(name) || self.mutable.attributes.contains(&**name);
        let answers = ["__getattr__", "__getattribute__"].iter().any(|m| self.member(class, m).is_some());
        let asks = text.as_deref() == Some(&**name) && self.is_builtin(&asked.func, "hasattr");
        let number = other.is_scalar() || matches!(other, Value::Unknown(ids) if ids.is_empty());
        if asks && number && !set && !answers { Value::unknown() } else { value }
    }

    fn super_attribute(&mut self, object: u32, class: usize, name: &str) -> Value<'a> {
        let bases = self.classes[class].bases.clone();
        for base in &bases {
            if let Value::Class(parent) = base
                && let Some(member) = self.member(*parent, name)
            {
                return self.bind_member(member, Value::Instance(object, class), name);
            }
        }
        Value::Attr(Rc::new(Value::Super(object, class)), Rc::from(name))
    }

    pub(super) fn subscript(&mut self, s: &'a ExprSubscript) -> Value<'a> {
        let base = self.eval(&s.value);
        if let Value::Kernels(kernels) = &base {
            let grid = self.eval(&s.slice);
            self.line = self.lines.of(s);
            return match self.grid_size(&grid) {
                GridSize::Nothing => {
                    self.note(Fact::DeadLaunch { why: "a grid of no programs" });
                    Value::Launcher(Rc::from([]))
                }
                GridSize::Some => Value::Launcher(Rc::clone(kernels)),
            };
        }
        let index = self.eval(&s.slice);
        self.line = self.lines.of(s);
        self.decides(&index);
        let state = self.state_in(&s.slice, &index);
        let item = self.item(&base, &index, &s.slice);
        if self.outlasts(&base) {
            self.lasting(&item);
        }
        if state && !item.tensors().is_empty() && matches!(base, Value::Tensor(_)) {
            self.counts("a part of a tensor that an earlier call chose");
        }
        if state && !item.is_scalar() && item.all_tensors().is_empty() {
            // Which one it is, an earlier call chose.
            return item.join(&Value::StateScalar);
        }
        self.tainted(state, item)
    }

    fn item(&mut self, base: &Value<'a>, index: &Value<'a>, slice: &'a Expr) -> Value<'a> {
        match base {
            Value::Tensor(_) => {
                if !index.all_tensors().is_empty() {
                    return self.compute(How::Index("x[tensor]"), &[base.clone(), index.clone()]);
                }
                if is_list_index(slice) {
                    return self.compute(How::Index("x[list]"), std::slice::from_ref(base));
                }
                base.part()
            }
            Value::Shape(of) => match slice {
                Expr::Slice(_) => Value::Shape(of.part()),
                _ => Value::Size(of.part()),
            },
            Value::List(items) => {
                let at = match index {
                    Value::Int(i) => usize::try_from(*i).ok(),
                    _ => negative(slice).and_then(|back| items.len().checked_sub(back)),
                };
                if let Some(value) = at.and_then(|at| items.get(at)) {
                    return value.clone();
                }
                if let Expr::Slice(_) = slice {
                    let item = self.element(base);
                    return Value::Bag(Rc::new(item));
                }
                self.element(base)
            }
            Value::Bag(_) if matches!(slice, Expr::Slice(_)) => base.clone(),
            Value::Bag(_) => self.element(base),
            Value::Union(values) => {
                let parts: Vec<Value<'a>> = values
                    .iter()
                    .filter(|v| !matches!(v, Value::Nothing))
                    .map(|v| match v {
                        Value::Kernels(k) => Value::Launcher(Rc::clone(k)),
                        v => self.item(v, index, slice),
                    })
                    .collect();
                parts.iter().skip(1).fold(parts.first().cloned().unwrap_or(Value::unknown()), |all, v| all.join(v))
            }
            Value::Class(class) => self.listed(*class).unwrap_or_else(|| base.clone()),
            // `list[x]` has the text of x.
            Value::Path(_) if !index.all_tensors().is_empty() => Value::Unknown(index.all_tensors()),
            Value::Path(_) => base.clone(),
            Value::Instance(object, class) if self.is_launch_record(*class) => match index {
                Value::Str(name) => self.state.field(*object, name).cloned().unwrap_or(Value::Scalar),
                _ => self.any_field(base),
            },
            Value::Instance(..) => match self.special(base, "__getitem__", vec![index.clone()]) {
                Some(value) => value,
                None => self.any_field(base),
            },
            Value::StateScalar => Value::StateScalar,
            v if v.is_scalar() => Value::Scalar,
            other => Value::Unknown(other.all_tensors()),
        }
    }
}

fn is_list_index(slice: &Expr) -> bool {
    match slice {
        Expr::List(_) | Expr::ListComp(_) => true,
        Expr::Tuple(t) => t.elts.iter().any(is_list_index),
        _ => false,
    }
}

/// `-k` as k.
fn negative(slice: &Expr) -> Option<usize> {
    let Expr::UnaryOp(u) = slice else {
        return None;
    };
    let Expr::NumberLiteral(n) = &*u.operand else {
        return None;
    };
    match &n.value {
        ruff_python_ast::Number::Int(i) if u.op == ruff_python_ast::UnaryOp::USub => {
            i.as_u64().and_then(|v| usize::try_from(v).ok())
        }
        _ => None,
    }
}

fn is_module_method(name: &str) -> bool {
    matches!(
        name,
        "forward"
            | "__call__"
            | "_call_impl"
            | "_conv_forward"
            | "parameters"
            | "named_parameters"
            | "buffers"
            | "children"
            | "modules"
            | "state_dict"
            | "load_state_dict"
            | "to"
            | "cuda"
            | "cpu"
            | "half"
            | "float"
            | "eval"
            | "train"
            | "requires_grad_"
            | "reset_parameters"
            | "apply"
            | "extra_repr"
            | "register_forward_hook"
            | "register_forward_pre_hook"
    )
}
