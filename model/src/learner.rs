//! Updates the policy from scored samples: gradients over micro-batches, one AdamW update, weights for the generators.
//!
//! The learner knows no algorithm: every token comes with a weight and its class's advantage (`loss`). It owns the network, the
//! optimizer's moments, the counters and the guard's memory; `checkpoint` saves all of them. A step that the guard skips changes nothing
//! but the count of skipped steps.

mod autodiff;
mod batch;
mod check;
#[cfg_attr(not(feature = "cuda"), path = "learner/no_device.rs")]
mod device;
mod gpu;
mod host;
mod lora;
mod objective;
mod publish;
mod seen;

use std::time::Instant;

use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend, backend::Backend};
use rollout::id::PolicyVersion;
use serde::{Deserialize, Serialize};

pub use crate::budget::Copies;
use crate::correction::CorrectionError;
use crate::correction::clip::Cut;
use crate::guard::{self, GuardConfig};
use crate::host::HostWeights;
use crate::kernels::Kernels;
use crate::lora::Lora;
use crate::loss::{LossConfig, Term};
use crate::network::Transformer;
use crate::optim::{OptimConfig, Optimizer};
use crate::stats::{SftReport, StepReport};
use batch::Item;
use check::{check, check_train};
pub use gpu::{GpuCompute, GpuType};
use objective::Batch;
pub(crate) use publish::hex;
pub use publish::{Published, WeightsManifest, weights_digest};
pub use seen::Seen;

/// One sampled answer with what the objective needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSample {
    pub prompt: Vec<u32>,
    pub tokens: Vec<u32>,
    /// Behaviour log-probs, one per token.
    pub logprobs: Vec<f32>,
    /// How many leading tokens belong to the plan; the rest is code.
    pub plan_tokens: u32,
    pub plan_advantage: f32,
    pub code_advantage: f32,
    /// Factor of each plan token's objective.
    pub plan_weight: f32,
    pub code_weight: f32,
}

/// One example to imitate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SftSample {
    pub prompt: Vec<u32>,
    /// The answer, end-of-sequence included.
    pub tokens: Vec<u32>,
}

/// How log-probs and gradients are computed. The results agree to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Execution {
    /// `Host` where the network lies on a CPU backend, `Device` on a GPU that has what it needs, else `Autodiff`.
    #[default]
    Auto,
    /// The GPU executor (`device`), in bf16 unless told otherwise; an error where it cannot be had.
    Device,
    /// The CPU executor (`host`).
    Host,
    /// burn's autodiff, on the network's backend.
    Autodiff,
}

/// What a caller can do wrong, or a GPU before anything was changed. The learner is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LearnerError {
    #[error("the batch is empty")]
    EmptyBatch,
    #[error("sample {sample}: {what}")]
    BadSample { sample: usize, what: String },
    #[error(
        "sample {sample}: prompt and answer have {tokens} tokens, expected at most {limit} (`max_position_embeddings` of the model's config.json)\n  hint: shorten the prompt or the answer, or take a model with a longer context"
    )]
    TooLong { sample: usize, tokens: usize, limit: usize },
    /// `fatal`: in this process it will be no better the next time.
    #[error("the GPU executor: {what}")]
    Device { what: String, fatal: bool },
    #[error("kl_coef is set, but there is no reference network")]
    NoReference,
    #[error(transparent)]
    Correction(#[from] CorrectionError),
    #[error(transparent)]
    Guard(#[from] guard::GuardError),
}

impl LearnerError {
    /// To be tried again in this process in vain, or at the risk that an earlier pass is still at work on the GPU.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Device { fatal: true, .. })
    }
}

/// The log-probs (and the like) of one item's tokens.
#[derive(Clone, Debug, Default, PartialEq)]
struct Scored {
    logprobs: Vec<f64>,
    entropies: Vec<f64>,
    tops: usize,
}

impl Scored {
    fn with_len(len: usize) -> Self {
        Self { logprobs: vec![0.0; len], entropies: vec![0.0; len], tops: 0 }
    }

    fn set(&mut self, token: usize, parts: &host::Parts) {
        self.logprobs[token] = parts.logprob;
        self.entropies[token] = parts.entropy;
        self.tops += usize::from(parts.top);
    }
}

pub struct Learner<AB: AutodiffBackend> {
    pub(crate) network: Transformer<AB>,
    pub(crate) optimizer: Optimizer<AB>,
    pub(crate) config: OptimConfig,
    pub(crate) counters: Counters,
    guard: GuardConfig,
    pub(crate) memory: guard::Memory,
    reference: Option<HostWeights>,
    /// `None`: every weight is trained.
    pub(crate) lora: Option<Lora<AB>>,
    execution: Execution,
    /// `network` is the base: the GPU executor adds the adapters as it goes.
    unmerged: bool,
    workers: Vec<host::Worker>,
    device: device::Slot,
    /// Of the last step's samples.
    seen: Vec<Scored>,
    /// What became of their tokens.
    fates: Vec<Vec<u8>>,
}

