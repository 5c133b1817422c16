//! Which tensors came out of which, through which kernels; without regard to order or branches.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Engine;
use super::call::Args;
use super::kernel::KernelFacts;
use super::value::{FuncId, Ids, MARKS, MAX_IDS, ObjId, merge_ids, no_ids};

/// Most steps that are remembered. With more, nothing is concluded.
const MAX_STEPS: usize = 4096;

#[derive(Debug)]
struct Step {
    kernel: Option<FuncId>,
    from: Ids,
    to: Ids,
}

/// Steps from tensors to tensors, and what forward returned.
#[derive(Debug, Default)]
pub struct Flows {
    steps: Vec<Step>,
    returned: HashSet<ObjId>,
    lost: bool,
}

impl Flows {
    pub(super) fn add(&mut self, kernel: Option<FuncId>, from: Ids, to: Ids) {
        if from.len().max(to.len()) >= MAX_IDS / 2 {
            // Merged further, some would be lost.
            self.lost = true;
        }
        if self.steps.len() < MAX_STEPS {
            self.steps.push(Step { kernel, from, to });
        }
    }

    pub(super) fn returned(&mut self, ids: &Ids) {
        self.returned.extend(ids.iter().filter(|id| **id < MARKS));
    }

    /// The kernels that what forward returns went through; `None` when that cannot be told.
    pub fn contributors(&self) -> Option<BTreeSet<FuncId>> {
        if self.lost || self.steps.len() >= MAX_STEPS || self.returned.is_empty() {
            return None;
        }
        let mut into: HashMap<ObjId, Vec<usize>> = HashMap::new();
        for (at, step) in self.steps.iter().enumerate() {
            for id in step.to.iter().filter(|id| **id < MARKS) {
                into.entry(*id).or_default().push(at);
            }
        }
        let mut known = self.returned.clone();
        let mut open: Vec<ObjId> = known.iter().copied().collect();
        let mut taken = vec![false; self.steps.len()];
        let mut kernels = BTreeSet::new();
        while let Some(id) = open.pop() {
            for at in into.get(&id).into_iter().flatten() {
                if std::mem::replace(&mut taken[*at], true) {
                    continue;
                }
                let step = &self.steps[*at];
                kernels.extend(step.kernel);
                open.extend(step.from.iter().filter(|from| **from < MARKS && known.insert(**from)));
            }
        }
        (!kernels.is_empty()).then_some(kernels)
    }
}

impl<'a> Engine<'a> {
    /// A launch, as a step from what the kernel loads to what it stores.
    pub(super) fn flow_through(&mut self, kernel: FuncId, facts: &KernelFacts, args: &Args<'a>) {
        let mut from = no_ids();
        let mut to = no_ids();
        let tells = facts.loads != 0;
        for (index, parameter) in facts.parameters.iter().enumerate() {
            let Some(value) = args.get(index, parameter).or(args.rest.as_ref()) else {
                continue;
            };
            let ids = value.all_tensors();
            // Atomics and stores under a mask leave what was there.
            if !tells || facts.loads & (1 << index) != 0 {
                from = merge_ids(&from, &ids);
            }
            if facts.stores & (1 << index) != 0 {
                to = merge_ids(&to, &ids);
            }
        }
        self.flows.add(Some(kernel), from, to);
    }
}
