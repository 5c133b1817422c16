//! What the abstract interpreter knows of a Python value, and how two possibilities become one.

use std::collections::HashMap;
use std::rc::Rc;

use super::sizes::SizeOf;

/// Index into `Engine::objects`: one tensor allocation, input, parameter or instance.
pub type ObjId = u32;
/// Stands beside a tensor's objects when the value may be a part of it: its sizes say nothing about the whole.
pub const PART: ObjId = ObjId::MAX;
/// Stands beside a tensor's objects when the value may be a copy of them (a cast, `contiguous`).
pub const COPY: ObjId = ObjId::MAX - 1;
/// Objects have smaller numbers than the two marks.
pub const MARKS: ObjId = COPY;
/// Index into `Engine::functions`.
pub type FuncId = usize;
/// Index into `Engine::classes`.
pub type ClassId = usize;
/// Sorted, without duplicates.
pub type Ids = Rc<[ObjId]>;
/// Local names of one function call.
pub type Env<'a> = HashMap<&'a str, Value<'a>>;

/// Most alternatives a `Union` keeps.
const MAX_UNION: usize = 8;
/// Largest tree of lists, unions and the like.
const MAX_NODES: usize = 512;
/// Most objects one value may stand for.
pub const MAX_IDS: usize = 64;

/// A function value with what it closed over.
#[derive(Clone, Debug)]
pub struct Func<'a> {
    pub id: FuncId,
    pub closure: Option<Rc<Env<'a>>>,
    /// Made before forward ran: what it closed over may hold an earlier call's values.
    pub early: bool,
    /// How many closures lie inside each other here.
    pub depth: u32,
}

/// `functools.partial`.
#[derive(Debug)]
pub struct Partial<'a> {
    pub callee: Value<'a>,
    pub args: Vec<Value<'a>>,
    pub keywords: Vec<(Option<&'a str>, Value<'a>)>,
}