/// What several passes may have to go back to.
type Before<AB> = Option<(Transformer<AB>, Optimizer<AB>, Counters, Option<Lora<AB>>)>;

/// What a learner counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Optimizer updates made.
    pub updates: u64,
    /// Steps that the guard skipped; of a warm start, those whose loss or gradient was not finite.
    pub skipped: u64,
    /// The policy after that many applied or skipped `train_step`s.
    pub version: PolicyVersion,
}

impl<AB: AutodiffBackend + Kernels> Learner<AB> {
    /// Policy version 0, two threads, no reference network.
    pub fn new(network: Transformer<AB>, config: OptimConfig) -> Self {
        let optimizer = Optimizer::new(&config);
        let workers = (0..2).map(|_| host::Worker::default()).collect();
        Self {
            network,
            optimizer,
            config,
            counters: Counters::default(),
            guard: GuardConfig::default(),
            memory: guard::Memory::default(),
            reference: None,
            lora: None,
            execution: Execution::Auto,
            unmerged: false,
            workers,
            device: device::Slot::new(GpuCompute::default()),
            seen: Vec::new(),
            fates: Vec::new(),
        }
    }

    /// How to compute. With `threads` the sums of gradients are ordered differently: results agree to rounding.
    pub fn with_execution(mut self, execution: Execution, threads: usize) -> Self {
        self.execution = execution;
        self.workers.resize_with(threads.max(1), host::Worker::default);
        self
    }

    /// What is looked at before a step is applied, and what is done about it.
    pub fn with_guard(mut self, guard: GuardConfig) -> Self {
        self.guard = guard;
        self
    }

    /// The network that `kl_coef` holds the policy to (its weights are copied). With LoRA it is the base where none is set.
    pub fn set_reference<B: Backend>(&mut self, network: &Transformer<B>) {
        self.reference = Some(HostWeights::from_network(network));
        self.device.forget_reference();
    }

    /// The policy; where adapters are trained on the GPU executor, their base (`inference` has them merged).
    pub fn network(&self) -> &Transformer<AB> {
        &self.network
    }

