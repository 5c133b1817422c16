//! The run file: `cluster.toml` as a type. Strict (every slip is one clear error), layered (built-in default, then
//! `-c FILE`.., then `--set key=value`), and it remembers who set what, so that a key without effect is an error.
//!
//! The built-in default is the documented `cluster.toml` at the root of the checkout, compiled in.

mod check;
mod cluster;
mod keys;
pub mod launch;
mod layers;
mod lora;
pub mod scope;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::errors::UserError;

pub use cluster::Cluster;
pub use keys::{KEYS, Key, Kind};
pub use launch::Launch;
pub use layers::{Origin, Settings};
pub use lora::{Lora, adapters};
pub use model::correction::{Mismatch, PolicyLoss};
pub use model::guard::{GuardConfig, Reaction};
use model::learner::GpuType;
pub use reward::config::{AdvNorm, LenNorm, Mode as RewardMode, PlanFallback, RewardConfig};
pub use rollout::curriculum::CurriculumKind;

/// The text of the built-in default.
pub const DEFAULT_TOML: &str = include_str!("../../cluster.toml");

/// All keys of the run file; the meaning of each is its comment in `cluster.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub run: Run,
    pub model: ModelSec,
    pub tasks: Tasks,
    pub sft: Sft,
    pub sampling: Sampling,
    pub rollout: Rollout,
    pub reward: RewardConfig,
    pub learner: Learner,
    pub lora: Lora,
    pub guard: GuardConfig,
    pub generator: Generator,
    pub executor: Executor,
    pub cluster: Cluster,
    pub launch: Launch,
    pub gpu: Gpu,
    pub judge: Judge,
    pub eval: Eval,
    pub python: Python,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub seed: u64,
    pub dir: PathBuf,
    pub steps: u64,
    /// The same run twice is the same to the bit.
    pub deterministic: bool,
    /// Seconds, 0 = no limit.
    pub time_limit_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    Cpu,
    Cuda,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSec {
    /// Empty: the embedded policy. See [`ModelSec::folder`].
    pub dir: PathBuf,
    pub device: Device,
    pub gpu_wait_s: u64,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub ff: usize,
    pub vocab: usize,
}

