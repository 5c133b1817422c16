//! Lists, dicts and sets under several names: what one name changes, all of them show.
//!
//! Values are copied by reference, so two names for one collection hold the same address. A change makes a new value; the two
//! addresses are kin from then on, as are those of collections that met after a branch.

use std::collections::HashMap;
use std::rc::Rc;

use super::Engine;
use super::call::Args;
use super::memory::{READS, address};
use super::value::{Env, Func, Partial, Value};

/// Deepest nesting in which a changed collection is looked for.
const MAX_DEPTH: u32 = 6;

/// Which addresses may be one collection.
#[derive(Debug, Default)]
pub struct Kin<'a> {
    parents: HashMap<usize, usize>,
    /// A copy of each, so that no address is used again.
    held: HashMap<usize, Value<'a>>,
}

impl<'a> Kin<'a> {
    fn root(&self, mut at: usize) -> usize {
        while let Some(parent) = self.parents.get(&at) {
            at = *parent;
        }
        at
    }

    /// The collections among these alternatives may be one.
    pub fn unite(&mut self, values: &[&Value<'a>]) {
        let mut first = None;
        for value in values.iter().flat_map(|v| v.each()) {
            let Some(at) = address(value) else {
                continue;
            };
            self.held.entry(at).or_insert_with(|| value.clone());
            let root = self.root(at);
            match first {
                None => first = Some(root),
                Some(first) if first != root => {
                    self.parents.insert(root, first);
                }
                Some(_) => {}
            }
        }
    }
}

/// What took the place of collections, by their kin.
pub(super) type Changes<'a> = HashMap<usize, Value<'a>>;

impl<'a> Engine<'a> {
    /// Either of two: where they are collections, what is done to the result is perhaps done to each.
    pub(super) fn meet(&mut self, a: &Value<'a>, b: &Value<'a>) -> Value<'a> {
        let both = a.join(b);
        self.state.kin.borrow_mut().unite(&[a, b, &both]);
        both
    }

    /// A collection was changed: every name for it shows that, those of the running calls too.
    pub(super) fn changed(&mut self, old: &Value<'a>, new: &Value<'a>) {
        self.state.kin.borrow_mut().unite(&[old, new]);
        let Some(at) = old.each().iter().find_map(address) else {
            return;
        };
        let root = self.state.kin.borrow().root(at);
        let changes = Changes::from([(root, new.clone())]);
        for frame in 0..self.state.frames.len() {
            let mut names = Rc::clone(&self.state.frames[frame]);
            if self.show(&mut names, &changes) {
                self.state.frames[frame] = names;
            }
        }
        let fields = Rc::clone(&self.state.fields);
        for (key, value) in fields.iter() {
            if let Some(value) = self.shown_in(value, &changes, 0) {
                self.state.set_field(key.0, Rc::clone(&key.1), value);
            }
        }
        for class in 0..self.classes.len() {
            let mut members = Rc::new(std::mem::take(&mut self.classes[class].members));
            self.show(&mut members, &changes);
            self.classes[class].members = Rc::unwrap_or_clone(members);
        }
        for outer in 0..self.closures.suspended.len() {
            let mut names = Rc::clone(&self.closures.suspended[outer]);
            if self.show(&mut names, &changes) {
                self.closures.suspended[outer] = names;
            }
        }
        if let Some(running) = self.changes.last_mut() {
            let all = running.entry(root).or_insert_with(|| new.clone());
            *all = all.join(new);
        }
    }

    /// A library function may do with collections what it likes, unless it is known to leave them as they are.
    pub(super) fn given_away(&mut self, path: &str, args: &Args<'a>) {
        let known = ["builtins.", "operator."].iter().chain(READS).any(|p| path.starts_with(p));
        // `collections.deque.append(q, v)`
        let known = known && path.strip_prefix("collections.").is_none_or(|rest| !rest.contains('.'));
        for value in args.all().iter().filter(|_| !known) {
            if matches!(value, Value::List(_) | Value::Bag(_)) && !self.is_tuple(value) {
                let any = Value::Bag(Rc::new(Value::Unknown(value.all_tensors())));
                self.replaced(value, &any);
                self.changed(value, &any);
            }
        }
    }

