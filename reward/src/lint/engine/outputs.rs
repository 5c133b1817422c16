//! The entry: forward is called with fresh inputs, and every value it returns must be the work of a kernel.

use std::rc::Rc;

use ruff_python_ast::{Expr, ParameterWithDefault};

use super::call::Args;
use super::state::Written;
use super::trace::{Fact, Forged};
use super::value::{COPY, Func, Value};
use super::{Engine, Inputs, Origin};

impl<'a> Engine<'a> {
    pub(super) fn forward(&mut self, func: &Func<'a>, instance: Value<'a>, inputs: &Inputs) {
        let info = self.functions[func.id].clone();
        let mut args = Args::default();
        if let Some(params) = info.params {
            let positional = params.posonlyargs.iter().chain(&params.args).skip(1);
            for (index, parameter) in positional.enumerate() {
                match &inputs.tensors {
                    Some(tensors) if index < tensors.len() => {
                        let value = if tensors[index] { self.input() } else { Value::Scalar };
                        args.positional.push(value);
                    }
                    Some(_) => break,
                    None => {
                        let value = self.guess(parameter);
                        args.positional.push(value);
                    }
                }
            }
            if params.vararg.is_some() {
                match &inputs.tensors {
                    // The harness hands over the task's inputs one by one, and nothing else.
                    Some(tensors) => {
                        for tensor in tensors.iter().skip(args.positional.len()) {
                            let value = if *tensor { self.input() } else { Value::Scalar };
                            args.positional.push(value);
                        }
                    }
                    None => args.rest = Some(self.fresh(Origin::Input)),
                }
            }
        }
        self.line = info.line;
        self.entry = self.returns.len() + 1;
        self.call_function(func, Some(instance), args);
        self.entry = usize::MAX;
    }

    /// One tensor that forward is called with.
    fn input(&mut self) -> Value<'a> {
        let input = self.fresh(Origin::Input);
        self.inputs.extend(input.tensors().iter());
        input
    }

    /// What a parameter of forward probably is when the task is not known.
    fn guess(&mut self, parameter: &'a ParameterWithDefault) -> Value<'a> {
        let number = |e: &Expr| matches!(e, Expr::Name(n) if matches!(n.id.as_str(), "int" | "float" | "bool" | "str"));
        if parameter.parameter.annotation.as_deref().is_some_and(number) {
            return Value::Scalar;
        }
        match parameter.default.as_deref() {
            None => self.input(),
            Some(Expr::NoneLiteral(_)) => {
                let input = self.input();
                Value::Nothing.join(&input)
            }
            Some(default) => {
                let value = self.eval(default);
                if value.is_scalar() { Value::Scalar } else { value }
            }
        }
    }

    /// Judges one value that forward returns.
    pub(super) fn check_output(&mut self, value: &Value<'a>) {
        if self.state.empty {
            return;
        }
        match value {
            Value::Tensor(ids) => {
                let copied = ids.contains(&COPY);
                self.flows.returned(ids);
                for id in Rc::clone(ids).iter() {
                    let input = matches!(self.origins.get(*id as usize), Some(Origin::Input));
                    if input && !copied && ids.len() == 1 && self.state.written(*id) != Written::No {
                        self.note(Fact::Returns { forged: Forged::InPlace });
                    }
                    if let Some(forged) = self.forged(*id) {
                        self.note(Fact::Returns { forged });
                    }
                }
            }
            Value::List(items) if !items.is_empty() => {
                for item in items.iter() {
                    self.check_output(item);
                }
            }
            Value::Bag(item) => self.check_output(item),
            Value::Union(values) => {
                // A number among tensors: an entry of a collection whose keys are not told apart.
                let tensors = values.iter().any(|v| matches!(v, Value::Tensor(_)));
                let counts = |v: &&Value<'a>| !(matches!(v, Value::Nothing) || tensors && v.is_scalar());
                for one in values.iter().filter(counts) {
                    self.check_output(one);
                }
            }
            Value::Instance(object, class) if self.is_record(*class) => {
                for field in self.record(*object, *class) {
                    self.check_output(&field);
                }
            }
            v if v.is_scalar() => self.note(Fact::Returns { forged: Forged::NotATensor }),
            Value::List(_) | Value::Func(_) | Value::Class(_) | Value::NnModule(_) | Value::Kernels(_) => {
                self.note(Fact::Returns { forged: Forged::NotATensor });
            }
            _ => {
                let kept = |id: &u32| self.forged(*id) == Some(Forged::Kept);
                let forged = if value.all_tensors().iter().any(kept) { Forged::Kept } else { Forged::Unknown };
                self.note(Fact::Returns { forged });
            }
        }
    }

    pub(super) fn forged(&self, id: u32) -> Option<Forged> {
        match self.state.written(id) {
            Written::Data | Written::Spared => None,
            Written::Constant => Some(Forged::Constant),
            Written::No => match self.origins.get(id as usize)? {
                Origin::Input | Origin::Copy => Some(Forged::Input),
                Origin::Parameter => Some(Forged::Parameter),
                Origin::Alloc => Some(Forged::Unwritten),
                Origin::Kept => Some(Forged::Kept),
                // Reported where it was computed.
                Origin::Compute => None,
                Origin::Instance => Some(Forged::NotATensor),
            },
        }
    }
}
