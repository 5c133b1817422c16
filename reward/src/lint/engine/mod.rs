//! An abstract interpreter for candidates: runs the module, `ModelNew.__init__` and `ModelNew.forward` on abstract values
//! and writes down what it saw. The rules judge; this only follows.
//!
//! Paths are joined after branches; a tensor counts as written by a kernel only when it is on every path. For that, loops are
//! taken to run at least once; what else a loop may change decides no branch. Calls of the candidate's own functions and classes are followed, with bounded depth and
//! a step budget, so any text ends in bounded time.

mod acts;
mod aliases;
mod alloc;
mod assign;
mod attempts;
mod attribute;
mod builtins;
mod call;
mod callbacks;
mod classes;
mod closures;
mod collections;
mod condition;
mod expr;
pub mod features;
mod fold;
mod hooks;
mod inside;
pub mod kernel;
mod launch;
mod library;
mod loops;
mod machine;
pub mod members;
mod memory;
mod modules;
mod operators;
mod outputs;
mod paths;
mod prepass;
mod protocols;
mod provenance;
mod records;
pub mod sizes;
pub mod state;
mod stmt;
mod taint;
mod task;
mod text;
pub use paths::canonical;
pub use task::{inputs_of, task_inputs};
pub mod trace;
mod unreached;
pub mod value;
mod wrappers;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use ruff_python_ast::{Expr, Parameters, Stmt, StmtFunctionDef};

use super::syntax::Lines;
use kernel::KernelFacts;
use prepass::{Mutable, Place};
use sizes::SizeOf;
use state::{State, Written};
use trace::{Fact, Seen, Stage};
use value::{ClassId, Env, Func, FuncId, ObjId, Value};

/// Most nested calls that are followed.
const MAX_CALLS: usize = 24;
/// Most running calls of one function.
const MAX_RECURSION: usize = 3;
/// Deepest chain of functions that close over functions.
const MAX_CLOSURES: u32 = 32;
/// Most statements and expressions visited for one candidate.
const BUDGET: u32 = 60_000;

/// Where a tensor came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An argument of forward.
    Input,
    Parameter,
    /// torch.empty and the like, from constants alone.
    Alloc,
    /// A clone of data.
    Copy,
    /// The result of compute outside a kernel: already reported.
    Compute,
    /// From an earlier call of forward.
    Kept,
    /// An object of a candidate's class.
    Instance,
}

/// Code that can be called.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    Block(&'a [Stmt]),
    Expr(&'a Expr),
}

/// How a method takes its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    Plain,
    Static,
    Class,
    Property,
}

/// A function, method or lambda of the candidate.
#[derive(Clone, Debug)]
pub struct FuncInfo<'a> {
    pub name: &'a str,
    pub params: Option<&'a Parameters>,
    pub body: Body<'a>,
    pub line: u32,
    pub binding: Binding,
    pub node: Option<&'a StmtFunctionDef>,
    pub owner: Option<ClassId>,
    /// Its results are kept by functools.
    pub cached: bool,
}

/// A class of the candidate.
#[derive(Clone, Debug)]
pub struct ClassInfo<'a> {
    pub name: &'a str,
    pub bases: Vec<Value<'a>>,
    pub members: Env<'a>,
    /// What its constructor takes when it defines none: annotated names, in order.
    pub fields: Vec<Rc<str>>,
    pub line: u32,
}

/// Break and continue states of one running loop.
#[derive(Debug, Default)]
struct Loop<'a> {
    breaks: Vec<State<'a>>,
    continues: Vec<State<'a>>,
    /// The names that a `for` gives its items.
    items: Vec<&'a str>,
}

/// What forward is called with.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Per positional argument: is it a tensor? `None` when the task is not known.
    pub tensors: Option<Vec<bool>>,
}