    /// A call is over: its caller's names show what it changed.
    pub(super) fn show_changes(&mut self, changes: Changes<'a>) {
        if changes.is_empty() {
            return;
        }
        for frame in 1..self.state.frames.len() {
            let mut names = Rc::clone(&self.state.frames[frame]);
            if self.show(&mut names, &changes) {
                self.state.frames[frame] = names;
            }
        }
        if let Some(outer) = self.changes.last_mut() {
            for (root, value) in changes {
                let all = outer.entry(root).or_insert_with(|| value.clone());
                *all = all.join(&value);
            }
        }
    }

    fn show(&mut self, names: &mut Rc<Env<'a>>, changes: &Changes<'a>) -> bool {
        let before = Rc::clone(names);
        let mut any = false;
        for (name, value) in before.iter() {
            if let Some(value) = self.shown_in(value, changes, 0) {
                Rc::make_mut(names).insert(name, value);
                any = true;
            }
        }
        any
    }

    /// The value with changed collections in place of what they were, if there are any in it.
    fn shown_in(&mut self, value: &Value<'a>, changes: &Changes<'a>, depth: u32) -> Option<Value<'a>> {
        if depth > MAX_DEPTH || self.budget == 0 {
            return None;
        }
        let holds = match value {
            Value::List(items) | Value::Union(items) => items.len(),
            Value::Func(func) => func.closure.as_ref().map_or(0, |c| c.len()),
            Value::Bag(_) | Value::Attr(..) | Value::Bound(..) | Value::Partial(_) => 1,
            _ => return None,
        };
        self.spent += holds as u32 + 1;
        if self.spent >= 16 {
            self.budget = self.budget.saturating_sub(self.spent / 16);
            self.spent %= 16;
        }
        if let Some(at) = address(value) {
            let root = self.state.kin.borrow().root(at);
            let new = changes.get(&root).or_else(|| {
                let kin = self.state.kin.borrow();
                changes.iter().find(|(old, _)| kin.root(**old) == root).map(|(_, new)| new)
            });
            if let Some(new) = new {
                if address(new) == Some(at) {
                    return None;
                }
                // One that is kin only perhaps may also be what it was.
                let shown = if value.same(new) { new.clone() } else { new.join(value) };
                self.state.kin.borrow_mut().unite(&[value, &shown]);
                return Some(shown);
            }
        }
        let depth = depth + 1;
        let made = match value {
            Value::List(items) => Value::List(Rc::new(self.all_shown(items, changes, depth)?)),
            Value::Union(items) => {
                let items = self.all_shown(items, changes, depth)?;
                return items.into_iter().reduce(|all, v| all.join(&v));
            }
            Value::Bag(item) => Value::Bag(Rc::new(self.shown_in(item, changes, depth)?)),
            Value::Attr(base, name) => Value::Attr(Rc::new(self.shown_in(base, changes, depth)?), Rc::clone(name)),
            Value::Bound(base, func) => Value::Bound(Rc::new(self.shown_in(base, changes, depth)?), func.clone()),
            Value::Func(func) => {
                let mut closure = func.closure.clone()?;
                let before = Rc::clone(&closure);
                for (name, value) in before.iter() {
                    if let Some(value) = self.shown_in(value, changes, depth) {
                        Rc::make_mut(&mut closure).insert(name, value);
                    }
                }
                if Rc::ptr_eq(&before, &closure) {
                    return None;
                }
                Value::Func(Func { closure: Some(closure), ..func.clone() })
            }
            Value::Partial(partial) => {
                let args = self.all_shown(&partial.args, changes, depth);
                let callee = self.shown_in(&partial.callee, changes, depth);
                if args.is_none() && callee.is_none() {
                    return None;
                }
                Value::Partial(Rc::new(Partial {
                    callee: callee.unwrap_or_else(|| partial.callee.clone()),
                    args: args.unwrap_or_else(|| partial.args.clone()),
                    keywords: partial.keywords.clone(),
                }))
            }
            _ => return None,
        };
        self.replaced(value, &made);
        self.state.kin.borrow_mut().unite(&[value, &made]);
        Some(made.bounded())
    }

    fn all_shown(&mut self, items: &[Value<'a>], changes: &Changes<'a>, depth: u32) -> Option<Vec<Value<'a>>> {
        let shown: Vec<Option<Value<'a>>> = items.iter().map(|v| self.shown_in(v, changes, depth)).collect();
        if shown.iter().all(Option::is_none) {
            return None;
        }
        Some(shown.into_iter().zip(items).map(|(new, old)| new.unwrap_or_else(|| old.clone())).collect())
    }
}
