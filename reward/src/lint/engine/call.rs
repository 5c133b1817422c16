//! Calls: of the candidate's functions, methods, classes and kernels; everything else goes to the library's tables.

use std::rc::Rc;

use ruff_python_ast::{Arguments, Expr, ExprCall};

use super::machine::MOVERS;
use super::prepass::Place;
use super::state::State;
use super::text::TEXTS;
use super::trace::{Fact, How, Stage};
use super::value::{Env, Func, Value};
use super::{Binding, Body, Engine, MAX_CALLS, MAX_RECURSION};

/// Evaluated arguments of a call.
#[derive(Clone, Debug, Default)]
pub struct Args<'a> {
    pub positional: Vec<Value<'a>>,
    pub keywords: Vec<(Option<&'a str>, Value<'a>)>,
    /// Values of `*args` whose number is not known: join of what any further parameter may be.
    pub rest: Option<Value<'a>>,
}

impl<'a> Args<'a> {
    /// Positional arguments only.
    pub fn of(positional: Vec<Value<'a>>) -> Self {
        Args { positional, ..Args::default() }
    }

    /// Nothing is known of the arguments.
    pub fn opaque() -> Self {
        Args { rest: Some(Value::unknown()), ..Args::default() }
    }

    /// All argument values.
    pub fn all(&self) -> Vec<Value<'a>> {
        let keywords = self.keywords.iter().map(|(_, v)| v.clone());
        self.positional.iter().cloned().chain(keywords).chain(self.rest.clone()).collect()
    }

    /// By position or name.
    pub fn get(&self, position: usize, name: &str) -> Option<&Value<'a>> {
        let named = || self.keywords.iter().find(|(k, _)| *k == Some(name)).map(|(_, v)| v);
        self.positional.get(position).or_else(named)
    }

    /// Some argument is or hides a tensor.
    pub fn has_tensor(&self) -> bool {
        self.all().iter().any(|v| !v.all_tensors().is_empty())
    }
}

