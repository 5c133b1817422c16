//! The abstract machine state along one path, and the join of two paths.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use super::aliases::Kin;
use super::value::{Env, ObjId, Value};

/// What kernels have done to a tensor on every way to this point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Written {
    /// Not written by a kernel.
    No,
    /// Written by kernels that load no data that comes from an input.
    Constant,
    /// Written by a kernel from data.
    Data,
    /// Made by torch.empty and the like, and not written on a way that is taken only where a parameter has no elements: such
    /// a way has nothing to say of what the others write.
    Spared,
}

/// Frame 0 is the module's; the last one belongs to the running function.
#[derive(Clone, Debug)]
pub struct State<'a> {
    pub frames: Vec<Rc<Env<'a>>>,
    pub fields: Rc<HashMap<(ObjId, Rc<str>), Value<'a>>>,
    /// Every object that exists on this path.
    pub objects: Rc<BTreeMap<ObjId, Written>>,
    /// Fields that hold a collection made in this call of forward.
    pub made: Rc<HashSet<(ObjId, Rc<str>)>>,
    /// Which collections may be the same one, on any path.
    pub kin: Rc<RefCell<Kin<'a>>>,
    /// False after return, raise, break and continue.
    pub alive: bool,
    /// On a path that is taken only for tensors without elements.
    pub empty: bool,
    /// Past a loop whose body always leaves: it had nothing to go through.
    pub passed: bool,
    /// As `empty`, but the tensor may be a parameter, and those the candidate makes.
    pub hollow: bool,
}

impl Default for State<'_> {
    fn default() -> Self {
        State {
            frames: vec![Rc::new(Env::new())],
            fields: Rc::new(HashMap::new()),
            objects: Rc::new(BTreeMap::new()),
            made: Rc::new(HashSet::new()),
            kin: Rc::default(),
            alive: true,
            empty: false,
            hollow: false,
            passed: false,
        }
    }
}

impl<'a> State<'a> {
    /// An empty module about to run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds a name in the running frame.
    pub fn bind(&mut self, name: &'a str, value: Value<'a>) {
        if let Some(frame) = self.frames.last_mut() {
            Rc::make_mut(frame).insert(name, value);
        }
    }

    /// Takes a name from the running frame.
    pub fn unbind(&mut self, name: &str) {
        if let Some(frame) = self.frames.last_mut() {
            Rc::make_mut(frame).remove(name);
        }
    }

    /// Binds a name in the module.
    pub fn bind_global(&mut self, name: &'a str, value: Value<'a>) {
        if let Some(frame) = self.frames.first_mut() {
            Rc::make_mut(frame).insert(name, value);
        }
    }

    pub fn set_field(&mut self, object: ObjId, name: Rc<str>, value: Value<'a>) {
        Rc::make_mut(&mut self.fields).insert((object, name), value);
    }

    pub fn field(&self, object: ObjId, name: &str) -> Option<&Value<'a>> {
        self.fields.get(&(object, Rc::from(name)))
    }

    pub fn written(&self, object: ObjId) -> Written {
        self.objects.get(&object).copied().unwrap_or(Written::No)
    }

    pub fn set_written(&mut self, object: ObjId, written: Written) {
        Rc::make_mut(&mut self.objects).insert(object, written);
    }

    /// The state after two ways met. An object that one way never made is judged by the other way alone.
    pub fn join(self, other: State<'a>) -> State<'a> {
        if !self.alive {
            return other;
        }
        if !other.alive {
            return self;
        }
        let mut joined = self;
        joined.frames.truncate(other.frames.len());
        for (mine, theirs) in joined.frames.iter_mut().zip(&other.frames) {
            if !Rc::ptr_eq(mine, theirs) {
                join_maps(Rc::make_mut(mine), theirs, &joined.kin);
            }
        }
        if !Rc::ptr_eq(&joined.fields, &other.fields) {
            join_maps(Rc::make_mut(&mut joined.fields), &other.fields, &joined.kin);
        }
        if joined.empty != other.empty {
            // A path for tensors without elements has nothing to write.
            if joined.empty {
                joined.objects = other.objects;
            }
        } else if !Rc::ptr_eq(&joined.objects, &other.objects) {
            let mine = Rc::make_mut(&mut joined.objects);
            for (id, written) in other.objects.iter() {
                mine.entry(*id).and_modify(|w| *w = (*w).min(*written)).or_insert(*written);
            }
        }
        if !Rc::ptr_eq(&joined.made, &other.made) {
            Rc::make_mut(&mut joined.made).retain(|field| other.made.contains(field));
        }
        joined.empty &= other.empty;
        joined.hollow &= other.hollow;
        joined.passed &= other.passed;
        joined
    }
}

fn join_maps<'a, K: Clone + Eq + std::hash::Hash>(
    mine: &mut HashMap<K, Value<'a>>,
    theirs: &HashMap<K, Value<'a>>,
    kin: &RefCell<Kin<'a>>,
) {
    for (key, value) in theirs {
        match mine.get_mut(key) {
            Some(old) if old.same(value) => {}
            Some(old) => {
                let both = old.join(value);
                kin.borrow_mut().unite(&[old, value, &both]);
                *old = both;
            }
            None => {
                mine.insert(key.clone(), value.clone());
            }
        }
    }
    // A local that only one way bound keeps that value: reading it after the other way raises in Python.
}
