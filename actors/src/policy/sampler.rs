//! `Sampler` on the engine: prompts and seeds in, answers with log-probs and text out.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::backend::Backend;
use model::Tokenizer;
use model::engine::stop::StopRule;
use model::engine::{Engine, EngineConfig, EngineError, Finished, GpuConfig, Request};
use model::sampling::Sampling;
use rollout::completion::Completion;
use rollout::id::{PolicyVersion, RolloutId};
use rollout::outcome::Fault;
use sandbox::device::Tenant;

use super::network;
use crate::crew::{SampleJob, SampledItem, Sampler, SamplerFactory, Taken, Weights};
use crate::supervise::{GENERATOR_LOST, GENERATOR_REFUSED, fault};

/// How answers are drawn.
#[derive(Clone)]
pub struct SamplerSettings {
    pub engine: EngineConfig,
    /// None: on the CPU, whatever the weights' backend.
    pub gpu: Option<GpuConfig>,
    /// Answers end where their code block is closed, too.
    pub stop_at_code: bool,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    pub tokenizer: Arc<Tokenizer>,
    /// What the engine does is work of this one.
    pub tenant: Tenant,
}

pub fn sampler_factory<B: Backend>(settings: SamplerSettings) -> SamplerFactory {
    Arc::new(move |weights, policy| {
        let network = network::<B>(&weights).ok_or_else(foreign)?;
        let mut engine = match &settings.gpu {
            None => Engine::<B>::new(&network, settings.engine.clone()),
            Some(gpu) => Engine::<B>::on_gpu(&network, settings.engine.clone(), gpu).map_err(lost)?,
        };
        engine.set_version(policy);
        if settings.stop_at_code {
            engine.stop_by(StopRule::closed_code(settings.tokenizer.clone()));
        }
        Ok(Box::new(EngineSampler { engine, settings: settings.clone(), jobs: HashMap::new() }))
    })
}

struct EngineSampler<B: Backend> {
    engine: Engine<B>,
    settings: SamplerSettings,
    jobs: HashMap<u64, SampleJob>,
}

impl<B: Backend> Sampler for EngineSampler<B> {
    fn admit(&mut self, job: SampleJob) -> Result<(), Fault> {
        let id = job.rollout.0;
        // An older attempt at the same rollout gives way.
        self.cancel(job.rollout);
        let request = Request {
            id,
            prompt: job.task.prompt.tokens.clone(),
            seed: job.seed,
            sampling: self.settings.sampling,
            max_new_tokens: self.settings.max_new_tokens,
            eos: self.settings.tokenizer.eos_token_ids().to_vec(),
        };
        self.engine.admit(request).map_err(|e| fault(GENERATOR_REFUSED, e))?;
        self.jobs.insert(id, job);
        Ok(())
    }

    fn cancel(&mut self, rollout: RolloutId) {
        if self.jobs.remove(&rollout.0).is_some() {
            self.engine.cancel(rollout.0);
        }
    }

    fn adopt(&mut self, weights: Weights, policy: PolicyVersion) -> Result<Taken, Fault> {
        let network = network::<B>(&weights).ok_or_else(foreign)?;
        let _work = self.settings.tenant.work();
        self.engine.adopt(&network, policy).map_err(lost)?;
        Ok(Taken::Now)
    }

    fn busy(&self) -> bool {
        !self.engine.is_idle()
    }

    fn step(&mut self) -> Result<Vec<SampledItem>, Fault> {
        let finished = {
            let _work = self.settings.tenant.work();
            self.engine.step().map_err(lost)?
        };
        let mut items = Vec::with_capacity(finished.len());
        for answer in finished {
            if let Some(job) = self.jobs.remove(&answer.id) {
                items.push(self.item(job, answer)?);
            }
        }
        Ok(items)
    }
}

impl<B: Backend> EngineSampler<B> {
    fn item(&self, job: SampleJob, answer: Finished) -> Result<SampledItem, Fault> {
        let tokenizer = &self.settings.tokenizer;
        let text = tokenizer.decode_answer(&answer.tokens).map_err(|e| fault(GENERATOR_LOST, e))?;
        let completion = Completion {
            prompt_tokens: job.task.prompt.tokens.clone(),
            plan_tokens: tokenizer.plan_tokens(&answer.tokens),
            tokens: answer.tokens,
            logprobs: answer.logprobs,
            spans: answer.spans,
            finish: answer.finish,
            text,
        };
        Ok(SampledItem { rollout: job.rollout, attempt: job.attempt, completion: Arc::new(completion) })
    }
}

fn lost(error: EngineError) -> Fault {
    fault(GENERATOR_LOST, error)
}

fn foreign() -> Fault {
    fault(GENERATOR_LOST, "the weights are of another backend")
}