impl<'a> Engine<'a> {
    pub(super) fn arguments(&mut self, arguments: &'a Arguments) -> Args<'a> {
        let mut args = Args::default();
        for arg in &arguments.args {
            match arg {
                Expr::Starred(s) => match self.eval(&s.value) {
                    Value::List(items) if args.rest.is_none() => args.positional.extend(items.iter().cloned()),
                    other => {
                        self.measured(&other);
                        let item = self.element(&other);
                        args.rest = Some(args.rest.take().map_or(item.clone(), |r| r.join(&item)));
                    }
                },
                other => {
                    let value = self.eval(other);
                    match &args.rest {
                        None => args.positional.push(value),
                        Some(rest) => args.rest = Some(rest.join(&value)),
                    }
                }
            }
        }
        for keyword in &arguments.keywords {
            let value = self.eval(&keyword.value);
            match &keyword.arg {
                Some(name) => args.keywords.push((Some(name.id.as_str()), value)),
                None => {
                    self.special(&value, "keys", Vec::new());
                    let item = self.element(&value);
                    args.rest = Some(args.rest.take().map_or(item.clone(), |r| r.join(&item)));
                }
            }
        }
        args
    }

    pub(super) fn call(&mut self, call: &'a ExprCall) -> Value<'a> {
        let line = self.line;
        let callee = self.eval(&call.func);
        let args = self.arguments(&call.arguments);
        self.line = line;
        if let (Value::Path(path), Some(first)) = (&callee, call.arguments.args.first()) {
            match &**path {
                "builtins.next" => self.advances(first),
                "builtins.len" => self.measures(first),
                _ => {}
            }
        }
        // A method that changes a collection changes the place it was read from.
        if let (Value::Attr(base, name), Expr::Attribute(place)) = (&callee, &*call.func)
            && matches!(**base, Value::List(_) | Value::Bag(_))
            && place.attr.id.as_str() == &**name
            && !TEXTS.contains(&&**name)
        {
            if !MOVERS.contains(&&**name) {
                self.address_given(name, &args.all());
            }
            return self.collection_method(&place.value, base, name, &args);
        }
        for one in callee.each() {
            if let Value::Attr(base, name) = one {
                // Bound to its collection before, or one of several things.
                self.changes(&call.func, base, name);
            }
        }
        if let (Value::Union(values), Expr::Attribute(place)) = (&callee, &*call.func)
            && values.iter().any(|v| matches!(v, Value::StateScalar))
            && super::memory::MOVES.contains(&place.attr.id.as_str())
        {
            self.counts(super::expr::shown(&call.func));
        }
        if let (Value::Attr(base, name), Expr::Attribute(place)) = (&callee, &*call.func) {
            self.acts_on(&place.value, base, name, false);
        }
        self.call_value(&callee, args)
    }

    /// A call as a statement: what it gives is dropped, so it does something.
    pub(super) fn acts(&mut self, call: &'a ExprCall) {
        if let Expr::Attribute(place) = &*call.func
            && self.stage == Stage::Forward
            && !place.value.is_call_expr()
        {
            let base = self.quiet(&place.value);
            self.acts_on(&place.value, &base, place.attr.id.as_str(), true);
        }
    }

    /// `next(self.it)`: an iterator that outlives the call is a counter.
    fn advances(&mut self, iterator: &'a Expr) {
        if self.outlives(iterator) {
            self.note(Fact::Keeps { what: super::expr::shown(iterator), counts: true });
        }
    }

    /// While forward runs: a place that is there in the next call.
    pub(super) fn outlives(&self, place: &Expr) -> bool {
        let kept = match place {
            Expr::Attribute(_) | Expr::Subscript(_) => true,
            Expr::Name(n) => !self.state.frames.last().is_some_and(|f| f.contains_key(n.id.as_str())),
            _ => false,
        };
        kept && self.stage == Stage::Forward
    }

    /// `len(self.seen)` of something that forward adds to.
    fn measures(&mut self, collection: &'a Expr) {
        let grows = match super::prepass::place_of(collection) {
            Some(Place::Attribute(name)) => self.mutable.attributes.contains(name),
            Some(Place::Name(name)) => self.mutable.globals.contains(name),
            None => false,
        };
        let direct = matches!(collection, Expr::Attribute(_) | Expr::Name(_));
        if direct && grows && !self.evicting && !self.memory.dropping && self.outlives(collection) {
            self.note(Fact::Keeps { what: format!("the length of {}", super::expr::shown(collection)), counts: true });
        }
    }

    pub(super) fn call_value(&mut self, callee: &Value<'a>, args: Args<'a>) -> Value<'a> {
        if !self.step() {
            return Value::unknown();
        }
        match callee {
            Value::Func(func) => self.call_function(func, None, args),
            Value::Bound(receiver, func) => self.call_function(func, Some((**receiver).clone()), args),
            Value::Class(class) => self.instantiate(*class, args),
            Value::Instance(object, class) => self.call_instance(*object, *class, args),
            Value::Launcher(kernels) => {
                self.launch(kernels, &args);
                Value::Nothing
            }
            Value::Kernels(_) => {
                if args.has_tensor() && self.stage == Stage::Forward {
                    self.note(Fact::Opaque { what: "a kernel is called without a grid".to_owned() });
                }
                Value::unknown()
            }
            Value::KernelDecorator => match args.positional.first() {
                Some(Value::Func(func)) => {
                    self.defined.push(func.id);
                    Value::Kernels(Rc::from([func.id]))
                }
                Some(kernels @ Value::Kernels(_)) => kernels.clone(),
                _ => Value::KernelDecorator,
            },
            Value::Partial(partial) => {
                let mut all = Args::of(partial.args.clone());
                all.keywords.clone_from(&partial.keywords);
                all.positional.extend(args.positional);
                all.keywords.extend(args.keywords);
                all.rest = args.rest;
                self.call_value(&partial.callee, all)
            }
            Value::NnModule(class) => self.call_module(class, &args),
            Value::List(items) => {
                // nn.Sequential
                let mut value = args.positional.first().cloned().unwrap_or(Value::unknown());
                for item in items.iter() {
                    value = self.call_value(item, Args::of(vec![value]));
                }
                value
            }
            Value::Bag(item) => self.call_value(item, args),
            Value::Attr(base, name) => self.call_attribute(base, name, args),
            Value::Path(path) => self.call_path(path, args),
            Value::Union(values) => {
                let before = self.fork();
                let mut result: Option<Value<'a>> = None;
                let mut after: Option<State<'a>> = None;
                // Beside something that can be called, a number stands for which of them an earlier call left.
                let number = |v: &&Value<'a>| matches!(v, Value::Nothing | Value::StateScalar);
                for value in values.iter().filter(|v| !number(v)) {
                    self.state = before.clone();
                    let one = self.call_value(value, args.clone());
                    // One that only raises adds nothing.
                    if self.state.alive {
                        result = Some(result.map_or(one.clone(), |r| r.join(&one)));
                    }
                    let done = std::mem::take(&mut self.state);
                    after = Some(match after.take() {
                        Some(other) => other.join(done),
                        None => done,
                    });
                }
                self.state = after.unwrap_or(before);
                let result = result.unwrap_or(Value::unknown());
                let chosen = values.iter().any(|v| matches!(v, Value::StateScalar));
                if chosen && result.all_tensors().is_empty() { result.join(&Value::StateScalar) } else { result }
            }
            // `torch.no_grad()(f)` is f.
            Value::Scalar if matches!(args.positional.as_slice(), [Value::Func(_) | Value::Bound(..)]) => {
                args.positional[0].clone()
            }
            Value::Tensor(_) => self.opaque_call("a tensor is called", &args),
            other if other.is_scalar() && !args.has_tensor() => {
                self.remember(&super::callbacks::functions_among(&args.all()));
                self.callbacks(&args);
                let state = self.is_state(other) || self.any_state(&args);
                self.tainted(state, Value::Scalar)
            }
            _ => self.opaque_call("a call of something unknown", &args),
        }
    }

    /// Reports a call that is not understood when it touches tensors.
    pub(super) fn opaque(&mut self, what: &str, args: &Args<'a>) -> Value<'a> {
        let ids =
            args.all().iter().fold(super::value::no_ids(), |ids, v| super::value::merge_ids(&ids, &v.all_tensors()));
        if self.stage == Stage::Forward && !ids.is_empty() {
            self.note(Fact::Opaque { what: what.to_owned() });
        }
        self.callbacks(args);
        if ids.is_empty() && self.any_state(args) {
            return Value::StateScalar;
        }
        Value::Unknown(ids)
    }

    /// The same where what is called may be anything.
    fn opaque_call(&mut self, what: &str, args: &Args<'a>) -> Value<'a> {
        if self.stage == Stage::Forward && args.has_tensor() {
            self.note(Fact::OpaqueCall { what: what.to_owned() });
        }
        self.opaque(what, args)
    }

    fn call_module(&mut self, class: &Rc<str>, args: &Args<'a>) -> Value<'a> {
        if &**class == "torch.nn.Identity" {
            return args.positional.first().cloned().unwrap_or(Value::unknown());
        }
        self.compute(How::Module(class.to_string()), &args.all())
    }

    fn call_instance(&mut self, object: u32, class: usize, args: Args<'a>) -> Value<'a> {
        let receiver = Value::Instance(object, class);
        let is_module = self.descends(class, "torch.nn.Module");
        let method = match self.member(class, "__call__") {
            None if is_module || self.torch_module(class).is_some() => {
                self.state.field(object, "forward").cloned().or_else(|| self.member(class, "forward"))
            }
            found => found,
        };
        match method {
            Some(Value::Func(func)) => self.call_function(&func, Some(receiver), args),
            Some(other) => self.call_value(&other, args),
            None => match self.torch_module(class) {
                Some(module) => self.call_module(&Rc::from(module), &args),
                None => self.opaque("a call of an object without forward", &args),
            },
        }
    }

    /// Runs a function of the candidate; the result joins all its returns.
    pub(super) fn call_function(&mut self, func: &Func<'a>, receiver: Option<Value<'a>>, args: Args<'a>) -> Value<'a> {
        if self.returns.len() >= MAX_CALLS {
            return self.opaque("calls nested too deeply to follow", &args);
        }
        if self.running.iter().filter(|id| **id == func.id).count() >= MAX_RECURSION {
            // What a recursion returns is what its other ways return.
            self.state.alive = false;
            return Value::unknown();
        }
        // What calls itself is a loop, too.
        let again = u32::from(self.running.contains(&func.id));
        self.turns += again;
        self.running.push(func.id);
        self.reached.insert(func.id);
        self.yields.push(None);
        let before = Rc::clone(&self.state.objects);
        let info = self.functions[func.id].clone();
        let mut positional: Vec<Value<'a>> = receiver.into_iter().collect();
        positional.extend(args.positional);
        let args = Args { positional, ..args };
        let frame = self.bind_parameters(&info.params, args);
        let line = self.line;
        // What the function closed over lies under its own names.
        let mut names = func.closure.as_ref().map(|c| c.as_ref().clone()).unwrap_or_default();
        if let (true, Some(node)) = (func.closure.is_some(), info.node)
            && node.decorator_list.is_empty()
        {
            // It was closed over before it had its name.
            names.entry(info.name).or_insert_with(|| Value::Func(func.clone()));
        }
        self.budget = self.budget.saturating_sub(names.len() as u32 / 8);
        self.bound_since(func.id, &mut names);
        if func.early && self.stage == Stage::Forward {
            let closed: Vec<Value<'a>> =
                names.values().filter(|v| matches!(v, Value::List(_) | Value::Bag(_))).cloned().collect();
            closed.iter().for_each(|v| self.lasting(v));
            let changed: Vec<&'a str> =
                self.mutable.globals.iter().copied().filter(|n| names.contains_key(n)).collect();
            for name in changed {
                let kept = self.kept(&names[name].clone(), Place::Name(name));
                names.insert(name, kept);
            }
        }
        let depth = self.state.frames.len();
        let given = frame.values().any(|v| matches!(v, Value::Tensor(_)));
        names.extend(frame);
        let saved = std::mem::take(&mut self.state.frames);
        self.closures.suspended.push(saved.last().cloned().unwrap_or_default());
        self.state.frames.push(Rc::clone(&saved[0]));
        self.state.frames.push(Rc::new(names));
        self.returns.push(Vec::new());
        self.globals.push(Default::default());
        self.nonlocals.push(Default::default());
        self.changes.push(Default::default());
        let loops = std::mem::take(&mut self.loops);
        let searching = std::mem::take(&mut self.memory.searching);
        let (empty, hollow) = (self.state.empty, self.state.hollow);
        let owner = std::mem::replace(&mut self.owner, info.owner);
        match info.body {
            Body::Block(body) => self.block(body),
            Body::Expr(expr) => {
                let value = self.eval(expr);
                self.leave(value);
            }
        }
        if self.state.alive {
            // Who leaves in the loop that always runs says no more after it.
            let last = std::mem::take(&mut self.state.passed) && self.returns.len() == self.entry;
            if !last {
                self.leave(Value::Nothing);
            }
        }
        self.loops = loops;
        self.memory.searching = searching;
        self.owner = owner;
        self.running.pop();
        self.closures.suspended.pop();
        self.turns = self.turns.saturating_sub(again);
        self.globals.pop();
        let nonlocals = self.nonlocals.pop().unwrap_or_default();
        let mut result: Option<Value<'a>> = None;
        let mut joined: Option<State<'a>> = None;
        for (value, state) in self.returns.pop().unwrap_or_default() {
            result = Some(match result {
                Some(r) => r.join(&value),
                None => value,
            });
            joined = Some(match joined.take() {
                Some(other) => other.join(state),
                None => state,
            });
        }
        self.state = joined.unwrap_or_else(|| State { alive: false, ..std::mem::take(&mut self.state) });
        let escaped: Vec<(&'a str, Value<'a>)> = nonlocals
            .into_iter()
            .filter_map(|name| Some((name, self.state.frames.last()?.get(name)?.clone())))
            .collect();
        // The caller's frames come back; the module's may have changed.
        let module = self.state.frames.first().cloned();
        self.closures.end(func.id, self.state.frames.last());
        self.state.frames = saved;
        if let (Some(module), Some(first)) = (module, self.state.frames.first_mut()) {
            *first = module;
        }
        debug_assert_eq!(self.state.frames.len(), depth);
        let changes = self.changes.pop().unwrap_or_default();
        self.show_changes(changes);
        for (name, value) in escaped {
            if depth > 1 && self.state.frames.last().is_some_and(|f| f.contains_key(name)) {
                self.state.bind(name, value);
            }
        }
        (self.state.empty, self.state.hollow) = (empty, hollow);
        self.line = line;
        let mut result = result.unwrap_or(Value::unknown());
        if let Some(Some(item)) = self.yields.pop() {
            // A generator: nothing of it runs before somebody asks.
            self.state.alive = true;
            self.unwrite(&before);
            result = self.iterator(Value::Bag(Rc::new(item)));
        }
        let parameters =
            info.binding == Binding::Property && result.all_tensors().iter().all(|id| *id == self.parameter);
        let tensors = !result.all_tensors().is_empty() && !parameters;
        if info.cached && self.stage == Stage::Forward && (given || tensors) {
            self.note(Fact::Cached { what: info.name.to_owned() });
        }
        result
    }

    fn bind_parameters(&mut self, params: &Option<&'a ruff_python_ast::Parameters>, args: Args<'a>) -> Env<'a> {
        let mut frame = Env::new();
        let Some(params) = params else {
            return frame;
        };
        let mut positional = args.positional.into_iter();
        let mut keywords = args.keywords;
        for (index, parameter) in params.posonlyargs.iter().chain(&params.args).chain(&params.kwonlyargs).enumerate() {
            let name = parameter.parameter.name.id.as_str();
            let takes_position = index < params.posonlyargs.len() + params.args.len();
            let value = if takes_position { positional.next() } else { None };
            let value = value.or_else(|| {
                let at = keywords.iter().position(|(k, _)| *k == Some(name))?;
                Some(keywords.swap_remove(at).1)
            });
            let default = parameter.default.as_deref();
            let value = match (value, &args.rest, default) {
                (Some(value), _, _) => value,
                (None, Some(rest), None) => rest.clone(),
                (None, Some(rest), Some(default)) => self.eval(default).join(rest),
                (None, None, Some(default)) => {
                    let value = self.eval(default);
                    // A default collection lives on between calls.
                    let collection = matches!(value, Value::List(_) | Value::Bag(_));
                    if collection && self.stage == Stage::Forward {
                        self.default_lasts(&value);
                    }
                    if collection && self.stage == Stage::Forward && self.mutable.globals.contains(name) {
                        self.kept(&value, Place::Name(name))
                    } else {
                        value
                    }
                }
                (None, None, None) => Value::unknown(),
            };
            frame.insert(name, value.bounded());
        }
        if let Some(vararg) = &params.vararg {
            let mut rest: Vec<Value<'a>> = positional.collect();
            let value = match args.rest.clone() {
                None => self.made_tuple(Value::List(Rc::new(rest))),
                Some(more) => {
                    rest.push(more);
                    Value::Bag(Rc::new(rest.iter().skip(1).fold(rest[0].clone(), |all, v| all.join(v))))
                }
            };
            frame.insert(vararg.name.id.as_str(), value.bounded());
        }
        if let Some(kwarg) = &params.kwarg {
            let mut all = args.rest.clone();
            for (_, value) in keywords {
                all = Some(all.map_or(value.clone(), |a| a.join(&value)));
            }
            frame.insert(kwarg.name.id.as_str(), Value::Bag(Rc::new(all.unwrap_or(Value::unknown()))));
        }
        frame
    }
}
