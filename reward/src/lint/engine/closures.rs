//! Names that a function closed over and that were bound anew since: Python reads them when the function runs.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::value::{Env, FuncId};
use super::{Body, Engine};
use crate::lint::bindings::Bindings;

/// Which function lies in which, and what the outer one's names are.
#[derive(Debug, Default)]
pub(super) struct Closures<'a> {
    /// By the inner function.
    pub(super) homes: HashMap<FuncId, FuncId>,
    /// The names of every running call's caller, as they were at the call.
    pub(super) suspended: Vec<Rc<Env<'a>>>,
    /// The names of a function with functions in it, as its last call left them.
    ended: HashMap<FuncId, Rc<Env<'a>>>,
    /// Names that a function binds more than once.
    again: HashMap<FuncId, Rc<HashSet<&'a str>>>,
}

impl<'a> Closures<'a> {
    pub(super) fn end(&mut self, id: FuncId, frame: Option<&Rc<Env<'a>>>) {
        if let Some(frame) = frame
            && self.homes.values().any(|home| *home == id)
        {
            self.ended.insert(id, Rc::clone(frame));
        }
    }
}

impl<'a> Engine<'a> {
    /// Adds to what a function closed over what the function around it has bound since. It is among `running` already.
    pub(super) fn bound_since(&mut self, id: FuncId, names: &mut Env<'a>) {
        let Some(home) = self.closures.homes.get(&id) else {
            return;
        };
        let callers = self.running.len().saturating_sub(1);
        let now = match self.running[..callers].iter().rposition(|running| running == home) {
            Some(at) if at + 1 == callers => self.state.frames.last().cloned(),
            Some(at) => self.closures.suspended.get(at + 1).cloned(),
            None => self.closures.ended.get(home).cloned(),
        };
        let Some(now) = now else {
            return;
        };
        self.budget = self.budget.saturating_sub(now.len() as u32 / 8);
        // A call that has ended may be another one than that which made the function: what it binds only once, it left as it was.
        let home = *home;
        let ended = !self.running[..callers].contains(&home);
        let again = if ended { self.bound_again(home) } else { Rc::default() };
        for (name, value) in now.iter() {
            let once = ended && !again.contains(name);
            match names.get_mut(name) {
                Some(_) if once => {}
                Some(old) if old.same(value) => {}
                Some(old) => *old = old.join(value),
                None => {
                    names.insert(name, value.clone());
                }
            }
        }
    }

    fn bound_again(&mut self, id: FuncId) -> Rc<HashSet<&'a str>> {
        let info = &self.functions[id];
        let (params, body) = (info.params, info.body);
        let again = self.closures.again.entry(id).or_insert_with(|| match (params, body) {
            (Some(params), Body::Block(body)) => {
                let counts = Bindings::of_function(params, body).counts;
                Rc::new(counts.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect())
            }
            _ => Rc::default(),
        });
        Rc::clone(again)
    }
}
