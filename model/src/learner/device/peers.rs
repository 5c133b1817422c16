//! The other GPUs of a learner: each has a copy of the weights in elements and gradients of its own, works on a share of the
//! micro-batches, and gives its gradients to the first.
//!
//! Masters, moments and updates are the first's alone: there is one truth, which checkpoints, guards and rollbacks see, and nothing can
//! drift. What goes over the links is 4 bytes a parameter there (sums) and 2 back (bf16 weights), less than all-reducing
//! gradients would take.

use std::sync::Arc;

use super::passes::passes;
use super::trained::Held;
use crate::device::group::Member;
use crate::device::meeting::Meeting;
use crate::device::weights::WeightsAt;
use crate::device::{Buffer, DeviceError, Element, Executor, F32, Result, Runtime, Sink, Span};
use crate::learner::Scored;
use crate::learner::batch::{Item, MicroBatch, spread};
use crate::learner::host::Objective;

/// Copies begin at multiples of this.
const ALIGN: usize = 256;

/// One of the others.
struct Peer {
    executor: Executor,
    member: Member,
    weights: Buffer,
    grads: Buffer,
}

/// The first one's membership, and the others.
pub struct Peers {
    first: Member,
    others: Vec<Peer>,
    meeting: Arc<Meeting>,
}

impl Peers {
    /// `executors`: one for each further GPU. `first`: the GPU of the learner's own executor.
    pub fn new(first: &Runtime, executors: Vec<Executor>) -> Result<Self> {
        let ordinal = |rt: &Runtime| rt.context().ordinal();
        let mut ordinals = vec![ordinal(first)];
        ordinals.extend(executors.iter().map(|e| ordinal(e.runtime())));
        let mut members = Member::join(&ordinals, first.limit())?.into_iter();
        let first = members.next().ok_or(DeviceError::NoGroupLibrary)?;
        let peer = |(executor, member)| Peer { executor, member, weights: Buffer::default(), grads: Buffer::default() };
        let meeting = first.meeting().clone();
        Ok(Self { first, others: executors.into_iter().zip(members).map(peer).collect(), meeting })
    }

    /// All of them, the first included.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// As `passes`, the micro-batches spread evenly by their rows; all gradients end up in `held`'s.
    pub fn run(
        &mut self,
        executor: &mut Executor,
        held: &Held,
        items: &[Item],
        batches: &[MicroBatch],
        temperature: f32,
        objective: Objective,
    ) -> Result<Vec<Scored>> {
        if self.meeting.failed() {
            return Err(DeviceError::GroupFailed);
        }
        let shares: Vec<Vec<MicroBatch>> = spread(batches, self.count())
            .into_iter()
            .map(|mut share| {
                share.sort_unstable();
                share.into_iter().map(|b| batches[b].clone()).collect()
            })
            .collect();
        let (first, meeting) = (&self.first, &self.meeting);
        let sizes = held.masters();
        let own = shares.first().map_or(&[][..], Vec::as_slice);
        let results: Vec<Result<Vec<Scored>>> = std::thread::scope(|scope| {
            let mut handles = Vec::new();
            for (peer, share) in self.others.iter_mut().zip(&shares[1..]) {
                handles.push(scope.spawn(move || {
                    let _member = meeting.membership();
                    let done = peer.run(sizes, items, share, temperature, objective);
                    told(meeting, done)
                }));
            }
            let _member = meeting.membership();
            let mut all = vec![told(meeting, run_first(first, executor, held, items, own, temperature, objective))];
            all.extend(handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
            all
        });
        let mut scored = vec![Scored::default(); items.len()];
        let mut failure = None;
        for (result, share) in results.into_iter().zip(&shares) {
            match result {
                Ok(mut found) => {
                    share.iter().flat_map(|b| &b.items).for_each(|i| std::mem::swap(&mut scored[*i], &mut found[*i]))
                }
                // The cause before its consequences.
                Err(error) if matches!(failure, None | Some(DeviceError::GroupFailed)) => failure = Some(error),
                Err(_) => {}
            }
        }
        if let Some(failure) = failure {
            // What still waits for a member that is gone ends.
            self.first.abort();
            self.others.iter().for_each(|peer| peer.member.abort());
            return Err(failure);
        }
        Ok(scored)
    }
}

/// A member that fails says so before its thread ends: the others do not wait for it until the deadline.
fn told<T>(meeting: &Meeting, done: Result<T>) -> Result<T> {
    if done.is_err() {
        meeting.fail();
    }
    done
}

fn run_first(
    member: &Member,
    executor: &mut Executor,
    held: &Held,
    items: &[Item],
    share: &[MicroBatch],
    temperature: f32,
    objective: Objective,
) -> Result<Vec<Scored>> {
    held.prepare(executor)?;
    member.meet(executor.runtime())?;
    executor.each_weight(held.masters(), &mut |rt, span, element| member.share(rt, &[(span, element)]))?;
    // Looked at here: no wait of a pass is then for a member that is gone.
    finish(member, executor.runtime())?;
    let scored = passes(executor, items, share, temperature, Some(objective), held.sink())?;
    member.meet(executor.runtime())?;
    member.sum_to_first(executor.runtime(), &held.gradients())?;
    finish(member, executor.runtime())?;
    Ok(scored)
}

/// Waits for the group's work.
fn finish(member: &Member, rt: &Runtime) -> Result<()> {
    rt.wait_unless("the group of GPUs", &|| match member.meeting().failed() {
        true => Err(DeviceError::GroupFailed),
        false => member.check(),
    })
}

impl Peer {
    /// `sizes`: the first one's masters, of which only the lengths count here.
    fn run(
        &mut self,
        sizes: &WeightsAt,
        items: &[Item],
        share: &[MicroBatch],
        temperature: f32,
        objective: Objective,
    ) -> Result<Vec<Scored>> {
        let element = self.executor.options().element;
        let rt = self.executor.runtime();
        let bytes = |span: Span, matrix: bool| if matrix { span.bytes / 4 * element.bytes() } else { span.bytes };
        let mut needed = [0usize; 2];
        sizes.map::<DeviceError>(&mut |span, matrix| {
            needed[0] += bytes(span, matrix).next_multiple_of(ALIGN);
            needed[1] += span.bytes.next_multiple_of(ALIGN);
            Ok(span)
        })?;
        let (all, all_grads) =
            (self.weights.span(rt, "a copy of the weights", needed[0])?, self.grads.span(rt, "gradients", needed[1])?);
        let (mut used, mut list) = (0, Vec::new());
        let weights = sizes.map::<DeviceError>(&mut |span, matrix| {
            let own = all.part(used, bytes(span, matrix));
            used += own.bytes.next_multiple_of(ALIGN);
            list.push((own, if matrix { element } else { F32 }));
            Ok(own)
        })?;
        let (mut used, mut gradients) = (0, Vec::new());
        let grads = sizes.map::<DeviceError>(&mut |span, _| {
            let own = all_grads.part(used, span.bytes);
            used += own.bytes.next_multiple_of(ALIGN);
            gradients.push(own);
            Ok(own)
        })?;
        self.member.meet(rt)?;
        list.iter().try_for_each(|one: &(Span, Element)| self.member.share(rt, &[*one]))?;
        self.executor.take(weights);
        finish(&self.member, self.executor.runtime())?;
        let sink = Some(Sink::All(&grads));
        let scored = passes(&mut self.executor, items, share, temperature, Some(objective), sink)?;
        self.member.meet(self.executor.runtime())?;
        self.member.sum_to_first(self.executor.runtime(), &gradients)?;
        finish(&self.member, self.executor.runtime())?;
        Ok(scored)
    }
}