/// The interpreter.
pub struct Engine<'a> {
    pub lines: &'a Lines,
    pub functions: Vec<FuncInfo<'a>>,
    pub classes: Vec<ClassInfo<'a>>,
    pub origins: Vec<Origin>,
    pub seen: Vec<Seen>,
    known: HashSet<Seen>,
    stage: Stage,
    line: u32,
    budget: u32,
    /// Expressions of kernels that may still be looked at.
    kernel_budget: u32,
    /// Values that may still be looked at for Python in kernels.
    inside_budget: Cell<u32>,
    state: State<'a>,
    /// Return values and states of every running call.
    returns: Vec<Vec<(Value<'a>, State<'a>)>>,
    loops: Vec<Loop<'a>>,
    /// Functions that run, the innermost last.
    running: Vec<FuncId>,
    closures: closures::Closures<'a>,
    /// What each running call has yielded.
    yields: Vec<Option<Value<'a>>>,
    /// What each running call has changed of the collections it was given or found.
    changes: Vec<aliases::Changes<'a>>,
    /// What looking for changed collections cost, as far as it is not yet taken from the budget.
    spent: u32,
    /// Loops and comprehensions around.
    turns: u32,
    /// In the test of a branch that only drops entries of a collection.
    evicting: bool,
    /// In what is raised.
    raising: bool,
    /// Names declared `global` in every running call.
    globals: Vec<HashSet<&'a str>>,
    /// The same for `nonlocal`.
    nonlocals: Vec<HashSet<&'a str>>,
    /// Class whose body is running.
    owner: Option<ClassId>,
    /// `returns.len()` while forward's own statements run.
    entry: usize,
    function_ids: HashMap<usize, FuncId>,
    kernels: HashMap<FuncId, Rc<KernelFacts>>,
    mutable: Mutable<'a>,
    parameter: ObjId,
    /// Where forward kept something for later calls, and where that was more than numbers.
    stored: HashSet<Place<'a>>,
    stored_tensors: HashSet<Place<'a>>,
    /// Whose sizes new buffers have, where they have none of their own.
    like_input: HashMap<ObjId, SizeOf>,
    /// New buffers that torch worked on.
    touched: HashSet<ObjId>,
    /// Inputs that are one tensor each.
    inputs: HashSet<ObjId>,
    /// Objects of the candidate's classes.
    instances: Vec<(ObjId, ClassId)>,
    hooks: hooks::Hooks<'a>,
    /// Functions that libraries were handed before forward.
    handed: Vec<Value<'a>>,
    memory: memory::Memory<'a>,
    /// Functions that were called, and the last form of every function.
    reached: HashSet<FuncId>,
    made: HashMap<FuncId, Func<'a>>,
    /// Which tensors came out of which.
    pub(in crate::lint) flows: provenance::Flows,
    /// Kernels that were defined, in any way.
    pub defined: Vec<FuncId>,
}

/// What `run` found out about the whole candidate.
pub struct Ran<'a> {
    pub engine: Engine<'a>,
    /// The class bound to `ModelNew` at the end of the module.
    pub model: Option<ClassId>,
    /// It has a forward.
    pub forward: Option<FuncId>,
}

/// Runs a candidate. Where forward changes state, it runs twice: first to see what it keeps, then with that kept.
pub fn run<'a>(body: &'a [Stmt], lines: &'a Lines, inputs: &Inputs) -> Ran<'a> {
    let mutable = Mutable::of(body);
    let stateless = mutable.is_empty();
    let ran = run_once(body, lines, inputs, mutable.optimistic());
    if stateless {
        return ran;
    }
    let reach = |places: &HashSet<Place<'a>>| mutable.reach(places.iter().copied());
    let mut narrowed = mutable.narrowed(&reach(&ran.engine.stored), &reach(&ran.engine.stored_tensors));
    narrowed.rebound.clone_from(&ran.engine.stored);
    run_once(body, lines, inputs, narrowed)
}

fn run_once<'a>(body: &'a [Stmt], lines: &'a Lines, inputs: &Inputs, mutable: Mutable<'a>) -> Ran<'a> {
    let mut engine = Engine::new(lines, mutable);
    engine.show_unseen(body);
    engine.block(body);
    engine.state.alive = true;
    let bound = engine.state.frames[0].get("ModelNew").cloned();
    let model = match bound {
        Some(Value::Class(id)) => Some(id),
        _ => None,
    };
    let mut forward = None;
    if let Some(class) = model {
        engine.stage = Stage::Init;
        engine.reset_call_stacks();
        let instance = engine.instantiate(class, call::Args::opaque());
        engine.reset_call_stacks();
        if let (Some(Value::Func(func)), Value::Instance(..)) = (engine.member(class, "forward"), &instance) {
            forward = Some(func.id);
            engine.stage = Stage::Forward;
            engine.memory.forward_from(engine.origins.len());
            engine.havoc();
            engine.forward(&func, instance.clone(), inputs);
            engine.run_handed();
            engine.run_allocators();
            engine.run_unreached(body);
        }
    }
    Ran { engine, model, forward }
}

impl<'a> Engine<'a> {
    fn new(lines: &'a Lines, mutable: Mutable<'a>) -> Self {
        let mut engine = Engine {
            lines,
            functions: Vec::new(),
            classes: Vec::new(),
            origins: Vec::new(),
            seen: Vec::new(),
            known: HashSet::new(),
            stage: Stage::Module,
            line: 0,
            budget: BUDGET,
            kernel_budget: kernel::TOTAL_BUDGET,
            inside_budget: Cell::new(inside::BUDGET),
            state: State::new(),
            returns: Vec::new(),
            loops: Vec::new(),
            running: Vec::new(),
            closures: closures::Closures::default(),
            yields: Vec::new(),
            changes: Vec::new(),
            spent: 0,
            turns: 0,
            evicting: false,
            raising: false,
            globals: Vec::new(),
            nonlocals: Vec::new(),
            owner: None,
            entry: usize::MAX,
            function_ids: HashMap::new(),
            kernels: HashMap::new(),
            mutable,
            parameter: 0,
            stored: HashSet::new(),
            stored_tensors: HashSet::new(),
            like_input: HashMap::new(),
            touched: HashSet::new(),
            inputs: HashSet::new(),
            instances: Vec::new(),
            hooks: hooks::Hooks::default(),
            handed: Vec::new(),
            memory: memory::Memory::default(),
            reached: HashSet::new(),
            made: HashMap::new(),
            flows: provenance::Flows::default(),
            defined: Vec::new(),
        };
        engine.parameter = engine.object(Origin::Parameter);
        engine
    }