impl ModelSec {
    /// The user's own Hugging Face folder, if one is set.
    pub fn folder(&self) -> Option<&Path> {
        set_path(&self.dir)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tasks {
    /// Empty: the tasks that ship with Troupe. See [`Tasks::folder`].
    pub dir: PathBuf,
    /// See [`crate::tasks::level_mix`]. Runs of before it have none.
    #[serde(default)]
    pub level_mix: String,
}

impl Tasks {
    /// The user's own task folder, if one is set.
    pub fn folder(&self) -> Option<&Path> {
        set_path(&self.dir)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sft {
    pub enabled: bool,
    /// Empty: the examples that ship with Troupe. See [`Sft::folder`].
    pub examples: PathBuf,
    pub epochs: usize,
    pub batch: usize,
    pub lr: f64,
    pub warmup_steps: usize,
    pub weight_decay: f64,
    pub grad_clip: f64,
}

impl Sft {
    /// The user's own example folder, if one is set.
    pub fn folder(&self) -> Option<&Path> {
        set_path(&self.examples)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    pub temperature: f64,
    pub top_k: usize,
    pub top_p: f64,
    pub min_p: f64,
    pub max_new_tokens: usize,
}

impl Sampling {
    /// What to tell at the start of a run whose ratios are biased by truncation; see `model::loss::LossConfig::temperature`.
    pub fn truncation_note(&self) -> Option<String> {
        let keys = [("top_k", self.top_k > 0), ("top_p", self.top_p < 1.0), ("min_p", self.min_p > 0.0)];
        let set: Vec<String> = keys.iter().filter(|(_, on)| *on).map(|(key, _)| format!("sampling.{key}")).collect();
        let verb = if set.len() == 1 { "truncates" } else { "truncate" };
        (!set.is_empty()).then(|| {
            format!(
                "{} {verb}: importance ratios compare the truncated behaviour distribution with the full softmax; \
                 mismatch KL is biased",
                set.join(", ")
            )
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    pub group_size: usize,
    pub groups_per_step: usize,
    pub staleness_max: u64,
    pub credits: usize,
    pub retries: u32,
    pub curriculum: CurriculumKind,
    pub drop_zero_variance: bool,
    pub sample_deadline_s: u64,
    pub judge_deadline_s: u64,
    pub execute_deadline_s: u64,
    pub train_deadline_s: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learner {
    pub lr: f64,
    /// Optimizer updates.
    pub warmup_steps: u64,
    /// 100 = constant.
    pub final_lr_percent: u32,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub grad_clip: f64,
    pub policy_loss: PolicyLoss,
    pub correction: Mismatch,
    pub truncate_at: f64,
    pub icepop_low: f64,
    pub icepop_high: f64,
    pub reject_answers: bool,
    pub reject_low: f64,
    pub reject_high: f64,
    pub reject_veto: f64,
    pub clip_low: f64,
    pub clip_high: f64,
    pub kl_coef: f64,
    pub epochs: usize,
    pub micro_batch: usize,
    /// Of the processor; 0: as many as there are.
    pub threads: usize,
    pub gpu_type: GpuType,
    pub gpu_recompute: bool,
    pub gpus: usize,
    pub keep_checkpoints: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generator {
    pub kind: GeneratorKind,
    /// False: only generators of other machines sample.
    pub here: bool,
    /// Sequences, or requests to the server, at once.
    pub max_batch: usize,
    pub server: ServerKind,
    /// Ends with `/v1`.
    pub base_url: String,
    pub model: String,
    /// A variable's name, never the key itself: the configuration is printed and stored. Empty: no key is sent.
    pub api_key_env: String,
    pub timeout_s: u64,
    pub retries: u32,
    pub reload: ReloadKind,
    /// Empty: in the run directory. See [`Generator::reload_folder`].
    pub reload_dir: PathBuf,
    pub reload_timeout_s: u64,
    pub cache_mb: usize,
    pub stop_at_code: bool,
}

/// Who samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneratorKind {
    /// Our own engine.
    Burn,
    /// A server with an OpenAI-compatible endpoint.
    Openai,
}

/// Which server it is: their ways to return tokens and to take weights differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerKind {
    Vllm,
    Sglang,
}

/// How new weights reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadKind {
    /// As a Hugging Face folder that both see.
    Disk,
    /// Not at all.
    None,
}

impl Generator {
    /// The user's own folder for the server's weights, if one is set.
    pub fn reload_folder(&self) -> Option<&Path> {
        set_path(&self.reload_dir)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Executor {
    pub workers: usize,
    /// 0: as many as `workers`.
    pub workers_max: usize,
    pub compile_timeout_ms: u64,
    pub run_timeout_ms: u64,
    pub memory_mb: u64,
    pub max_processes: u64,
    pub reuse_verdicts: bool,
    /// Names of `sandbox::isolation::PARTS`.
    pub require_isolation: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// `none`, `all`, or UUIDs with commas between them.
    pub devices: String,
    pub checks: usize,
    pub box_mb: u64,
    pub call_timeout_ms: u64,
    pub timing_tries: u32,
    pub foreign_mb: u64,
    pub idle_percent: u32,
    pub idle_ms: u64,
    pub lock_sm_mhz: u32,
}

/// The LLM judge; the static one has no settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    pub enabled: bool,
    pub base_url: String,
    pub model: String,
    /// A variable's name, never the key itself: the configuration is printed and stored. Empty: no key is sent.
    pub api_key_env: String,
    pub temperature: f64,
    /// Of one answer.
    pub answer_tokens: usize,
    pub timeout_s: u64,
    pub deadline_s: u64,
    pub concurrency: usize,
    pub retries: u32,
    /// 0 = no limit, as for the next two.
    pub requests_per_minute: usize,
    pub max_requests: u64,
    pub max_tokens: u64,
}

/// Which tasks are evaluated before and after RL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalSplit {
    HeldOut,
    Validation,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    pub enabled: bool,
    pub split: EvalSplit,
    pub samples: usize,
}

impl Eval {
    /// The tasks' split.
    pub fn tasks(&self) -> rollout::task::Split {
        match self.split {
            EvalSplit::HeldOut => rollout::task::Split::HeldOut,
            EvalSplit::Validation => rollout::task::Split::Validation,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// Empty: Troupe makes an environment. See [`Python::path`].
    pub interpreter: PathBuf,
}

impl Python {
    /// The user's own interpreter, if one is set.
    pub fn path(&self) -> Option<&Path> {
        set_path(&self.interpreter)
    }
}

fn set_path(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

impl Config {
    /// The built-in default.
    pub fn builtin() -> Result<Config, UserError> {
        Config::load(&[], &[])
    }

    /// Default, then each file, then each `key=value`; the later wins.
    pub fn load(files: &[PathBuf], sets: &[String]) -> Result<Config, UserError> {
        let mut settings = Settings::builtin()?;
        for file in files {
            settings.add_file(file)?;
        }
        for set in sets {
            settings.add_set(set)?;
        }
        settings.resolve()
    }

    /// As [`Config::load`]; without a file, `cluster.toml` of the present folder is taken if there is one.
    pub fn load_here(files: &[PathBuf], sets: &[String]) -> Result<Config, UserError> {
        let here = Path::new("cluster.toml");
        match files {
            [] if here.is_file() => Config::load(&[here.to_path_buf()], sets),
            files => Config::load(files, sets),
        }
    }

    /// The resolved configuration that a run stored of itself. Every key is present and none is held to be "set by
    /// the user", so a key without effect is fine here.
    pub fn from_resolved(text: &str, origin: &Path) -> Result<Config, UserError> {
        Config::stored(text, origin)?.resolve()
    }

    /// The same to be looked at, wherever the run's folder was copied: nothing is checked.
    pub fn as_stored(text: &str, origin: &Path) -> Result<Config, UserError> {
        Config::stored(text, origin)?.read()
    }

    fn stored(text: &str, origin: &Path) -> Result<Settings, UserError> {
        let mut settings = Settings::builtin()?;
        settings.add_text(text, |line| Origin::Resolved { path: origin.to_path_buf(), line })?;
        Ok(settings)
    }

    /// The resolved configuration as TOML, every key present; [`Config::from_resolved`] reads it back.
    pub fn to_toml(&self) -> String {
        // Plain structs of numbers, texts and flags: every one of them has a TOML form (a test covers all keys).
        toml::to_string(self).unwrap_or_default()
    }

    /// Every path made absolute, so that `troupe resume` works from any folder.
    pub fn with_absolute_paths(mut self, current_dir: &Path) -> Config {
        for path in [
            &mut self.run.dir,
            &mut self.model.dir,
            &mut self.tasks.dir,
            &mut self.sft.examples,
            &mut self.generator.reload_dir,
            &mut self.cluster.cookie_file,
            &mut self.launch.ssh_config,
            &mut self.cluster.object_store,
            &mut self.cluster.tls_cert,
            &mut self.cluster.tls_key,
            &mut self.cluster.tls_ca,
            &mut self.python.interpreter,
        ] {
            if !path.as_os_str().is_empty() {
                *path = current_dir.join(&*path);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests;
