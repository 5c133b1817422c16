//! Calls that leave the candidate: torch, triton, builtins, and methods of tensors, modules and collections.

use std::rc::Rc;

use super::call::Args;
use super::loops::perhaps_still;
use super::machine::{MOVERS, address};
use super::modules::CONTEXT;
use super::sizes::{blocks, by_dtype, keeps_size, product};
use super::state::Written;
use super::text::TEXTS;
use super::trace::{Fact, Forged, How, Stage};
use super::value::Value;
use super::wrappers::{WRAPS, library_operator};
use super::{Engine, Origin};
use crate::lint::tables::{Method, TorchCall, clearly_tensor_method, method, torch_call};

impl<'a> Engine<'a> {
    pub(super) fn call_path(&mut self, path: &str, args: Args<'a>) -> Value<'a> {
        let state = self.any_state(&args);
        self.handed_to(path, &args);
        self.given_away(path, &args);
        self.address_given(path, &args.all());
        if let Some(value) = self.identifies(path) {
            return value;
        }
        if args.all().iter().all(Value::is_scalar) {
            let result = self.call_library(path, args);
            return self.gives(state, result);
        }
        let result = self.call_library(path, args.clone());
        let result = self.gives(state, result);
        self.hand_over(path, &args, result)
    }

    /// What is made of numbers that an earlier call left is told by them too.
    fn gives(&mut self, state: bool, result: Value<'a>) -> Value<'a> {
        if state && matches!(result, Value::Tensor(_)) {
            self.sized_by_state(&result);
        }
        if state && matches!(result, Value::NnModule(_)) {
            self.counts("the sizes of a new module");
        }
        match result {
            Value::Unknown(ids) if state && ids.is_empty() => Value::StateScalar,
            Value::Path(path) if state && path.starts_with("operator.") => Value::StateScalar,
            other => self.tainted(state, other),
        }
    }

    fn call_library(&mut self, path: &str, args: Args<'a>) -> Value<'a> {
        let (root, rest) = path.split_once('.').unwrap_or((path, ""));
        match root {
            "builtins" => self.call_builtin(rest, args),
            "torch" => self.call_torch(path, rest, args),
            "triton" => self.call_triton(path, rest, args),
            "functools" if rest == "partial" => self.partial(args),
            "functools" if matches!(rest, "wraps" | "update_wrapper" | WRAPS) => self.wraps(path, rest, args),
            "functools" if matches!(rest, "lru_cache" | "cache") => match args.positional.first() {
                Some(function @ Value::Func(func)) => {
                    self.functions[func.id].cached = true;
                    function.clone()
                }
                _ => Value::path("functools.lru_cache"),
            },
            "functools" if rest == "reduce" && args.positional.len() >= 2 => {
                let item = self.element(&args.positional[1]);
                let mut made = args.positional.get(2).cloned().unwrap_or(item.clone());
                // Over nothing, the start is the result; over more, what was made is handed in again.
                for _ in 0..2 {
                    let given = Args::of(vec![made.clone(), item.clone()]);
                    let next = self.many_times(|engine| engine.call_value(&args.positional[0], given));
                    made = perhaps_still(&next, &made);
                }
                made
            }
            "math" | "numpy" if rest == "prod" && product(&args).is_some() => product(&args).unwrap_or(Value::Scalar),
            "typing" if rest == "cast" => args.positional.into_iter().nth(1).unwrap_or(Value::unknown()),
            "time" => {
                self.note(Fact::Escapes { what: path.to_owned() });
                Value::Scalar
            }
            "random" if self.stage == Stage::Forward => {
                self.note(Fact::Mode { what: path.to_owned() });
                Value::Scalar
            }
            "types" if rest == "SimpleNamespace" => self.namespace(args),
            // It adds up what it is given.
            "collections" if rest == "Counter" && self.stage == Stage::Forward => {
                let all = args.all();
                let kept = self.parameter();
                self.compute(How::Function(path.to_owned()), &[all.as_slice(), &[kept]].concat())
            }
            "dataclasses" if rest == "field" => self.record_default(&args),
            "dataclasses" if matches!(rest, "asdict" | "astuple") => self.fields_of(&args),
            // Another object with the same in it, or with what it is given.
            "dataclasses" if rest == "replace" && args.keywords.is_empty() && args.rest.is_none() => {
                args.positional.into_iter().next().unwrap_or(Value::unknown())
            }
            "copy" if matches!(args.positional.as_slice(), [Value::Instance(..)]) => {
                args.positional.into_iter().next().unwrap_or(Value::unknown())
            }
            "collections" if rest == "namedtuple" => self.named_tuple(&args),
            "collections" if rest == "OrderedDict" => self.call_builtin("dict", args),
            "itertools" if APPLY.contains(&rest) && args.has_tensor() => {
                self.compute(How::Function(path.to_owned()), &args.all())
            }
            "copy" if matches!(args.positional.as_slice(), [Value::Class(_)]) => {
                args.positional.into_iter().next().unwrap_or(Value::Scalar)
            }
            "copy" if args.has_tensor() => self.compute(How::Function(path.to_owned()), &args.all()),
            "itertools" | "collections" => {
                let all = args.all();
                let items: Vec<Value<'a>> = all.iter().map(|v| self.element(v)).collect();
                Value::Bag(Rc::new(
                    items.iter().skip(1).fold(items.first().cloned().unwrap_or(Value::unknown()), |all, v| all.join(v)),
                ))
            }
            _ if args.has_tensor() => self.compute(How::Function(path.to_owned()), &args.all()),
            "functools" if rest == "cmp_to_key" => args.positional.into_iter().next().unwrap_or(Value::unknown()),
            // A context of an unknown kind.
            "contextlib" if rest != "nullcontext" => Value::unknown(),
            "operator" => self.call_operator(path, rest, args),
            _ => Value::Scalar,
        }
    }

    fn call_torch(&mut self, path: &str, rest: &str, args: Args<'a>) -> Value<'a> {
        let first = args.positional.first().cloned();
        match rest {
            "nn.Parameter" | "nn.Buffer" | "nn.UninitializedParameter" => match first {
                Some(tensor) if self.is_kept(&tensor) => return tensor,
                _ => return self.parameter(),
            },
            "nn.ModuleList" | "nn.ParameterList" => {
                return match first {
                    Some(list @ (Value::List(_) | Value::Bag(_))) => self.copied(&list),
                    _ => Value::Bag(Rc::new(Value::unknown())),
                };
            }
            "nn.Sequential" if matches!(args.positional.as_slice(), [Value::Bag(_)]) => {
                return first.map_or(Value::unknown(), |v| self.copied(&v));
            }
            "nn.Sequential" if args.rest.is_none() => return Value::List(Rc::new(args.positional)),
            "nn.Sequential" => return Value::Bag(Rc::new(args.rest.unwrap_or(Value::unknown()))),
            "nn.ModuleDict" | "nn.ParameterDict" => {
                return first.map_or(Value::Bag(Rc::new(Value::unknown())), |v| self.copied(&v));
            }
            "nn.Module.__init__" => return Value::Nothing,
            "broadcast_tensors" => {
                return Value::List(Rc::new(args.all().iter().map(Value::part).collect()));
            }
            _ => {}
        }
        if let Some(name) = rest.strip_prefix("nn.init.") {
            let _ = name;
            return first.unwrap_or(Value::Nothing);
        }
        if let (Some(name), Some(tensor)) = (rest.strip_prefix("Tensor."), &first) {
            let args = Args { positional: args.positional[1..].to_vec(), ..args };
            return self.tensor_method(tensor, name, args);
        }
        if let Some(value) = library_operator(rest, &args).or_else(|| self.repeated(rest, &args)) {
            return value;
        }
        match torch_call(rest) {
            TorchCall::Alloc => self.allocate(path, rest, &args),
            TorchCall::View if rest == "adjoint" => {
                self.conjugates(rest);
                first.map_or(Value::unknown(), |value| value.part())
            }
            TorchCall::View => match first.or_else(|| args.get(9, "input").cloned()) {
                Some(value @ (Value::Tensor(_) | Value::Union(_) | Value::List(_) | Value::Bag(_))) => {
                    if keeps_size(rest) { value } else { value.part() }
                }
                Some(value) => Value::Unknown(value.all_tensors()),
                None => Value::unknown(),
            },
            TorchCall::Copy => self.copy_of(&first.unwrap_or(Value::unknown())),
            // The device by its name: `.to(torch.device("cpu"))` is `.to("cpu")`.
            TorchCall::Scalar if rest == "device" => match args.get(0, "type") {
                Some(name @ Value::Str(_)) => name.clone(),
                _ => Value::Scalar,
            },
            TorchCall::Scalar => Value::Scalar,
            TorchCall::Mode => {
                self.note(Fact::Mode { what: path.to_owned() });
                Value::Scalar
            }
            TorchCall::Module => Value::NnModule(Rc::from(path)),
            TorchCall::Compute => {
                let all: Vec<Value<'a>> = args.all().iter().map(|v| self.suspected(v)).collect();
                self.compute(How::Function(path.to_owned()), &all)
            }
        }
    }

    fn brings_code(&self, value: &Value<'a>) -> bool {
        value.tensors().is_empty() && (self.brings_python(value, 0) || self.has_methods(value, 0))
    }

    fn call_triton(&mut self, path: &str, rest: &str, args: Args<'a>) -> Value<'a> {
        let first = args.positional.first().cloned();
        if matches!(rest, "autotune" | "heuristics" | "Config") {
            self.gather_hooks(rest, &args);
        }
        match rest {
            "jit" | "autotune" | "heuristics" | "JITFunction" => match first {
                Some(Value::Func(func)) => {
                    self.defined.push(func.id);
                    Value::Kernels(Rc::from([func.id]))
                }
                Some(kernels @ Value::Kernels(_)) => kernels,
                _ => Value::KernelDecorator,
            },
            _ if rest.contains("TensorDescriptor") => first.unwrap_or(Value::unknown()),
            "set_allocator" => {
                self.set_allocator(args);
                Value::Nothing
            }
            _ if rest.starts_with("ops.") || rest.starts_with("testing.") => {
                if args.has_tensor() {
                    return self.compute(How::Function(path.to_owned()), &args.all());
                }
                Value::Scalar
            }
            // A constant is what it is made of, where that can be worked with.
            "language.constexpr" if first.as_ref().is_some_and(|v| self.brings_code(v)) => {
                first.unwrap_or(Value::unknown())
            }
            // Other views of the same memory.
            "reinterpret" | "TensorWrapper" => first.unwrap_or(Value::unknown()),
            _ if args.has_tensor() => self.compute(How::Function(path.to_owned()), &args.all()),
            _ => blocks(rest, &args).unwrap_or(Value::Scalar),
        }
    }

    pub(super) fn call_attribute(&mut self, base: &Rc<Value<'a>>, name: &str, args: Args<'a>) -> Value<'a> {
        if TEXTS.contains(&name) {
            return self.text_by(name, base, &args);
        }
        if !MOVERS.contains(&name) {
            self.address_given(name, &args.all());
        }
        match &**base {
            Value::Tensor(_) => self.tensor_method(base, name, args),
            Value::NnModule(class) => match name {
                "forward" | "__call__" | "_call_impl" | "_conv_forward" => {
                    self.compute(How::Module(class.to_string()), &args.all())
                }
                "parameters" | "named_parameters" | "buffers" => Value::Bag(Rc::new(self.parameter())),
                _ => (**base).clone(),
            },
            Value::Instance(object, class) if self.is_launch_record(*class) => match (name, args.positional.first()) {
                ("get" | "pop", Some(Value::Str(key))) => {
                    self.state.field(*object, key).cloned().unwrap_or(Value::Scalar)
                }
                ("items", _) => Value::Bag(Rc::new(Value::List(Rc::new(vec![Value::Scalar, self.any_field(base)])))),
                _ => Value::Bag(Rc::new(self.any_field(base))),
            },
            Value::Instance(..) => self.module_method(base, name, args),
            Value::Super(..) => match name {
                "forward" | "__call__" => {
                    self.note(Fact::Reference { what: format!("super().{name}") });
                    Value::Unknown(
                        args.all()
                            .iter()
                            .fold(super::value::no_ids(), |ids, v| super::value::merge_ids(&ids, &v.all_tensors())),
                    )
                }
                _ if name.starts_with("__") || !args.has_tensor() => Value::Nothing,
                "register_buffer" | "register_parameter" => Value::Nothing,
                _ => self.opaque(&format!("super().{name}"), &args),
            },
            Value::Class(class) if name == "apply" => self.autograd(*class, args),
            Value::Kernels(kernels) => match name {
                "run" => {
                    self.launch(&Rc::clone(kernels), &args);
                    Value::Nothing
                }
                "__getitem__" => Value::Launcher(Rc::clone(kernels)),
                _ => self.opaque(&format!("kernel.{name}"), &args),
            },
            Value::Func(_) | Value::Union(_) if name == "register" => {
                if args.positional.len() > 1 {
                    self.note(Fact::Patch { what: "a function, by .register".to_owned() });
                }
                Value::Attr(Rc::clone(base), Rc::from(name))
            }
            Value::Func(_) | Value::Bound(..) | Value::Launcher(_) if name == "__call__" => {
                self.call_value(&Rc::clone(base), args)
            }
            Value::Shape(of) if name == "numel" => Value::Size(*of),
            Value::List(_) | Value::Bag(_) => {
                let (result, changed) = self.collection(base, name, &args);
                if let Some(changed) = changed {
                    self.replaced(base, &changed);
                    self.changed(base, &changed);
                }
                result
            }
            Value::Str(text) => {
                self.text_of(&format!("a text's .{name}()"), &args.all());
                text_method(text, name, &args)
            }
            v if v.is_scalar() && !args.has_tensor() => {
                self.remember(&super::callbacks::functions_among(&args.all()));
                self.callbacks(&args);
                let state = self.is_state(v) || self.any_state(&args);
                self.tainted(state, Value::Scalar)
            }
            Value::Unknown(ids) => {
                if CONTEXT.contains(&name) {
                    return Value::Nothing;
                }
                if clearly_tensor_method(name) && self.stage == Stage::Forward {
                    let mut all = args.all();
                    all.push(self.suspected(&Value::Unknown(ids.clone())));
                    return self.compute(How::Method(name.to_owned()), &all);
                }
                let mut all = args;
                all.positional.push(Value::Unknown(ids.clone()));
                self.opaque(&format!("a call of .{name} on a value of unknown type"), &all)
            }
            // A part of something unknown that holds tensors.
            part if clearly_tensor_method(name)
                && self.stage == Stage::Forward
                && !part.all_tensors().is_empty()
                && matches!(part, Value::Attr(..)) =>
            {
                let mut all = args.all();
                all.push(self.suspected(&Value::Unknown(part.all_tensors())));
                self.compute(How::Method(name.to_owned()), &all)
            }
            _ => self.opaque(&format!("a call of .{name}"), &args),
        }
    }

    fn tensor_method(&mut self, base: &Value<'a>, name: &str, args: Args<'a>) -> Value<'a> {
        let state = self.any_state(&args);
        match method(name) {
            Method::Size | Method::Shape | Method::Scalar if self.is_kept(base) => {
                let all = name == "size" || name == "stride";
                if all && args.positional.is_empty() && args.keywords.is_empty() {
                    Value::Bag(Rc::new(Value::StateScalar))
                } else {
                    Value::StateScalar
                }
            }
            Method::Size | Method::Shape => {
                let one = name != "size" || !(args.positional.is_empty() && args.keywords.is_empty());
                match (self.sized(base), one) {
                    (Some(of), true) if name == "size" => Value::Size(of.part()),
                    (Some(of), true) => Value::Size(of),
                    (Some(of), false) => Value::Shape(of),
                    (None, true) if name != "size" => self.numel_of(base),
                    (None, true) => Value::Scalar,
                    (None, false) => Value::Bag(Rc::new(Value::Scalar)),
                }
            }
            Method::Scalar => {
                self.allocated(name);
                Value::Scalar
            }
            Method::View => {
                self.conjugates(name);
                let host = |v: &Value<'a>| matches!(v, Value::Str(s) if s.starts_with("cpu") || s.starts_with("meta"));
                if name == "to" && args.all().iter().any(host) {
                    self.note(Fact::Host { what: ".to(\"cpu\")".to_owned(), reject: true });
                }
                if state && !keeps_size(name) {
                    self.counts("a part of a tensor that an earlier call chose");
                }
                match name {
                    _ if state && self.is_kept(base) => base.part(),
                    _ if MAY_COPY.contains(&name) => base.perhaps_copied(),
                    _ if self.is_kept(base) => base.part(),
                    "view" if by_dtype(&args) => base.part(),
                    _ if keeps_size(name) => base.clone(),
                    _ => base.part(),
                }
            }
            Method::Copy => self.copy_of(base),
            Method::Alloc => {
                let made = self.allocate_by(name, &args);
                if state {
                    self.sized_by_state(&made);
                }
                made
            }
            Method::Fill => {
                let data = args.has_tensor() || base.tensors().iter().any(|id| self.is_data(*id));
                if data && self.stage == Stage::Forward {
                    let mut all = args.all();
                    all.push(base.clone());
                    self.compute_on(How::Method(name.to_owned()), &all);
                }
                for id in base.tensors().iter() {
                    let unwritten = self.unwritten(*id);
                    self.state.set_written(*id, unwritten);
                }
                base.clone()
            }
            Method::Host => {
                self.note(Fact::Host { what: format!(".{name}()"), reject: name != "data_ptr" });
                match name {
                    "cpu" | "share_memory_" => base.clone(),
                    "data_ptr" => address(),
                    _ => Value::Unknown(base.tensors()),
                }
            }
            Method::Item => {
                // One by one is all of them.
                self.note(Fact::Host { what: ".item()".to_owned(), reject: self.turns > 0 });
                Value::Scalar
            }
            Method::Compute => {
                let mut all = vec![base.clone()];
                all.extend(args.all());
                let result = self.compute(How::Method(name.to_owned()), &all);
                if name.ends_with('_') { base.join(&result) } else { result }
            }
        }
    }

    fn copy_of(&mut self, value: &Value<'a>) -> Value<'a> {
        let data = value.all_tensors().iter().any(|id| self.is_data(*id));
        let ids = value.all_tensors();
        // A copy of what was kept is no newer.
        if ids.iter().any(|id| self.forged(*id) == Some(Forged::Kept)) {
            return self.fresh(Origin::Kept);
        }
        let copy = self.fresh(if data { Origin::Copy } else { Origin::Alloc });
        let of = self.sized(value);
        self.sized_as(&copy, of);
        self.flows.add(None, value.all_tensors(), copy.all_tensors());
        // What kernels wrote is theirs in a copy, too.
        for how in [Written::Data, Written::Constant] {
            if ids.iter().any(|id| self.state.written(*id) == how) {
                for id in copy.all_tensors().iter() {
                    self.state.set_written(*id, how);
                }
                break;
            }
        }
        copy
    }
}

/// Iterators that apply a function to what they are given.
const APPLY: &[&str] = &["accumulate", "dropwhile", "filterfalse", "groupby", "starmap", "takewhile"];

/// A method of a constant text, where it is known too.
fn text_method<'a>(text: &str, name: &str, args: &Args<'a>) -> Value<'a> {
    let made = match (name, args.positional.as_slice()) {
        ("join", [Value::List(parts)]) => {
            let parts: Option<Vec<&str>> = parts
                .iter()
                .map(|part| match part {
                    Value::Str(part) => Some(&**part),
                    _ => None,
                })
                .collect();
            parts.map(|parts| parts.join(text))
        }
        ("replace", [Value::Str(from), Value::Str(to)]) if !from.is_empty() => Some(text.replace(&**from, to)),
        ("lower" | "casefold", []) => Some(text.to_lowercase()),
        ("upper", []) => Some(text.to_uppercase()),
        ("strip", []) => Some(text.trim().to_owned()),
        _ => None,
    };
    match made {
        Some(made) if made.len() < 4096 => Value::Str(Rc::from(made)),
        _ => Value::Scalar,
    }
}

/// Casts and the like: the tensor itself where it is what is asked for, else a copy.
const MAY_COPY: &[&str] = &[
    "bfloat16",
    "bool",
    "byte",
    "char",
    "contiguous",
    "cuda",
    "double",
    "float",
    "half",
    "int",
    "long",
    "reshape",
    "flatten",
    "short",
    "to",
    "type",
    "type_as",
];
