//! Definitions: functions, kernels, classes, instances and where a member is found.

use std::rc::Rc;

use ruff_python_ast::{Decorator, Parameters, StmtClassDef, StmtFunctionDef};

use super::call::Args;
use super::prepass::Place;
use super::trace::{Fact, Stage};
use super::value::{ClassId, Env, Func, ObjId, Value};
use super::wrappers::{TRANSPARENT, WRAPS};
use super::{Binding, Body, ClassInfo, Engine, FuncInfo, Origin};

/// Decorators that a function or property lends to another function.
const REGISTERS: &[&str] = &["setter", "getter", "deleter", "register_fake", "register_autograd", "register_abstract"];
/// Most base classes of one class that are looked at.
const MAX_BASES: usize = 48;

impl<'a> Engine<'a> {
    pub(super) fn define_function(&mut self, def: &'a StmtFunctionDef) {
        let name = def.name.id.as_str();
        self.defaults(&def.parameters);
        if let Some(returns) = def.returns.as_deref() {
            self.eval(returns);
        }
        let info = FuncInfo {
            name,
            params: Some(&def.parameters),
            body: Body::Block(&def.body),
            line: self.lines.of(def),
            binding: Binding::Plain,
            node: Some(def),
            owner: self.owner,
            cached: false,
        };
        let id = self.function(std::ptr::from_ref(def) as usize, info);
        let mut bound = Value::Func(self.close(id));
        for decorator in def.decorator_list.iter().rev() {
            self.hooks_belong_to(None);
            let applied = self.decorator(decorator);
            let kernel = matches!(applied, Applied::Kernel).then_some(id);
            self.hooks_belong_to(kernel);
            match applied {
                Applied::Kernel => {
                    self.defined.push(id);
                    bound = Value::Kernels(Rc::from([id]));
                }
                Applied::Binding(kind) => self.functions[id].binding = kind,
                Applied::Cached => self.functions[id].cached = true,
                Applied::CachedProperty => {
                    self.functions[id].cached = true;
                    self.functions[id].binding = Binding::Property;
                }
                Applied::Transparent => {}
                Applied::Dispatched(base) => {
                    // functools.singledispatch: the name stands for any of the functions.
                    let frame = self.state.frames.last();
                    let names: Vec<&'a str> = frame
                        .map(|f| {
                            f.iter()
                                .filter(|(_, v)| v.each().iter().any(|one| one.same(&base.each()[0])))
                                .map(|(n, _)| *n)
                        })
                        .into_iter()
                        .flatten()
                        .collect();
                    for name in names {
                        let either = base.join(&bound);
                        self.state.bind(name, either);
                    }
                }
                Applied::Own(wrapper) => bound = self.call_value(&wrapper, Args::of(vec![bound])),
                Applied::Unknown(what) => {
                    self.line = self.lines.of(decorator);
                    self.note(Fact::Decorator { what });
                    // What it makes of the function is anybody's guess.
                    bound = Value::unknown();
                }
            }
        }
        self.state.bind(name, bound);
    }

    /// What a definition evaluates of its parameters: defaults and annotations.
    pub(super) fn defaults(&mut self, parameters: &'a Parameters) {
        for parameter in parameters.iter_non_variadic_params() {
            if let Some(default) = parameter.default.as_deref() {
                self.eval(default);
            }
        }
        for annotation in parameters.iter().filter_map(|p| p.annotation()) {
            self.eval(annotation);
        }
    }

