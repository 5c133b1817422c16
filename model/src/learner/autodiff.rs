//! Log-probs and gradients by burn's autodiff, on any backend: the definition the CPU executor is tested against, and the
//! path of accelerators.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData, backend::AutodiffBackend};

use super::Scored;
use super::batch::{Item, MAX_ROWS, MicroBatch, plan};
use super::host::{Objective, Parts};
use crate::host::weights::to_vec;
use crate::kernels::Kernels;
use crate::network::Transformer;

/// Scores every answer token of every item; with `objective`, also the gradient of the summed loss.
pub fn run<AB: AutodiffBackend + Kernels>(
    network: &Transformer<AB>,
    items: &[Item],
    max_items: usize,
    temperature: f32,
    objective: Option<Objective>,
) -> (Vec<Scored>, Option<GradientsParams>) {
    let mut scored: Vec<Scored> = items.iter().map(|item| Scored::with_len(item.tokens.len())).collect();
    let mut sum = GradientsAccumulator::new();
    for batch in plan(items, max_items, MAX_ROWS) {
        let objective = objective.filter(|_| batch.backward);
        let grads = micro_batch(network, items, &batch, temperature, objective, &mut scored);
        if let Some(grads) = grads {
            sum.accumulate(network, grads);
        }
    }
    AB::check();
    (scored, objective.map(|_| sum.grads()))
}

fn micro_batch<AB: AutodiffBackend + Kernels>(
    network: &Transformer<AB>,
    items: &[Item],
    batch: &MicroBatch,
    temperature: f32,
    objective: Option<Objective>,
    scored: &mut [Scored],
) -> Option<GradientsParams> {
    let device = network.embed.val().device();
    let inputs = |i: &usize| items[*i].prompt.len() + items[*i].tokens.len() - 1;
    let (count, seq) = (batch.items.len(), batch.items.iter().map(inputs).max()?);
    let mut tokens = vec![0i32; count * seq];
    let (mut places, mut targets, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (r, i) in batch.items.iter().enumerate() {
        let item = &items[*i];
        let all = item.prompt.iter().chain(&item.tokens[..item.tokens.len() - 1]);
        for (slot, token) in tokens[r * seq..].iter_mut().zip(all) {
            *slot = *token as i32;
        }
        for (t, id) in item.tokens.iter().enumerate() {
            places.push((*i, t));
            targets.push(*id as i32);
            rows.push((r * seq + item.prompt.len() - 1 + t) as i32);
        }
    }
    let n = targets.len();
    let positions: Vec<i32> = (0..count).flat_map(|_| 0..seq as i32).collect();
    let int =
        |data: Vec<i32>, shape: [usize; 2]| Tensor::<AB, 2, Int>::from_data(TensorData::new(data, shape), &device);
    let hidden = network.forward(int(tokens, [count, seq]), int(positions, [count, seq]), None);
    let width = network.hidden_size();
    let rows = int(rows, [1, n]).reshape([n]);
    let logits = network.logits(hidden.reshape([count * seq, width]).select(0, rows)).div_scalar(temperature);
    let log_probs = log_softmax(logits, 1);
    let picked = log_probs.clone().gather(1, int(targets.clone(), [n, 1]));
    let values = to_vec(picked.clone().into_data());
    let all = to_vec(log_probs.into_data());
    let vocab = network.vocab_size();
    let mut slopes = Vec::with_capacity(n);
    for (k, (item, token)) in places.iter().enumerate() {
        let row = &all[k * vocab..][..vocab];
        let entropy = -row.iter().map(|l| f64::from(*l) * f64::from(*l).exp()).sum::<f64>();
        let logprob = f64::from(values[k]);
        let top = row.iter().all(|l| *l <= row[targets[k] as usize]);
        scored[*item].set(*token, &Parts { logprob, entropy, inv_sum: 1.0, top });
        slopes.push(objective.map_or(0.0, |f| f(*item, *token, logprob).d_logprob) as f32);
    }
    objective?;
    let slopes = Tensor::<AB, 2>::from_data(TensorData::new(slopes, [n, 1]), &device);
    let grads = (picked * slopes).sum().backward();
    Some(GradientsParams::from_grads(grads, network))
}
