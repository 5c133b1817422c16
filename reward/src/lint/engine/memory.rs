//! What is there from one call of forward to the next, and what its values are told by: numbers an earlier call left,
//! sizes of kept tensors, how full a kept collection is, how far a kept iterator has come.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use ruff_python_ast::Expr;

use super::acts::SAYS;
use super::call::Args;
use super::expr::shown;
use super::machine::is_address;
use super::prepass::Place;
use super::trace::{Fact, Stage};
use super::value::{ObjId, Value};
use super::{Engine, Origin};

/// Methods that move or use up what a collection holds, or make it longer by one.
pub(super) const MOVES: &[&str] = &[
    "append",
    "appendleft",
    "extend",
    "extendleft",
    "insert",
    "remove",
    "discard",
    "rotate",
    "reverse",
    "sort",
    "pop",
    "popleft",
    "popitem",
    "move_to_end",
    "push",
    "put",
    "put_nowait",
    "get_nowait",
    "send",
    "throw",
    "subtract",
    "__delitem__",
    "__iadd__",
    "__imul__",
    "__next__",
];
/// Builtins whose answer tells how many a collection holds, or which come first.
const MEASURES: &[&str] = &[
    "len",
    "sum",
    "any",
    "all",
    "min",
    "max",
    "sorted",
    "list",
    "tuple",
    "set",
    "frozenset",
    "enumerate",
    "zip",
    "reversed",
    "iter",
    "bool",
    "str",
    "repr",
    "next",
    "dict",
    "map",
    "filter",
    "hash",
    "format",
];
/// Builtins that give an iterator.
const ITERATORS: &[&str] = &["iter", "reversed", "zip", "map", "filter", "enumerate"];
/// Of these, the ones that only go through it.
const WALKS: &[&str] = &["enumerate", "zip", "iter", "reversed", "list", "tuple"];
/// Library functions that leave a collection as it is.
pub(super) const READS: &[&str] = &[
    "torch.",
    "triton.",
    "math.",
    "functools.",
    "itertools.",
    "typing.",
    "copy.",
    "collections.",
    "dataclasses.",
    "types.",
    "operator.getitem",
    "operator.itemgetter",
    "operator.contains",
    "operator.eq",
    "operator.ne",
    "operator.mul",
];

/// What outlives a call. Collections are told apart by their address; a copy is held, so that none is used again.
#[derive(Debug, Default)]
pub(super) struct Memory<'a> {
    /// Objects made before forward ran have smaller numbers.
    first: ObjId,
    /// Collections that were there before this call.
    pub(super) lasting: HashMap<usize, Value<'a>>,
    /// Of these, the ones that forward adds to.
    pub(super) growing: HashMap<usize, Value<'a>>,
    /// Of these, lists, whose length no item changes.
    lists: HashSet<usize>,
    /// Collections that this call made.
    pub(super) fresh: HashMap<usize, Value<'a>>,
    /// Tuples that were written as such: nothing changes them.
    tuples: HashMap<usize, Value<'a>>,
    /// Iterators and generators, and whether they were there before this call.
    pub(super) iterators: HashMap<usize, (Value<'a>, bool)>,
    /// Tensors whose sizes come from what an earlier call left.
    pub(super) sized: HashSet<ObjId>,
    /// Constants that forward puts in a place.
    pub(super) constants: HashMap<String, Vec<Value<'a>>>,
    /// Branches around that a number from an earlier call decides.
    pub(super) branches: u32,
    /// Loops around, in the running function, that can end early.
    pub(super) searching: u32,
    /// In a branch that only drops entries of a collection.
    pub(super) dropping: bool,
}

impl Memory<'_> {
    /// Forward begins.
    pub(super) fn forward_from(&mut self, objects: usize) {
        self.first = objects as ObjId;
    }

    /// An object that was made before forward ran.
    pub(super) fn is_early(&self, object: ObjId) -> bool {
        object < self.first
    }
}