    fn decorator(&mut self, decorator: &'a Decorator) -> Applied<'a> {
        let value = self.eval(&decorator.expression);
        let shown = || super::expr::shown(&decorator.expression);
        match &value {
            Value::KernelDecorator => Applied::Kernel,
            Value::Path(path) => match &**path {
                "triton.jit" | "triton.autotune" | "triton.heuristics" | "triton.JITFunction" => Applied::Kernel,
                "builtins.staticmethod" => Applied::Binding(Binding::Static),
                "builtins.classmethod" => Applied::Binding(Binding::Class),
                "builtins.property" => Applied::Binding(Binding::Property),
                "functools.cached_property" => Applied::CachedProperty,
                "functools.lru_cache" | "functools.cache" => Applied::Cached,
                "torch.no_grad"
                | "torch.inference_mode"
                | "torch.enable_grad"
                | "typing.no_type_check"
                | "typing.overload"
                | "typing.final"
                | "abc.abstractmethod"
                | "dataclasses.dataclass"
                | "typing.override"
                | "torch.autograd.function.once_differentiable"
                | "functools.total_ordering"
                | "enum.unique"
                | "enum.verify"
                | "functools.singledispatch"
                | "triton.constexpr_function"
                | "typing.runtime_checkable"
                | "typing_extensions.override" => Applied::Transparent,
                path if path.strip_prefix("functools.") == Some(WRAPS) => Applied::Transparent,
                path if path.strip_prefix("torch.").is_some_and(|p| TRANSPARENT.contains(&p)) => Applied::Transparent,
                _ => Applied::Unknown(shown()),
            },
            Value::Scalar => Applied::Transparent,
            // Parts of a property; what a custom operator does without data, and its gradient.
            Value::Attr(base, name) if &**name == "register" => Applied::Dispatched((**base).clone()),
            Value::Attr(_, name) if REGISTERS.contains(&&**name) => Applied::Transparent,
            Value::Func(_) | Value::Class(_) | Value::Instance(..) | Value::Partial(_) | Value::Bound(..) => {
                Applied::Own(value)
            }
            _ => Applied::Unknown(shown()),
        }
    }

    pub(super) fn define_class(&mut self, def: &'a StmtClassDef) {
        let name = def.name.id.as_str();
        let mut bases = Vec::new();
        let mut settings = Args::default();
        if let Some(arguments) = def.arguments.as_deref() {
            bases.extend(arguments.args.iter().map(|b| self.eval(b)));
            for keyword in &arguments.keywords {
                let value = self.eval(&keyword.value);
                settings.keywords.push((keyword.arg.as_ref().map(|n| n.id.as_str()), value));
            }
        }
        self.show_bases(name, &bases);
        let class = self.classes.len();
        self.classes.push(ClassInfo {
            name,
            bases,
            members: Env::new(),
            fields: super::records::annotated(&def.body),
            line: self.lines.of(def),
        });
        let owner = self.owner.replace(class);
        self.state.frames.push(Rc::new(Env::new()));
        self.block(&def.body);
        let members = if self.state.frames.len() > 1 { self.state.frames.pop() } else { None };
        self.owner = owner;
        if let Some(members) = members {
            let mut members = Rc::unwrap_or_clone(members);
            // Class scope is not visible from inside methods.
            for value in members.values_mut() {
                if let Value::Func(func) = value
                    && self.functions[func.id].owner == Some(class)
                {
                    *func = self.close(func.id);
                }
            }
            self.classes[class].members = members;
        }
        let mut bound = Value::Class(class);
        let parents = self.classes[class].bases.clone();
        let registers = parents.iter().find_map(|b| match b {
            Value::Class(parent) => self.member(*parent, "__init_subclass__"),
            _ => None,
        });
        if let Some(Value::Func(registers)) = registers {
            self.call_function(&registers, Some(bound.clone()), settings);
        }
        for decorator in def.decorator_list.iter().rev() {
            match self.decorator(decorator) {
                Applied::Own(wrapper) => bound = self.call_value(&wrapper, Args::of(vec![bound])),
                Applied::Unknown(what) => {
                    self.line = self.lines.of(decorator);
                    self.note(Fact::Decorator { what });
                }
                _ => {}
            }
        }
        self.state.bind(name, bound);
    }

    /// A member by name in a class or its bases.
    pub(super) fn member(&self, class: ClassId, name: &str) -> Option<Value<'a>> {
        let info = self.classes.get(class)?;
        if let Some(value) = info.members.get(name) {
            return Some(value.clone());
        }
        let mut ancestors = self.ancestors(class);
        ancestors.find_map(|base| self.classes.get(base)?.members.get(name).cloned())
    }