/// An abstract value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Anything; may hide these tensors.
    Unknown(Ids),
    Nothing,
    Bool(bool),
    Int(i64),
    Str(Rc<str>),
    /// A number, a dtype, a device, a string.
    Scalar,
    /// A dimension of a tensor, or a product of dimensions: never negative, and 0 only for a tensor without elements.
    Size(SizeOf),
    /// All elements of this new buffer, whose sizes are not known to be of any tensor: 0 only where it has none.
    Numel(ObjId),
    /// A number or flag that an earlier call of forward left behind.
    StateScalar,
    /// `x.shape`, or some of it, of any length.
    Shape(SizeOf),
    /// One of these tensors, or a view of one.
    Tensor(Ids),
    /// An imported module or a member of one, by its full dotted name; builtins as `builtins.len`.
    Path(Rc<str>),
    Func(Func<'a>),
    /// A method with its receiver.
    Bound(Rc<Value<'a>>, Func<'a>),
    /// A member of a value that is not the candidate's own code, for example `x.softmax`.
    Attr(Rc<Value<'a>>, Rc<str>),
    /// `@triton.jit` functions, perhaps tuned.
    Kernels(Rc<[FuncId]>),
    /// `kernel[grid]`.
    Launcher(Rc<[FuncId]>),
    /// What `triton.autotune(..)` and the like return: applied to a function it makes a kernel.
    KernelDecorator,
    Class(ClassId),
    Instance(ObjId, ClassId),
    Super(ObjId, ClassId),
    /// An instance of a torch module class, by the class's full name.
    NnModule(Rc<str>),
    /// A list or tuple with known elements; called, an `nn.Sequential`.
    List(Rc<Vec<Value<'a>>>),
    /// A collection of unknown size with elements like this one.
    Bag(Rc<Value<'a>>),
    Partial(Rc<Partial<'a>>),
    Union(Rc<Vec<Value<'a>>>),
}

/// Union of two id sets.
pub fn merge_ids(a: &Ids, b: &Ids) -> Ids {
    if a == b || b.is_empty() {
        return a.clone();
    }
    if a.is_empty() {
        return b.clone();
    }
    let mut all: Vec<ObjId> = a.iter().chain(b.iter()).copied().collect();
    all.sort_unstable();
    all.dedup();
    if all.len() > MAX_IDS {
        // The largest are kept: they may be marks.
        all.drain(MAX_IDS / 2..all.len() - MAX_IDS / 2);
    }
    all.into()
}

/// No objects.
pub fn no_ids() -> Ids {
    Rc::from([])
}

impl<'a> Value<'a> {
    /// Unknown and free of tensors.
    pub fn unknown() -> Self {
        Value::Unknown(no_ids())
    }

    /// The tensor of one object.
    pub fn tensor(id: ObjId) -> Self {
        Value::Tensor(Rc::from([id]))
    }

    /// The same tensors, perhaps only parts of them.
    pub fn part(&self) -> Self {
        match self {
            Value::Tensor(ids) => Value::Tensor(merge_ids(ids, &Rc::from([PART]))),
            other => other.clone(),
        }
    }

    /// The same tensors, or copies of them.
    pub fn perhaps_copied(&self) -> Self {
        match self {
            Value::Tensor(ids) => Value::Tensor(merge_ids(ids, &Rc::from([COPY]))),
            other => other.clone(),
        }
    }

    /// A dotted name.
    pub fn path(path: &str) -> Self {
        Value::Path(Rc::from(path))
    }

    /// A plain number, string, flag, shape or None.
    pub fn is_scalar(&self) -> bool {
        matches!(
            self,
            Value::Nothing
                | Value::Bool(_)
                | Value::Int(_)
                | Value::Str(_)
                | Value::Scalar
                | Value::Size(_)
                | Value::Numel(_)
                | Value::StateScalar
                | Value::Shape(_)
        )
    }

    /// Holds no tensor and nothing unknown.
    pub fn only_numbers(&self) -> bool {
        match self {
            Value::Unknown(_) | Value::Tensor(_) | Value::Partial(_) => false,
            // A member of a number or a setting, not of anything that could be a tensor.
            Value::Attr(value, _) => value.is_scalar(),
            Value::List(values) | Value::Union(values) => values.iter().all(Value::only_numbers),
            Value::Bag(value) => value.only_numbers(),
            _ => true,
        }
    }

    /// Objects this value is, or is one of (not those inside collections).
    pub fn tensors(&self) -> Ids {
        match self {
            Value::Tensor(ids) => ids.clone(),
            Value::Union(values) => values.iter().fold(no_ids(), |ids, v| merge_ids(&ids, &v.tensors())),
            _ => no_ids(),
        }
    }

    /// Every object reachable through collections, partials and unknowns.
    pub fn all_tensors(&self) -> Ids {
        let many = |values: &[Value<'a>]| values.iter().fold(no_ids(), |ids, v| merge_ids(&ids, &v.all_tensors()));
        match self {
            Value::Tensor(ids) | Value::Unknown(ids) => ids.clone(),
            Value::Union(values) | Value::List(values) => many(values),
            Value::Bag(value) => value.all_tensors(),
            Value::Attr(value, _) | Value::Bound(value, _) => value.all_tensors(),
            Value::Partial(p) => merge_ids(&p.callee.all_tensors(), &many(&p.args)),
            _ => no_ids(),
        }
    }

    /// The alternatives.
    pub fn each(&self) -> &[Value<'a>] {
        match self {
            Value::Union(values) => values,
            other => std::slice::from_ref(other),
        }
    }

    /// Certainly true or false, where that is known. Of a list it is not: it may be filled or emptied under another name.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Value::Nothing => Some(false),
            Value::Bool(b) => Some(*b),
            Value::Int(i) => Some(*i != 0),
            Value::Str(s) => Some(!s.is_empty()),
            Value::Func(_) | Value::Class(_) | Value::Kernels(_) | Value::Instance(..) => Some(true),
            _ => None,
        }
    }

    /// The deepest chain of closures in this value.
    pub fn closures(&self) -> u32 {
        let many = |values: &[Value<'a>]| values.iter().map(Value::closures).max().unwrap_or(0);
        match self {
            Value::Func(func) => func.depth,
            Value::Bound(value, func) => func.depth.max(value.closures()),
            Value::Union(values) | Value::List(values) => many(values),
            Value::Bag(value) | Value::Attr(value, _) => value.closures(),
            Value::Partial(p) => p.callee.closures().max(many(&p.args)),
            _ => 0,
        }
    }

    /// Nodes of the value's tree, counted up to a little more than `MAX_NODES`.
    fn nodes(&self, counted: usize) -> usize {
        if counted > MAX_NODES {
            return counted;
        }
        let many = |values: &[Value<'a>]| values.iter().fold(counted + 1, |n, v| v.nodes(n));
        match self {
            Value::Union(values) | Value::List(values) => many(values),
            Value::Bag(value) | Value::Attr(value, _) | Value::Bound(value, _) => value.nodes(counted + 1),
            Value::Partial(p) => p.keywords.iter().fold(p.callee.nodes(many(&p.args)), |n, (_, v)| v.nodes(n)),
            _ => counted + 1,
        }
    }

    /// The same value, or an unknown one with the same tensors where its tree would grow too large to be walked.
    pub fn bounded(self) -> Value<'a> {
        let grows = matches!(
            self,
            Value::Union(_) | Value::List(_) | Value::Bag(_) | Value::Attr(..) | Value::Bound(..) | Value::Partial(_)
        );
        if grows && self.nodes(0) > MAX_NODES { Value::Unknown(self.all_tensors()) } else { self }
    }

    /// Either of two.
    pub fn join(&self, other: &Value<'a>) -> Value<'a> {
        if self.same(other) {
            return self.clone();
        }
        self.joined(other).bounded()
    }

    fn joined(&self, other: &Value<'a>) -> Value<'a> {
        match (self, other) {
            (Value::Tensor(a), Value::Tensor(b)) => Value::Tensor(merge_ids(a, b)),
            (Value::Unknown(a), b) | (b, Value::Unknown(a)) => Value::Unknown(merge_ids(a, &b.all_tensors())),
            (Value::Kernels(a), Value::Kernels(b)) => Value::Kernels(merge_funcs(a, b)),
            (Value::Launcher(a), Value::Launcher(b)) => Value::Launcher(merge_funcs(a, b)),
            (Value::List(a), Value::List(b)) if a.len() == b.len() => {
                Value::List(Rc::new(a.iter().zip(b.iter()).map(|(x, y)| x.join(y)).collect()))
            }
            (Value::Bag(a), Value::Bag(b)) => Value::Bag(Rc::new(a.join(b))),
            (Value::List(a), Value::Bag(b)) | (Value::Bag(b), Value::List(a)) => {
                Value::Bag(Rc::new(a.iter().fold((**b).clone(), |all, v| all.join(v))))
            }
            (Value::List(a), Value::List(b)) => {
                let mut items = a.iter().chain(b.iter());
                let first = items.next().cloned().unwrap_or(Value::unknown());
                Value::Bag(Rc::new(items.fold(first, |all, v| all.join(v))))
            }
            (a, b) if a.is_scalar() && b.is_scalar() && !a.is_nothing() && !b.is_nothing() => scalar(a, b),
            _ => self.unite(other),
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Value::Nothing)
    }

    fn unite(&self, other: &Value<'a>) -> Value<'a> {
        let mut values: Vec<Value<'a>> = self.each().to_vec();
        for value in other.each() {
            let merged = values.iter().position(|v| {
                v.same(value)
                    || matches!(
                        (v, value),
                        (Value::Tensor(_), Value::Tensor(_))
                            | (Value::Kernels(_), Value::Kernels(_))
                            | (Value::Bag(_), Value::Bag(_))
                    )
                    || (v.is_scalar() && value.is_scalar() && !v.is_nothing() && !value.is_nothing())
            });
            match merged {
                Some(at) => values[at] = values[at].join(value),
                None => values.push(value.clone()),
            }
        }
        if values.len() == 1 {
            return values.swap_remove(0);
        }
        if values.len() > MAX_UNION {
            return Value::Unknown(values.iter().fold(no_ids(), |ids, v| merge_ids(&ids, &v.all_tensors())));
        }
        Value::Union(Rc::new(values))
    }

    /// Known to be the same value. Cheap: collections are compared by address, then element by element if short.
    pub fn same(&self, other: &Value<'a>) -> bool {
        match (self, other) {
            (Value::Unknown(a), Value::Unknown(b)) | (Value::Tensor(a), Value::Tensor(b)) => a == b,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Str(a), Value::Str(b)) | (Value::Path(a), Value::Path(b)) => a == b,
            (Value::NnModule(a), Value::NnModule(b)) => a == b,
            (Value::Nothing, Value::Nothing)
            | (Value::Scalar, Value::Scalar)
            | (Value::StateScalar, Value::StateScalar)
            | (Value::KernelDecorator, Value::KernelDecorator) => true,
            (Value::Size(a), Value::Size(b)) | (Value::Shape(a), Value::Shape(b)) => a == b,
            (Value::Numel(a), Value::Numel(b)) => a == b,
            (Value::Func(a), Value::Func(b)) => a.id == b.id,
            (Value::Bound(a, f), Value::Bound(b, g)) => f.id == g.id && (Rc::ptr_eq(a, b) || a.same(b)),
            (Value::Attr(a, f), Value::Attr(b, g)) => f == g && (Rc::ptr_eq(a, b) || a.same(b)),
            (Value::Kernels(a), Value::Kernels(b)) | (Value::Launcher(a), Value::Launcher(b)) => a == b,
            (Value::Class(a), Value::Class(b)) => a == b,
            (Value::Instance(a, _), Value::Instance(b, _)) | (Value::Super(a, _), Value::Super(b, _)) => a == b,
            (Value::List(a), Value::List(b)) | (Value::Union(a), Value::Union(b)) => {
                Rc::ptr_eq(a, b)
                    || (a.len() == b.len() && a.len() <= 16 && a.iter().zip(b.iter()).all(|(x, y)| x.same(y)))
            }
            (Value::Bag(a), Value::Bag(b)) => Rc::ptr_eq(a, b) || a.same(b),
            (Value::Partial(a), Value::Partial(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

fn merge_funcs(a: &Rc<[FuncId]>, b: &Rc<[FuncId]>) -> Rc<[FuncId]> {
    let mut all: Vec<FuncId> = a.iter().chain(b.iter()).copied().collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}

/// One number or another.
pub fn scalar<'a>(a: &Value<'a>, b: &Value<'a>) -> Value<'a> {
    match (a, b) {
        (Value::StateScalar, _) | (_, Value::StateScalar) => Value::StateScalar,
        (Value::Size(a), Value::Size(b)) => Value::Size(a.join(*b)),
        // A positive number is never 0.
        (Value::Size(a), Value::Int(i)) | (Value::Int(i), Value::Size(a)) if *i > 0 => Value::Size(a.plain()),
        (Value::Shape(a), Value::Shape(b)) => Value::Shape(a.with(*b)),
        _ => Value::Scalar,
    }
}
