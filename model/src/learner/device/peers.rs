//! The other GPUs of a learner: each has a copy of the weights in elements and gradients of its own, works on a share of the
//! micro-batches, and gives its gradients to the first.
//!
//! Masters, moments and updates are the first's alone: there is one truth, which checkpoints, guards and rollbacks see, and nothing can
//! drift. What goes over the links is 2 bytes a parameter there (bf16 weights, adapters merged) and 4 back for each that is trained
//! (sums), less than all-reducing gradients would take.

use std::sync::Arc;

use super::passes::passes;
use super::trained::Held;
use crate::device::adapters::AdaptersAt;
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
    memory: Own,
}

/// Its memory, kept from step to step.
#[derive(Default)]
struct Own {
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
        let peer = |(executor, member)| Peer { executor, member, memory: Own::default() };
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
        let (sizes, adapters) = (held.masters(), held.adapters());
        let own = shares.first().map_or(&[][..], Vec::as_slice);
        let results: Vec<Result<Vec<Scored>>> = std::thread::scope(|scope| {
            let mut handles = Vec::new();
            for (peer, share) in self.others.iter_mut().zip(&shares[1..]) {
                handles.push(scope.spawn(move || {
                    let _member = meeting.membership();
                    let done = peer.run(sizes, adapters, items, share, temperature, objective);
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
    // Whatever may fail for want of memory fails before the others wait inside NCCL.
    executor.reserve_fresh()?;
    member.meet(executor.runtime())?;
    executor.each_weight(&mut |rt, span, element| member.share(rt, &[(span, element)]))?;
    let adapters = held.adapters().into_iter().flat_map(AdaptersAt::parts).flat_map(|p| [p.a, p.b]);
    adapters.into_iter().try_for_each(|span| member.share(executor.runtime(), &[(span, F32)]))?;
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
    /// `sizes` and `adapters`: the first one's masters and adapters, of which only the sizes count here.
    fn run(
        &mut self,
        sizes: &WeightsAt,
        adapters: Option<&AdaptersAt>,
        items: &[Item],
        share: &[MicroBatch],
        temperature: f32,
        objective: Objective,
    ) -> Result<Vec<Scored>> {
        let Place { shared, weights, adapters, grads, gradients } =
            self.memory.place(&self.executor, sizes, adapters)?;
        let rt = self.executor.runtime();
        self.member.meet(rt)?;
        shared.iter().try_for_each(|one: &(Span, Element)| self.member.share(rt, &[*one]))?;
        // Looked at here: nothing after it waits for a member that is gone.
        finish(&self.member, self.executor.runtime())?;
        self.executor.take(weights, adapters)?;
        let sink = grads.as_ref().map_or(Sink::Adapters, Sink::All);
        let scored = passes(&mut self.executor, items, share, temperature, Some(objective), Some(sink))?;
        self.member.meet(self.executor.runtime())?;
        self.member.sum_to_first(self.executor.runtime(), &gradients)?;
        finish(&self.member, self.executor.runtime())?;
        Ok(scored)
    }
}

impl Own {
    /// Memory for what the first shares, and for gradients of what is trained.
    fn place(&mut self, executor: &Executor, sizes: &WeightsAt, adapters: Option<&AdaptersAt>) -> Result<Place> {
        let (rt, element) = (executor.runtime(), executor.options().element);
        let in_elements = |span: Span, matrix: bool| if matrix { span.bytes / 4 * element.bytes() } else { span.bytes };
        let (mut weights_bytes, mut grads_bytes) = (0usize, 0usize);
        sizes.each::<DeviceError>(&mut |span, matrix| {
            weights_bytes += in_elements(span, matrix).next_multiple_of(ALIGN);
            grads_bytes += if adapters.is_none() { span.bytes.next_multiple_of(ALIGN) } else { 0 };
            Ok(())
        })?;
        for part in adapters.into_iter().flat_map(AdaptersAt::parts) {
            let both = part.a.bytes.next_multiple_of(ALIGN) + part.b.bytes.next_multiple_of(ALIGN);
            (weights_bytes, grads_bytes) = (weights_bytes + both, grads_bytes + both);
        }
        let all = self.weights.span(rt, "a copy of the weights", weights_bytes)?;
        let all_grads = self.grads.span(rt, "gradients", grads_bytes)?;
        let (mut shared, mut gradients, mut used, mut used_grads) = (Vec::new(), Vec::new(), 0, 0);
        let weights = sizes.map::<DeviceError>(&mut |span, matrix| {
            let own = next(all, &mut used, in_elements(span, matrix));
            shared.push((own, if matrix { element } else { F32 }));
            Ok(own)
        })?;
        let mut gradient = |span: Span| {
            let own = next(all_grads, &mut used_grads, span.bytes);
            gradients.push(own);
            own
        };
        let (adapters, grads) = match adapters {
            None => (None, Some(sizes.map::<DeviceError>(&mut |span, _| Ok(gradient(span)))?)),
            Some(adapters) => {
                let own = adapters.moved(
                    &mut |span| {
                        let own = next(all, &mut used, span.bytes);
                        shared.push((own, F32));
                        own
                    },
                    &mut gradient,
                );
                (Some(own), None)
            }
        };
        Ok(Place { shared, weights, adapters, grads, gradients })
    }
}

/// Where a peer has what, for one step.
struct Place {
    /// What the first shares, in its order.
    shared: Vec<(Span, Element)>,
    weights: WeightsAt,
    adapters: Option<AdaptersAt>,
    /// Of every parameter; none where adapters are trained, which have their own.
    grads: Option<WeightsAt>,
    /// The same as a list, or those of the adapters, in the first one's order.
    gradients: Vec<Span>,
}

/// The next `bytes` of `all`.
fn next(all: Span, used: &mut usize, bytes: usize) -> Span {
    let own = all.part(*used, bytes);
    *used += bytes.next_multiple_of(ALIGN);
    own
}

#[cfg(test)]
mod tests;