    /// All members of a class and its bases.
    pub(super) fn members(&self, class: ClassId) -> Vec<(&'a str, &Value<'a>)> {
        let all = std::iter::once(class).chain(self.ancestors(class));
        all.filter_map(|c| self.classes.get(c)).flat_map(|c| c.members.iter().map(|(n, v)| (*n, v))).collect()
    }

    /// A class's bases and theirs, each once, the first ones first; not all where there are very many.
    fn ancestors(&self, class: ClassId) -> impl Iterator<Item = ClassId> {
        let mut found = vec![class];
        let mut open = self.parents(class);
        open.reverse();
        while let Some(next) = open.pop() {
            if found.len() < MAX_BASES && !found.contains(&next) {
                found.push(next);
                open.extend(self.parents(next).into_iter().rev());
            }
        }
        found.into_iter().skip(1)
    }

    /// The bases that are the candidate's own.
    fn parents(&self, class: ClassId) -> Vec<ClassId> {
        let own = |base: &Value<'a>| match base {
            Value::Class(id) => Some(*id),
            _ => None,
        };
        self.classes.get(class).map(|c| c.bases.iter().filter_map(own).take(MAX_BASES).collect()).unwrap_or_default()
    }

    /// True when the class is, at the end of its chain of bases, this library class.
    pub(super) fn descends(&self, class: ClassId, path: &str) -> bool {
        self.library_bases(class).iter().any(|b| b == path)
    }

    /// An enumeration.
    pub(super) fn is_enum(&self, class: ClassId) -> bool {
        self.library_bases(class).iter().any(|b| b.starts_with("enum."))
    }

    /// `Kind["RELU"]`, `Kind(0)`: one of an enumeration's members, whichever.
    pub(super) fn listed(&self, class: ClassId) -> Option<Value<'a>> {
        let mut members = self.members(class);
        members.sort_unstable_by_key(|(name, _)| *name);
        let values = members.into_iter().filter(|(name, v)| !name.starts_with('_') && !matches!(v, Value::Func(_)));
        values.map(|(_, v)| v.clone()).reduce(|all, v| all.join(&v)).filter(|_| self.is_enum(class))
    }

    /// The torch module class, other than `nn.Module` itself, that a candidate's class inherits from.
    pub(super) fn torch_module(&self, class: ClassId) -> Option<String> {
        let bases = self.library_bases(class);
        bases.into_iter().find(|b| b.starts_with("torch.nn.") && b != "torch.nn.Module")
    }

    /// Names of library classes among a class's ancestors; `?` for a base that is not understood.
    pub fn library_bases(&self, class: ClassId) -> Vec<String> {
        let mut names = Vec::new();
        let ancestors: Vec<ClassId> = self.ancestors(class).collect();
        if ancestors.len() + 1 >= MAX_BASES {
            names.push("?".to_owned());
        }
        for one in std::iter::once(class).chain(ancestors) {
            for base in self.classes.get(one).map(|c| c.bases.as_slice()).unwrap_or_default() {
                match base {
                    Value::Class(_) => {}
                    Value::Path(path) => names.push(path.to_string()),
                    _ => names.push("?".to_owned()),
                }
            }
        }
        names
    }

    /// A new object of a candidate's class, its constructor run.
    pub(super) fn instantiate(&mut self, class: ClassId, args: Args<'a>) -> Value<'a> {
        if self.classes.get(class).is_some_and(|c| c.name == "Model") {
            self.note(Fact::Reference { what: "the class Model is instantiated".to_owned() });
        }
        if let Some(member) = self.listed(class) {
            return member;
        }
        let object = self.object(Origin::Instance);
        let instance = Value::Instance(object, class);
        self.instances.push((object, class));
        if args.has_tensor() && self.library_bases(class).iter().any(|b| b.starts_with("builtins.")) {
            // An exception has what it was made of.
            self.state.set_field(object, Rc::from("args"), Value::List(Rc::new(args.all())));
        }
        match self.member(class, "__init__") {
            Some(Value::Func(init)) => {
                self.call_function(&init, Some(instance.clone()), args);
            }
            _ => self.fill_record(object, class, args),
        }
        instance
    }

    /// Reads `object.name` of a candidate's object.
    pub(super) fn instance_attribute(&mut self, object: ObjId, class: ClassId, name: &str) -> Value<'a> {
        if let Some(value) = self.state.field(object, name).cloned() {
            if self.memory.is_early(object) && !self.state.made.contains(&(object, Rc::from(name))) {
                self.lasting(&value);
            }
            return value;
        }
        let receiver = Value::Instance(object, class);
        if let Some(member) = self.member(class, name) {
            return self.bind_member(member, receiver, name);
        }
        match name {
            "training" => {
                self.note(Fact::Mode { what: "self.training".to_owned() });
                Value::Scalar
            }
            "__class__" => Value::Class(class),
            "saved_tensors" => Value::unknown(),
            _ => match self.torch_module(class) {
                Some(module) => self.attribute(&Value::NnModule(Rc::from(module)), name),
                None => Value::Attr(Rc::new(receiver), Rc::from(name)),
            },
        }
    }

    /// A class member seen through an object.
    pub(super) fn bind_member(&mut self, member: Value<'a>, receiver: Value<'a>, name: &str) -> Value<'a> {
        match member {
            Value::Func(func) => match self.functions[func.id].binding {
                Binding::Plain | Binding::Class => Value::Bound(Rc::new(receiver), func),
                Binding::Static => Value::Func(func),
                Binding::Property => self.call_function(&func, Some(receiver), Args::default()),
            },
            other => self.class_attribute(other, name),
        }
    }

    /// A plain member of a class, or what an earlier call of forward put there.
    pub(super) fn class_attribute(&mut self, member: Value<'a>, name: &str) -> Value<'a> {
        let changed = self.mutable.attributes.get(name).copied();
        match changed {
            Some(name) if self.stage == Stage::Forward => self.kept(&member, Place::Attribute(name)),
            _ => {
                self.lasting(&member);
                member
            }
        }
    }

    /// Calls a special method of a candidate's object, if its class has one.
    pub(super) fn special(&mut self, base: &Value<'a>, name: &str, args: Vec<Value<'a>>) -> Option<Value<'a>> {
        let Value::Instance(_, class) = base else {
            return None;
        };
        match self.member(*class, name)? {
            Value::Func(func) => Some(self.call_function(&func, Some(base.clone()), Args::of(args))),
            other => Some(self.call_value(&other, Args::of(args))),
        }
    }

    /// The modules held in an object's fields.
    pub(super) fn submodules(&mut self, object: ObjId) -> Value<'a> {
        let mut all: Option<Value<'a>> = None;
        let mut fields: Vec<(Rc<str>, Value<'a>)> = self
            .state
            .fields
            .iter()
            .filter(|((of, _), v)| *of == object && !v.is_scalar() && v.tensors().is_empty())
            .map(|((_, name), v)| (Rc::clone(name), v.clone()))
            .collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        for (_, value) in fields {
            all = Some(all.map_or(value.clone(), |a| a.join(&value)));
        }
        all.unwrap_or(Value::unknown())
    }

    /// `super()` inside a method: the receiver is the first parameter of the running function.
    pub(super) fn super_of(&mut self, func: Option<&Func<'a>>) -> Value<'a> {
        let _ = func;
        let frame = self.state.frames.last();
        let receiver =
            frame.and_then(|f| f.get("self").or_else(|| f.values().find(|v| matches!(v, Value::Instance(..)))));
        match receiver {
            Some(Value::Instance(object, class)) => Value::Super(*object, *class),
            _ => Value::unknown(),
        }
    }
}

/// What a decorator does.
enum Applied<'a> {
    Kernel,
    Binding(Binding),
    /// Results are kept between calls.
    Cached,
    /// The same for a property.
    CachedProperty,
    Transparent,
    /// Adds the function to those that a name stands for.
    Dispatched(Value<'a>),
    /// The candidate's own: it is called.
    Own(Value<'a>),
    Unknown(String),
}