/// Where a collection lies.
pub(super) fn address(value: &Value<'_>) -> Option<usize> {
    match value {
        Value::List(items) => Some(Rc::as_ptr(items) as usize),
        Value::Bag(item) => Some(Rc::as_ptr(item) as usize),
        _ => None,
    }
}

impl<'a> Engine<'a> {
    /// Before forward: all that forward itself (or anything but the constructor) changes may hold an earlier call's
    /// value.
    pub(super) fn havoc(&mut self) {
        let mut attributes: Vec<&'a str> =
            self.mutable.attributes.iter().copied().filter(|a| *a != "training").collect();
        attributes.sort_unstable();
        for (object, class) in self.instances.clone() {
            for name in &attributes {
                let place = Place::Attribute(name);
                match self.state.field(object, name).cloned() {
                    Some(old) => {
                        let kept = self.kept(&old, place);
                        self.state.set_field(object, Rc::from(*name), kept);
                    }
                    None if self.member(class, name).is_none() => {
                        let kept = self.kept(&Value::Nothing, place);
                        self.state.set_field(object, Rc::from(*name), kept);
                    }
                    None => {}
                }
            }
        }
        let mut names: Vec<&'a str> = self.mutable.globals.iter().copied().collect();
        names.sort_unstable();
        for name in names {
            if let Some(old) = self.state.frames[0].get(name).cloned() {
                let kept = self.kept(&old, Place::Name(name));
                self.state.bind_global(name, kept);
            }
        }
    }