    /// The policy without autodiff; no element is copied, but for adapters that have to be merged.
    pub fn inference(&self) -> Transformer<AB::InnerBackend> {
        match &self.lora {
            Some(lora) if self.unmerged => lora.merged().valid(),
            _ => self.network.valid(),
        }
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn version(&self) -> PolicyVersion {
        self.counters.version
    }

    pub fn config(&self) -> &OptimConfig {
        &self.config
    }

    /// The objective of `loss` over a batch, one update per epoch. The policy version grows by one whether or not the step
    /// could be applied.
    pub fn train_step(&mut self, samples: &[TrainSample], loss: &LossConfig) -> Result<StepReport, LearnerError> {
        let started = Instant::now();
        self.check(samples.iter().map(|s| (&s.prompt[..], &s.tokens[..])))?;
        check_train(samples)?;
        loss.correction.check()?;
        self.guard.check()?;
        let kl = loss.kl_coef != 0.0;
        let mut items: Vec<Item> = samples.iter().map(|s| objective::item(s, loss)).collect();
        if kl {
            self.refer_to_base()?;
        }
        let reference = if kl { Some(self.reference_scores(&items, loss)?) } else { None };
        let mut first = match objective::needs_a_look(loss) {
            true => Some(self.scored(&items, loss.micro_batch, loss.temperature)?),
            false => None,
        };
        let batch = Batch::new(samples, loss, reference, first.as_deref());
        if loss.skip_zero {
            items.iter_mut().enumerate().for_each(|(i, item)| item.backward &= !batch.is_dropped(i));
        }
        // A single pass is looked at before it is applied. What is shared cannot be updated in place.
        let before: Before<AB> =
            (loss.epochs > 1).then(|| (self.network.clone(), self.optimizer.clone(), self.counters, self.lora.clone()));
        let mut report = StepReport { samples: samples.len(), applied: true, ..StepReport::default() };
        report.zero_samples = items.iter().filter(|i| !i.backward).count();
        let (mut cuts, mut seen) = ([0usize; 2], 0usize);
        for epoch in 0..loss.epochs.max(1) {
            // A ratio of whole answers has to be known before the first token's gradient.
            let now = match (loss.correction.by_answer(), first.take()) {
                (false, _) => None,
                (true, Some(scored)) => Some(scored),
                (true, None) => {
                    let scored = self.scored(&items, loss.micro_batch, loss.temperature);
                    Some(self.or_as_before(scored, &before)?)
                }
            };
            let pass = batch.pass(now.as_deref());
            let objective = |sample: usize, token: usize, logprob: f64| pass.term(sample, token, logprob);
            let pass = self.gradients(&items, loss.micro_batch, loss.temperature, &objective);
            let (scored, grads) = self.or_as_before(pass, &before)?;
            let total = sum_terms(&scored, &objective, |term| {
                seen += 1;
                cuts[0] += usize::from(term.cut == Cut::Low);
                cuts[1] += usize::from(term.cut == Cut::High);
            });
            let trained = self.of_trained(grads);
            let (grads, norm) = self.or_as_before(trained, &before)?;
            if epoch == 0 {
                report.loss = total;
                report.grad_norm = norm;
                batch.describe(&scored, &mut report);
                self.fates = batch.fates(&scored);
                self.seen = scored;
                report.alarms = self.guard.look(&self.memory, &report);
                self.memory.lower(&self.guard, &report.alarms);
            } else if !total.is_finite() || !norm.is_finite() {
                report.alarms.push(self.guard.not_finite());
            }
            if guard::skips(&report.alarms) {
                report.applied = false;
                break;
            }
            report.lr = self.update(grads, norm, loss.grad_clip)?;
        }
        if !report.applied {
            if let Some(before) = before {
                (self.network, self.optimizer, self.counters, self.lora) = before;
            }
            self.counters.skipped += 1;
        }
        self.memory.remember(&self.guard, &report);
        report.lr_scale = self.memory.lr_scale;
        self.counters.version.0 += 1;
        let share = |count: usize| if seen == 0 { 0.0 } else { count as f64 / seen as f64 };
        report.clip_fraction = share(cuts[0] + cuts[1]);
        (report.clip_low_fraction, report.clip_high_fraction) = (share(cuts[0]), share(cuts[1]));
        report.step = self.counters.updates;
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// A failure of a later pass leaves the learner as it was before the first.
    fn or_as_before<T>(&mut self, done: Result<T, LearnerError>, before: &Before<AB>) -> Result<T, LearnerError> {
        if let (Err(_), Some(before)) = (&done, before) {
            (self.network, self.optimizer, self.counters, self.lora) = before.clone();
        }
        done
    }

    /// One update of cross-entropy on the answers' tokens (mean over all tokens of the batch).
    pub fn sft_step(&mut self, samples: &[SftSample], micro_batch: usize) -> Result<SftReport, LearnerError> {
        let started = Instant::now();
        self.check(samples.iter().map(|s| (&s.prompt[..], &s.tokens[..])))?;
        let items: Vec<Item> =
            samples.iter().map(|s| Item { prompt: &s.prompt, tokens: &s.tokens, backward: true }).collect();
        let tokens: usize = samples.iter().map(|s| s.tokens.len()).sum();
        let share = 1.0 / tokens as f64;
        let objective =
            |_: usize, _: usize, logprob: f64| Term { loss: -share * logprob, d_logprob: -share, cut: Cut::No };
        let (scored, grads) = self.gradients(&items, micro_batch, 1.0, &objective)?;
        let loss = sum_terms(&scored, &objective, |_| ());
        let (grads, grad_norm) = self.of_trained(grads)?;
        let applied = loss.is_finite() && grad_norm.is_finite();
        let mut lr = 0.0;
        if applied {
            lr = self.update(grads, grad_norm, self.config.grad_clip)?;
        } else {
            self.counters.skipped += 1;
        }
        let tops: usize = scored.iter().map(|s| s.tops).sum();
        Ok(SftReport {
            step: self.counters.updates,
            loss,
            grad_norm,
            applied,
            lr,
            samples: samples.len(),
            tokens,
            accuracy: tops as f64 * share,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Log-probs of every answer's tokens under the present network, at a temperature; nothing is changed.
    pub fn score(&mut self, samples: &[SftSample], temperature: f32) -> Result<Vec<Vec<f32>>, LearnerError> {
        self.check(samples.iter().map(|s| (&s.prompt[..], &s.tokens[..])))?;
        let items: Vec<Item> =
            samples.iter().map(|s| Item { prompt: &s.prompt, tokens: &s.tokens, backward: false }).collect();
        let scored = self.scored(&items, 16, temperature)?;
        Ok(scored.into_iter().map(|s| s.logprobs.into_iter().map(|l| l as f32).collect()).collect())
    }

    fn reference_scores(&mut self, items: &[Item], loss: &LossConfig) -> Result<Vec<Scored>, LearnerError> {
        if self.reference.is_none() && self.lora.is_some() {
            return self.scored_by_base(items, loss);
        }
        if !self.on_host() {
            // Its memory is planned with the reference's.
            self.on_device()?;
        }
        // Out of `self` for the moment: the executor borrows the rest.
        let Some(weights) = self.reference.take() else { return Err(LearnerError::NoReference) };
        let scored = self.scored_by(&weights, items, loss);
        self.reference = Some(weights);
        scored
    }

    fn scored_by(
        &mut self,
        weights: &HostWeights,
        items: &[Item],
        loss: &LossConfig,
    ) -> Result<Vec<Scored>, LearnerError> {
        if !self.on_host()
            && let Some((device, _)) = self.on_device()?
        {
            return device.reference(weights, items, loss.micro_batch, loss.temperature);
        }
        Ok(host::run(weights, items, loss.micro_batch, loss.temperature, None, &mut self.workers).0)
    }

    fn scored(&mut self, items: &[Item], micro_batch: usize, temperature: f32) -> Result<Vec<Scored>, LearnerError> {
        if self.on_host() {
            let weights = HostWeights::from_network(&self.network);
            return Ok(host::run(&weights, items, micro_batch, temperature, None, &mut self.workers).0);
        }
        if let Some((device, trained)) = self.on_device()? {
            return Ok(device.run(trained, items, micro_batch, temperature, None)?.0);
        }
        Ok(autodiff::run(&self.network, items, micro_batch, temperature, None).0)
    }

    fn check<'a>(&self, samples: impl Iterator<Item = (&'a [u32], &'a [u32])>) -> Result<(), LearnerError> {
        check(samples, self.network.vocab_size(), self.network.rope.positions)
    }

    fn on_host(&self) -> bool {
        match self.execution {
            Execution::Host => true,
            Execution::Autodiff | Execution::Device => false,
            Execution::Auto => {
                let name = AB::name(&self.network.embed.val().device());
                name.contains("flex") || name.contains("ndarray")
            }
        }
    }

    fn gradients(
        &mut self,
        items: &[Item],
        micro_batch: usize,
        temperature: f32,
        objective: host::Objective,
    ) -> Result<(Vec<Scored>, GradientsParams), LearnerError> {
        if !self.on_host() {
            if let Some((device, trained)) = self.on_device()? {
                return device.run(trained, items, micro_batch, temperature, Some(objective));
            }
            let (scored, grads) = autodiff::run(&self.network, items, micro_batch, temperature, Some(objective));
            return Ok((scored, grads.unwrap_or_default()));
        }
        let weights = HostWeights::from_network(&self.network);
        let (scored, grads) = host::run(&weights, items, micro_batch, temperature, Some(objective), &mut self.workers);
        let mut params = GradientsParams::new();
        let device = self.network.embed.val().device();
        if let Some(mut grads) = grads {
            grads.for_each_mut(&mut |w| {
                let data = TensorData::new(std::mem::take(&mut w.data), w.shape.clone());
                if w.shape.len() == 1 {
                    params.register(w.id, Tensor::<AB::InnerBackend, 1>::from_data(data, &device));
                } else {
                    params.register(w.id, Tensor::<AB::InnerBackend, 2>::from_data(data, &device));
                }
            });
        }
        Ok((scored, params))
    }

    /// One optimizer update; returns the learning rate used. The norm is that of the gradients, which have been read for it.
    ///
    /// # Panics
    /// Where the GPU fails in the middle of it: like a failed product (`Kernels::check`), it leaves nothing to go on with.
    fn update(&mut self, grads: GradientsParams, norm: f64, clip: f32) -> Result<f64, LearnerError> {
        AB::check();
        let lr = self.config.lr * self.config.schedule.factor(self.counters.updates) * self.memory.lr_scale;
        let limit = f64::from(clip);
        let scale = if limit > 0.0 && norm > limit { (limit / norm) as f32 } else { 1.0 };
        self.apply(lr, grads, scale)?;
        self.counters.updates += 1;
        Ok(lr)
    }
}

/// In the samples' order, whatever order they were computed in.
fn sum_terms(scored: &[Scored], objective: host::Objective, mut see: impl FnMut(&Term)) -> f64 {
    let tokens =
        scored.iter().enumerate().flat_map(|(i, s)| s.logprobs.iter().enumerate().map(move |(t, l)| (i, t, *l)));
    tokens
        .map(|(i, t, logprob)| {
            let term = objective(i, t, logprob);
            see(&term);
            term.loss
        })
        .sum()
}
