//! What runs on the host around a launch: heuristics, hooks of a configuration, a tuner's own functions. Each is called
//! on the launch's arguments by name, for what it does to them.

use std::rc::Rc;

use super::call::Args;
use super::trace::{Fact, Stage};
use super::value::{ClassId, Env, FuncId, Value};
use super::{ClassInfo, Engine, Origin};

/// Most functions that are run for one launch.
const MAX_HOOKS: usize = 16;
/// The name of the class that stands for a launch's arguments; not a Python name.
const RECORD: &str = "launch arguments";

/// Functions that Triton calls around launches.
#[derive(Debug, Default)]
pub(super) struct Hooks<'a> {
    /// Of every kernel: a configuration may be made anywhere.
    any: Vec<Value<'a>>,
    /// Of one.
    of: Vec<(FuncId, Value<'a>)>,
    /// Given to the decorator that is being evaluated.
    pending: Vec<Value<'a>>,
    /// Of all these, the ones that give a kernel constants.
    giving: Vec<Value<'a>>,
    /// What triton asks for memory.
    pub(super) allocators: Vec<Value<'a>>,
    running: bool,
}

impl<'a> Engine<'a> {
    /// Remembers functions among the arguments of `triton.Config`, `autotune` or `heuristics`.
    pub(super) fn gather_hooks(&mut self, rest: &str, args: &Args<'a>) {
        let mut found = Vec::new();
        args.all().iter().for_each(|v| functions(v, &mut found));
        // Run around launches, if there are any.
        self.reached.extend(found.iter().filter_map(|v| match v {
            Value::Func(func) | Value::Bound(_, func) => Some(func.id),
            _ => None,
        }));
        if rest == "heuristics" {
            self.hooks.giving.extend(found.iter().take(MAX_HOOKS).cloned());
        }
        let constants = args.get(0, "kwargs").filter(|_| rest == "Config").cloned();
        if constants.is_some_and(|v| self.brings_python(&v, 0) || self.has_methods(&v, 0)) {
            self.note(Fact::Inside { what: "what a kernel gets from a configuration".to_owned() });
        }
        let list = if rest == "Config" { &mut self.hooks.any } else { &mut self.hooks.pending };
        for value in found {
            if list.len() < MAX_HOOKS && !list.iter().any(|v| v.same(&value)) {
                list.push(value);
            }
        }
    }

    /// A decorator's expression was evaluated: what it gathered belongs to this kernel, or, without one, to all.
    pub(super) fn hooks_belong_to(&mut self, kernel: Option<FuncId>) {
        for value in std::mem::take(&mut self.hooks.pending) {
            match kernel {
                Some(kernel) => self.hooks.of.push((kernel, value)),
                None if self.hooks.any.len() < MAX_HOOKS => self.hooks.any.push(value),
                None => {}
            }
        }
    }

    /// Runs the functions around a launch. What they write is not kept: only what they were seen to do counts.
    pub(super) fn run_hooks(&mut self, kernel: FuncId, args: &Args<'a>) {
        if self.stage != Stage::Forward || self.hooks.running {
            return;
        }
        self.hooks_belong_to(None);
        let of = self.hooks.of.iter().filter(|(k, _)| *k == kernel).map(|(_, v)| v);
        let hooks: Vec<Value<'a>> = self.hooks.any.iter().chain(of).take(MAX_HOOKS).cloned().collect();
        if hooks.is_empty() {
            return;
        }
        let (line, before) = (self.line, self.fork());
        self.hooks.running = true;
        let names = self.parameter_names(kernel);
        let record = self.launch_record(&names, args);
        for hook in hooks {
            let given = self.hook_arguments(&hook, &names, &record, args);
            let made = self.call_value(&hook, given);
            let gives = self.hooks.giving.iter().any(|v| v.same(&hook));
            if gives && (self.brings_python(&made, 0) || self.has_methods(&made, 0)) {
                self.note(Fact::Inside { what: "what a kernel gets from a heuristic".to_owned() });
            }
            self.state = before.clone();
            // The record lives in the state.
            self.fill_launch_record(&record, &names, args);
        }
        self.hooks.running = false;
        self.state = before;
        self.line = line;
    }

    fn parameter_names(&self, function: FuncId) -> Vec<&'a str> {
        let parameters = self.functions.get(function).and_then(|f| f.params);
        let all = parameters.into_iter().flat_map(|p| p.iter_non_variadic_params());
        all.map(|p| p.parameter.name.id.as_str()).collect()
    }

    fn launch_record(&mut self, names: &[&'a str], args: &Args<'a>) -> Value<'a> {
        let class = self.classes.len();
        let fields = names.iter().map(|n| Rc::from(*n)).collect();
        self.classes.push(ClassInfo { name: RECORD, bases: Vec::new(), members: Env::new(), fields, line: self.line });
        let record = Value::Instance(self.object(Origin::Instance), class);
        self.fill_launch_record(&record, names, args);
        record
    }

    fn fill_launch_record(&mut self, record: &Value<'a>, names: &[&'a str], args: &Args<'a>) {
        if let Value::Instance(object, _) = record {
            for (index, name) in names.iter().enumerate() {
                let value = args.get(index, name).cloned().unwrap_or(Value::Scalar);
                self.state.set_field(*object, Rc::from(*name), value);
            }
        }
    }

    /// `f(args)`, `prune(configs, named_args)`, `model(**named_args)`.
    fn hook_arguments(&self, hook: &Value<'a>, names: &[&'a str], record: &Value<'a>, args: &Args<'a>) -> Args<'a> {
        let (Value::Func(func) | Value::Bound(_, func)) = hook else {
            return Args::of(vec![record.clone()]);
        };
        let own = self.parameter_names(func.id);
        let named = |name: &&&str| names.contains(*name);
        if own.iter().any(|name| named(&name)) {
            let value = |name: &&'a str| {
                let index = names.iter().position(|n| n == name);
                let value = index.and_then(|i| args.get(i, name)).cloned().unwrap_or(Value::Scalar);
                (Some(*name), value)
            };
            return Args { keywords: own.iter().map(value).collect(), ..Args::default() };
        }
        let skipped = usize::from(matches!(hook, Value::Bound(..)));
        let parameters = self.functions.get(func.id).and_then(|f| f.params);
        let required = parameters.map_or(0, |p| p.iter_non_variadic_params().filter(|p| p.default.is_none()).count());
        if required > skipped + 1 {
            Args::of(vec![Value::Bag(Rc::new(Value::unknown())), record.clone()])
        } else {
            Args::of(vec![record.clone()])
        }
    }

    /// The record of a launch's arguments: read by name.
    pub(super) fn is_launch_record(&self, class: ClassId) -> bool {
        self.classes.get(class).is_some_and(|c| c.name == RECORD)
    }
}

/// The functions in a value.
fn functions<'a>(value: &Value<'a>, found: &mut Vec<Value<'a>>) {
    if found.len() >= MAX_HOOKS {
        return;
    }
    match value {
        Value::Func(_) | Value::Bound(..) | Value::Partial(_) => found.push(value.clone()),
        Value::Path(path) if path.starts_with("torch.") => found.push(value.clone()),
        Value::List(values) | Value::Union(values) => values.iter().for_each(|v| functions(v, found)),
        Value::Bag(inner) => functions(inner, found),
        _ => {}
    }
}