    /// A value, or what an earlier call replaced it with.
    pub(super) fn kept(&mut self, old: &Value<'a>, place: Place<'a>) -> Value<'a> {
        let scalar = self.mutable.scalars.contains(&place);
        let new = |engine: &mut Self| if scalar { Value::StateScalar } else { engine.fresh(Origin::Kept) };
        match old {
            Value::Bool(_) | Value::Int(_) | Value::Str(_) | Value::Scalar | Value::Size(_) | Value::StateScalar => {
                Value::StateScalar
            }
            old if is_address(old) => Value::StateScalar,
            Value::List(_) | Value::Bag(_) => {
                let kept = new(self);
                let item = match old {
                    Value::List(values) => values.iter().fold(kept, |all, v| all.join(v)),
                    Value::Bag(value) => kept.join(value),
                    _ => kept,
                };
                let now = Value::Bag(Rc::new(item));
                self.state.kin.borrow_mut().unite(&[old, &now]);
                self.grown(old, &now);
                now
            }
            // Which of them it is now, an earlier call may have chosen.
            Value::Instance(..)
            | Value::NnModule(_)
            | Value::Func(_)
            | Value::Class(_)
            | Value::Path(_)
            | Value::Kernels(_)
                if self.mutable.rebound.contains(&place) =>
            {
                old.join(&Value::StateScalar)
            }
            Value::Instance(..)
            | Value::NnModule(_)
            | Value::Func(_)
            | Value::Class(_)
            | Value::Path(_)
            | Value::Kernels(_)
            | Value::KernelDecorator
            | Value::Launcher(_)
            | Value::Super(..) => old.clone(),
            other => {
                let kept = new(self);
                other.join(&kept)
            }
        }
    }

    /// Forward keeps a value for later calls.
    pub(super) fn store(&mut self, place: Place<'a>, value: &Value<'a>) {
        if self.stage != Stage::Forward {
            return;
        }
        if !value.only_numbers() {
            self.stored_tensors.insert(place);
        }
        self.stored.insert(place);
    }

    /// A collection that forward changes is there, in whatever form, when it runs.
    fn grown(&mut self, old: &Value<'a>, now: &Value<'a>) {
        let Some(at) = address(now) else {
            return;
        };
        if address(old).is_some_and(|old| self.memory.iterators.contains_key(&old)) {
            self.memory.iterators.insert(at, (now.clone(), true));
        }
        // A list grows by its methods alone, and those are seen.
        if matches!(old, Value::List(items) if !items.is_empty()) {
            self.memory.lists.insert(at);
        }
        self.memory.growing.insert(at, now.clone());
        self.memory.lasting.insert(at, now.clone());
    }

    /// Writes down that forward counts, if it runs.
    pub(super) fn counts(&mut self, what: impl Into<String>) {
        if self.stage == Stage::Forward {
            self.note(Fact::Keeps { what: what.into(), counts: true });
        }
    }

    /// A collection that was made just now.
    pub(super) fn made_here(&mut self, value: &Value<'a>) {
        if self.stage == Stage::Forward
            && let Some(at) = address(value)
        {
            self.memory.fresh.insert(at, value.clone());
        }
    }

    /// A tuple was made just now.
    pub(super) fn made_tuple(&mut self, value: Value<'a>) -> Value<'a> {
        if let (Value::List(_), Some(at)) = (&value, address(&value)) {
            self.memory.tuples.insert(at, value.clone());
        }
        value
    }

    pub(super) fn is_tuple(&self, value: &Value<'a>) -> bool {
        address(value).is_some_and(|at| self.memory.tuples.contains_key(&at))
    }

    /// A field gets a collection that was made just now, or something else.
    pub(super) fn made_in(&mut self, object: ObjId, name: &str, value: &Value<'a>) {
        if self.stage != Stage::Forward {
            return;
        }
        let field = (object, Rc::from(name));
        let fresh = address(value).is_some_and(|at| self.memory.fresh.contains_key(&at));
        if fresh {
            Rc::make_mut(&mut self.state.made).insert(field);
        } else if self.state.made.contains(&field) {
            Rc::make_mut(&mut self.state.made).remove(&field);
        }
    }

    /// An iterator.
    pub(super) fn iterator(&mut self, value: Value<'a>) -> Value<'a> {
        let value = match value {
            Value::Bag(item) => Value::Bag(Rc::new((*item).clone())),
            Value::List(items) => Value::List(Rc::new((*items).clone())),
            other => return other,
        };
        if let Some(at) = address(&value) {
            let early = self.stage != Stage::Forward;
            self.memory.iterators.insert(at, (value.clone(), early));
        }
        value
    }

    /// A collection with the same things in it.
    pub(super) fn copied(&mut self, value: &Value<'a>) -> Value<'a> {
        let copy = match value {
            Value::Bag(item) => Value::Bag(Rc::new((**item).clone())),
            Value::List(items) => Value::List(Rc::new((**items).clone())),
            other => return other.clone(),
        };
        self.made_here(&copy);
        copy
    }

    /// What `name(..)` gives.
    pub(super) fn builtin_gives(&mut self, name: &str, value: Value<'a>) -> Value<'a> {
        if ITERATORS.contains(&name) { self.iterator(value) } else { value }
    }

    pub(super) fn holds_iterator(&self, value: &Value<'a>) -> bool {
        let is = |v: &Value<'a>| address(v).is_some_and(|at| self.memory.iterators.contains_key(&at));
        is(value)
            || match value {
                Value::List(items) | Value::Union(items) => items.iter().any(is),
                Value::Bag(item) => is(item),
                _ => false,
            }
    }

    /// A value is read while forward runs from a place that was there before.
    pub(super) fn lasting(&mut self, value: &Value<'a>) {
        if self.stage != Stage::Forward {
            return;
        }
        for one in value.each() {
            let one = if let Value::Attr(base, _) = one { base } else { one };
            let Some(at) = address(one) else {
                continue;
            };
            if self.memory.iterators.get(&at).is_some_and(|(_, early)| *early) {
                self.counts("an iterator that is kept");
            }
            if !self.memory.fresh.contains_key(&at) {
                self.memory.lasting.insert(at, one.clone());
            }
        }
    }

    /// A default argument is made once, long before the call.
    pub(super) fn default_lasts(&mut self, value: &Value<'a>) {
        if self.holds_iterator(value) {
            self.counts("an iterator in a default argument");
        }
        if let Some(at) = address(value) {
            self.memory.fresh.remove(&at);
            self.memory.lasting.insert(at, value.clone());
        }
    }

    pub(super) fn outlasts(&self, value: &Value<'a>) -> bool {
        let lasts = |v: &Value<'a>| address(v).is_some_and(|at| self.memory.lasting.contains_key(&at));
        self.stage == Stage::Forward && value.each().iter().any(lasts)
    }

    pub(super) fn grows(&self, value: &Value<'a>) -> bool {
        let grows = |v: &Value<'a>| address(v).is_some_and(|at| self.memory.growing.contains_key(&at));
        self.stage == Stage::Forward && value.each().iter().any(grows)
    }

    /// A changed collection takes the place of another.
    pub(super) fn replaced(&mut self, old: &Value<'a>, new: &Value<'a>) {
        let (Some(from), Some(to)) = (address(old), address(new)) else {
            return;
        };
        if self.memory.lists.contains(&from) {
            self.memory.lists.insert(to);
        }
        for known in [&mut self.memory.lasting, &mut self.memory.growing, &mut self.memory.fresh] {
            if known.contains_key(&from) {
                known.insert(to, new.clone());
            }
        }
    }

    /// A method of a collection is called.
    pub(super) fn changes(&mut self, place: &Expr, base: &Value<'a>, name: &str) {
        // What an earlier call left is more likely a list than a tensor where it is treated as one.
        let list =
            matches!(name, "append" | "appendleft" | "extend" | "insert" | "pop" | "popleft" | "popitem" | "remove");
        let outlasts = self.outlasts(base) || list && self.is_kept(base);
        if !outlasts || self.memory.dropping && matches!(name, "pop" | "popitem") {
            return;
        }
        if name == "get" {
            self.searched(base);
        }
        if MOVES.contains(&name) || matches!(name, "count" | "index" | "__len__") && self.grows(base) {
            self.counts(format!("{} by .{name}", shown(place)));
        }
    }

    /// `del c[k]`, `c[a:b] = ..`, `c += ..`
    pub(super) fn changes_by(&mut self, place: &Expr, base: &Value<'a>, how: &str) {
        if self.outlasts(base) && !self.memory.dropping {
            self.counts(format!("{} by {how}", shown(place)));
        }
    }

    /// Something is asked of a collection that tells how full it is.
    pub(super) fn measured(&mut self, value: &Value<'a>) {
        if self.grows(value) && !self.evicting && !self.memory.dropping {
            self.counts("the length of something that forward adds to");
        }
    }

    /// Something is gone through: the same, but for a list.
    pub(super) fn walked(&mut self, value: &Value<'a>) {
        if !address(value).is_some_and(|at| self.memory.lists.contains(&at)) {
            self.measured(value);
        }
    }

    /// A library function gets these arguments.
    pub(super) fn handed_to(&mut self, path: &str, args: &Args<'a>) {
        if self.stage != Stage::Forward {
            return;
        }
        let (root, rest) = path.split_once('.').unwrap_or((path, ""));
        if root == "builtins" && !rest.contains('.') {
            if MEASURES.contains(&rest) {
                let walks = WALKS.contains(&rest);
                args.all().iter().for_each(|v| if walks { self.walked(v) } else { self.measured(v) });
            }
            return;
        }
        let setting = root == "warnings" && rest != "warn"
            || root == "logging"
                && rest.starts_with(|c: char| c.is_lowercase())
                && !SAYS.contains(&rest)
                && rest != "getLogger";
        if setting {
            self.counts(format!("a setting, by {path}"));
        }
        if !READS.iter().any(|p| path.starts_with(p)) && args.all().iter().any(|v| self.outlasts(v)) {
            self.counts(format!("a collection, by {path}"));
        }
    }
}