    fn reset_call_stacks(&mut self) {
        self.state.frames.truncate(1);
        self.state.alive = true;
        (self.state.empty, self.state.hollow) = (false, false);
        self.returns.clear();
        self.running.clear();
        self.yields.clear();
        self.changes.clear();
        self.closures.suspended.clear();
        self.turns = 0;
        self.loops.clear();
        self.globals.clear();
        self.nonlocals.clear();
    }

    /// One step of the budget; false when it is used up.
    fn step(&mut self) -> bool {
        if self.budget == 0 {
            self.note(Fact::Budget);
            return false;
        }
        self.budget -= 1;
        true
    }

    /// A copy of the state for another way, paid for: what is bound later copies the names.
    fn fork(&mut self) -> State<'a> {
        let names: usize = self.state.frames.iter().map(|f| f.len()).sum();
        let cost = (names + self.state.fields.len() + self.state.objects.len()) / 8;
        self.budget = self.budget.saturating_sub(cost as u32);
        self.state.clone()
    }

    /// Writes a fact down, once.
    fn note(&mut self, fact: Fact) {
        let seen = Seen { stage: self.stage, line: self.line, fact };
        if self.known.insert(seen.clone()) {
            self.seen.push(seen);
        }
    }

    /// The same for one that was taken back.
    fn note_again(&mut self, seen: &Seen) {
        if self.known.insert(seen.clone()) {
            self.seen.push(seen.clone());
        }
    }

    /// A new object on this path.
    fn object(&mut self, origin: Origin) -> ObjId {
        let id = self.origins.len() as ObjId;
        self.origins.push(origin);
        let unwritten = self.unwritten(id);
        self.state.set_written(id, unwritten);
        id
    }

    /// What is known of a tensor that no kernel has written to.
    fn unwritten(&self, id: ObjId) -> Written {
        let spared = self.state.hollow && matches!(self.origins.get(id as usize), Some(Origin::Alloc));
        if spared { Written::Spared } else { Written::No }
    }

    /// A new tensor.
    fn fresh(&mut self, origin: Origin) -> Value<'a> {
        let id = self.object(origin);
        Value::tensor(id)
    }

    /// The object that stands for every parameter and buffer of a module.
    fn parameter(&self) -> Value<'a> {
        Value::tensor(self.parameter)
    }

    /// Data: it comes from an input, a parameter or an earlier call, directly or through a kernel or compute.
    fn is_data(&self, id: ObjId) -> bool {
        match self.origins.get(id as usize) {
            Some(Origin::Alloc) => self.state.written(id) == Written::Data,
            Some(Origin::Instance) | None => false,
            Some(_) => true,
        }
    }

    /// Registers a function once per place in the source.
    fn function(&mut self, place: usize, info: FuncInfo<'a>) -> FuncId {
        if let Some(id) = self.function_ids.get(&place) {
            return *id;
        }
        self.functions.push(info);
        let id = self.functions.len() - 1;
        self.function_ids.insert(place, id);
        id
    }

    /// A function value that sees the running call's names later on.
    fn close(&mut self, id: FuncId) -> Func<'a> {
        let func = self.closed(id);
        if let Some(around) = self.running.last() {
            self.closures.homes.insert(id, *around);
        }
        self.made.insert(id, func.clone());
        func
    }

    fn closed(&mut self, id: FuncId) -> Func<'a> {
        let early = self.stage != Stage::Forward;
        if self.state.frames.len() < 2 {
            return Func { id, closure: None, early, depth: 0 };
        }
        let frame = self.state.frames.last().cloned().unwrap_or_default();
        self.budget = self.budget.saturating_sub(frame.len() as u32 / 8);
        let depth = frame.values().map(Value::closures).max().unwrap_or(0) + 1;
        if depth > MAX_CLOSURES {
            self.note(Fact::Opaque { what: "functions closed over too deeply".to_owned() });
            return Func { id, closure: None, early, depth: 0 };
        }
        Func { id, closure: Some(frame), early, depth }
    }

    /// What a kernel does to its parameters.
    pub fn kernel_facts(&mut self, id: FuncId) -> Rc<KernelFacts> {
        if let Some(facts) = self.kernels.get(&id) {
            return Rc::clone(facts);
        }
        let facts = Rc::new(kernel::facts(id, &self.functions, &self.state.frames, &mut self.kernel_budget));
        if self.kernel_budget == 0 {
            self.note(Fact::Budget);
        }
        self.kernels.insert(id, Rc::clone(&facts));
        facts
    }
}
