//! What a generator's node samples with: settings, prompts and the policy's small files, as the head hands them out over the side channel.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use model::Tokenizer;
use model::engine::{EngineConfig, GpuConfig};
use model::lora::LoraConfig;
use model::sampling::Sampling;
use rollout::completion::Completion;
use rollout::id::{PolicyVersion, RolloutId, TaskId};
use rollout::outcome::Fault;
use rollout::task::{Split, TaskSpec};
use sandbox::device::Tenant;
use serde::{Deserialize, Serialize};

use super::weights::FileRef;
use crate::bench::standins;
use crate::config::Device;
use crate::crew::{News, Prompt, SampleJob, SampledItem, Sampler, SamplerFactory, Taken, TaskEntry, Weights};
use crate::policy::{self, BurnWorkshop, SamplerSettings, Workshop};
use crate::sft;

/// The whole of it, JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recipe {
    /// Which run it is of: another run's weights have the same version numbers.
    pub run: String,
    pub device: Device,
    /// fp32 on a GPU.
    pub single_precision: bool,
    /// Bytes for keys and values on a GPU; 0: as much as is sensible.
    pub cache_bytes: usize,
    pub gpu_wait_s: u64,
    /// Answers at once, of a node that names no number.
    pub max_batch: usize,
    pub max_seq_len: usize,
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    pub stop_at_code: bool,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// What is trained, and the seed of the first adapters; `None`: every weight.
    pub lora: Option<(LoraConfig, u64)>,
    pub prompts: Vec<(TaskId, Vec<u32>)>,
    /// Configuration and tokenizer.
    pub files: Vec<FileRef>,
    /// For tests and drills: each answer's text is that of a valid one that names its tokens.
    pub tagged: bool,
}

impl Recipe {
    /// The prompts, as the generator takes them.
    pub fn entries(&self) -> HashMap<TaskId, Arc<TaskEntry>> {
        let entry = |(id, tokens): &(TaskId, Vec<u32>)| {
            // A generator looks at nothing but the tokens.
            let spec =
                TaskSpec { id: id.clone(), level: 0, split: Split::Train, tags: Vec::new(), source: String::new() };
            let prompt = Arc::new(Prompt { text: String::new(), tokens: tokens.clone() });
            (id.clone(), Arc::new(TaskEntry { spec: Arc::new(spec), id: Arc::new(id.clone()), prompt }))
        };
        self.prompts.iter().map(entry).collect()
    }

    /// What turns a version's files into weights here.
    ///
    /// # Errors
    /// A device that this binary cannot use.
    pub fn workshop(&self) -> Result<Box<dyn Workshop>, String> {
        match self.device {
            Device::Cpu => Ok(Box::new(BurnWorkshop::<model::Cpu>::new(self.lora.clone(), Default::default()))),
            #[cfg(feature = "cuda")]
            Device::Cuda => Ok(Box::new(BurnWorkshop::<model::Gpu>::new(self.lora.clone(), Default::default()))),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda => Err("the run samples on GPUs, and this binary is built without `--features cuda`".into()),
        }
    }

    /// For our engine, in a head or on a node.
    pub fn settings(&self, max_batch: usize, tokenizer: Arc<Tokenizer>, tenant: Tenant) -> SamplerSettings {
        SamplerSettings {
            engine: EngineConfig { max_batch, max_seq_len: self.max_seq_len, threads: sft::threads() },
            gpu: (self.device == Device::Cuda).then(|| GpuConfig {
                single_precision: self.single_precision,
                cache_bytes: self.cache_bytes,
                wait_s: self.gpu_wait_s,
                ..GpuConfig::default()
            }),
            stop_at_code: self.stop_at_code,
            sampling: self.sampling,
            max_new_tokens: self.max_new_tokens,
            tokenizer,
            tenant,
        }
    }

    /// The sampler of a run, on this machine. `base`: the folder with the recipe's files.
    ///
    /// # Errors
    /// A tokenizer that cannot be read.
    pub fn factory(&self, base: &Path, max_batch: usize) -> Result<SamplerFactory, Fault> {
        let settings = self.settings(max_batch, policy::tokenizer(base, &self.eos)?, Tenant::default());
        let factory = match self.device {
            Device::Cpu => policy::sampler_factory::<model::CpuInner>(settings),
            #[cfg(feature = "cuda")]
            Device::Cuda => policy::sampler_factory::<model::GpuInner>(settings),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda => return Err(crate::supervise::fault(crate::supervise::GENERATOR_LOST, "no CUDA here")),
        };
        Ok(if self.tagged { tagged(factory) } else { factory })
    }
}

/// A real sampler; only the text of its answers is replaced by a valid one, a function of the tokens alone.
pub fn tagged(inner: SamplerFactory) -> SamplerFactory {
    Arc::new(move |weights, policy| Ok(Box::new(Tagged(inner(weights, policy)?))))
}

struct Tagged(Box<dyn Sampler>);

impl Sampler for Tagged {
    fn admit(&mut self, job: SampleJob) -> Result<(), Fault> {
        self.0.admit(job)
    }

    fn cancel(&mut self, rollout: RolloutId) {
        self.0.cancel(rollout);
    }

    fn adopt(&mut self, weights: Weights, policy: PolicyVersion) -> Result<Taken, Fault> {
        self.0.adopt(weights, policy)
    }

    fn busy(&self) -> bool {
        self.0.busy()
    }

    fn step(&mut self) -> Result<Vec<SampledItem>, Fault> {
        let tag = |item: SampledItem| {
            let c = &*item.completion;
            let (text, plan_tokens) = (standins::text_of(&c.tokens), standins::plan_tokens(&c.tokens));
            SampledItem { completion: Arc::new(Completion { text, plan_tokens, ..c.clone() }), ..item }
        };
        Ok(self.0.step()?.into_iter().map(tag).collect())
    }

    fn news(&mut self) -> Vec<News> {
        self.0.news()
    }
}
