//! Kernel launches: which arguments a kernel writes, and whether it writes data.

use std::collections::BTreeMap;

use ruff_python_ast::Expr;

use super::Engine;
use super::call::Args;
use super::state::Written;
use super::trace::Fact;
use super::value::{FuncId, MARKS, ObjId, Value};

/// How many programs a grid holds, as far as it is known.
pub(super) enum GridSize {
    /// A dimension is zero.
    Nothing,
    Some,
}

impl<'a> Engine<'a> {
    pub(super) fn grid_size(&mut self, grid: &Value<'a>) -> GridSize {
        let grid = match grid {
            Value::Func(func) => self.perhaps(|engine| engine.probe(&func.clone())),
            Value::Bound(receiver, func) => {
                let args = Args::of(vec![Value::Bag(std::rc::Rc::new(Value::Scalar))]);
                self.perhaps(|engine| engine.call_function(&func.clone(), Some((**receiver).clone()), args))
            }
            other => other.clone(),
        };
        self.decides(&grid);
        let zero = |v: &Value<'a>| matches!(v, Value::Int(i) if *i <= 0);
        match &grid {
            Value::List(dims) if dims.iter().any(zero) => GridSize::Nothing,
            value if zero(value) => GridSize::Nothing,
            _ => GridSize::Some,
        }
    }

    /// A launch of one of these kernels.
    pub(super) fn launch(&mut self, kernels: &[FuncId], args: &Args<'a>) {
        if kernels.is_empty() {
            return;
        }
        self.note(Fact::Launch { kernels: kernels.to_vec() });
        if args.keywords.iter().any(|(name, _)| *name == Some("stream")) {
            self.note(Fact::Escapes { what: "a launch on a stream of its own".to_owned() });
        }
        let mut all: Option<BTreeMap<ObjId, Written>> = None;
        for kernel in kernels {
            self.run_hooks(*kernel, args);
            self.constants(*kernel, args);
            let one = self.written_by(*kernel, args);
            all = Some(match all.take() {
                None => one,
                // Only what each of the possible kernels writes is certain.
                Some(mut before) => {
                    before.retain(|id, written| match one.get(id) {
                        Some(other) => {
                            *written = (*written).min(*other);
                            true
                        }
                        None => false,
                    });
                    before
                }
            });
        }
        for (id, written) in all.unwrap_or_default() {
            let old = self.state.written(id);
            self.state.set_written(id, old.max(written));
        }
    }

    /// A constant of a kernel is handed on as it is: interpreted, the kernel has the object itself.
    fn constants(&mut self, kernel: FuncId, args: &Args<'a>) {
        let Some(params) = self.functions[kernel].params else {
            return;
        };
        for (index, parameter) in params.iter_non_variadic_params().enumerate() {
            let named = |e: &Expr| match e {
                Expr::Name(n) => n.id.as_str() == "constexpr",
                Expr::Attribute(a) => a.attr.id.as_str() == "constexpr",
                Expr::StringLiteral(s) => s.value.to_str().ends_with("constexpr"),
                _ => false,
            };
            let name = parameter.parameter.name.id.as_str();
            let constant = parameter.parameter.annotation.as_deref().is_some_and(named);
            let given = match (args.get(index, name).cloned(), parameter.default.as_deref()) {
                (Some(value), _) => value,
                // Of what lies in a dict, anything may be given.
                (None, default) if args.rest.is_some() => {
                    let rest = args.rest.clone().filter(|v| self.is_code(v));
                    rest.or_else(|| default.map(|d| self.quiet(d))).unwrap_or(Value::Nothing)
                }
                (None, Some(default)) => self.quiet(default),
                (None, None) => continue,
            };
            self.constant(kernel, name, &given, constant);
        }
    }

    /// One of a kernel's parameters is given this.
    pub(super) fn constant(&mut self, kernel: FuncId, name: &'a str, given: &Value<'a>, constant: bool) {
        if constant {
            self.decides(given);
        }
        let brings = if constant { self.brings_python(given, 0) } else { self.is_code(given) };
        if brings || constant && self.has_methods(given, 0) && self.worked_with(kernel, name, given) {
            self.note(Fact::Inside { what: format!("what the kernel gets as {name}") });
        }
    }

    /// Something to call, or holding something to call.
    fn is_code(&self, value: &Value<'a>) -> bool {
        match value {
            Value::Func(_) | Value::Partial(_) | Value::Bound(..) | Value::Class(_) | Value::NnModule(_) => true,
            Value::Attr(base, _) => base.each().iter().any(|v| {
                matches!(v, Value::Tensor(_) | Value::NnModule(_) | Value::List(_) | Value::Bag(_) | Value::Class(_))
            }),
            Value::Union(values) | Value::List(values) => values.iter().any(|v| self.is_code(v)),
            Value::Bag(item) => self.is_code(item),
            Value::Instance(..) => self.has_methods(value, 0),
            _ => false,
        }
    }

    fn written_by(&mut self, kernel: FuncId, args: &Args<'a>) -> BTreeMap<ObjId, Written> {
        let facts = self.kernel_facts(kernel);
        let mut written = BTreeMap::new();
        let argument = |index: usize, name: &str| args.get(index, name).or(args.rest.as_ref());
        let mut loads_data = false;
        for (index, parameter) in facts.parameters.iter().enumerate() {
            if facts.loads & (1 << index) == 0 {
                continue;
            }
            if let Some(value) = argument(index, parameter) {
                let ids = value.all_tensors();
                loads_data |= ids.iter().any(|id| self.is_data(*id));
                // Something that is not understood may well be data.
                loads_data |= matches!(value, Value::Unknown(_) | Value::Attr(..));
            }
        }
        self.flow_through(kernel, &facts, args);
        for (index, parameter) in facts.parameters.iter().enumerate() {
            if facts.stores & (1 << index) == 0 {
                continue;
            }
            let data = loads_data && facts.stores_data & (1 << index) != 0;
            let how = if data { Written::Data } else { Written::Constant };
            if let Some(value) = argument(index, parameter) {
                for id in value.all_tensors().iter().filter(|id| **id < MARKS) {
                    written.insert(*id, how);
                }
            }
        }
        written
    }
}
