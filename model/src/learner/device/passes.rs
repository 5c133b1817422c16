//! Micro-batches on one executor, one after the other: what was scored, and gradients where they were asked for.

use crate::budget::FILL;
use crate::device::{Executor, Result, Sink, Target};
use crate::learner::Scored;
use crate::learner::batch::{Item, MicroBatch};
use crate::learner::host::{self, Objective, Parts, lay_out};
use crate::packing::Packed;

/// Scores the tokens of the items of `batches`; the others' scores stay empty. `grads` gets the gradient of these items' share of
/// the loss, zeros where they have none.
pub fn passes(
    executor: &mut Executor,
    items: &[Item],
    batches: &[MicroBatch],
    temperature: f32,
    objective: Option<Objective>,
    grads: Option<Sink>,
) -> Result<Vec<Scored>> {
    if let Some(grads) = grads {
        executor.clear(grads, false)?;
    }
    let mut scored = vec![Scored::default(); items.len()];
    let mut begun = false;
    for batch in batches {
        let objective = objective.filter(|_| batch.backward);
        let grads = grads.filter(|_| batch.backward);
        batch.items.iter().for_each(|i| scored[*i] = Scored::with_len(items[*i].tokens.len()));
        let (rows, targets) = lay_out(items, batch);
        let packed = Packed::new(&rows, FILL);
        executor.forward(&packed, grads.is_some())?;
        let list: Vec<Target> = targets.iter().map(|t| Target { row: t.row, id: t.id }).collect();
        let d_hidden = executor.score(&list, temperature, grads, &mut |first, scores| {
            let slope = |(target, score): (&host::Target, &crate::device::Score)| {
                let parts = Parts { logprob: score.logprob, entropy: score.entropy, inv_sum: 1.0, top: score.top };
                scored[target.item].set(target.token, &parts);
                objective.map_or(0.0, |f| f(target.item, target.token, score.logprob).d_logprob as f32)
            };
            targets[first..].iter().zip(scores).map(slope).collect()
        })?;
        if let (Some(d_hidden), Some(grads)) = (d_hidden, grads) {
            executor.backward(&packed, d_hidden, grads, begun)?;
            begun = true;
        }
    }
    if let (Some(grads), false) = (grads, begun) {
        executor.clear(grads, true)?;
    }
    Ok(scored)
}
