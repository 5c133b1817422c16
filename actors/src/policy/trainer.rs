//! `Trainer` on burn's learner: a batch in, a durable checkpoint and the next weights out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module as _;
use burn::tensor::backend::AutodiffBackend;
use model::guard::GuardConfig;
use model::kernels::Kernels;
use model::learner::{Execution, Learner};
use model::lora::LoraConfig;
use model::loss::LossConfig;
use model::optim::OptimConfig;
use rollout::id::StepId;
use rollout::outcome::Fault;
use sandbox::device::Tenant;

use super::checkpoint::{Checkpoints, Manifest};
use super::weights;
use crate::config::Config;
use crate::crew::{TrainError, TrainJob, TrainedItem, Trainer, TrainerFactory};
use crate::store::TokenScores;
use crate::supervise::{CHECKPOINT, LEARNER_FAILED, fault};

/// What the learner needs to start, at first and after a death.
#[derive(Clone)]
pub struct TrainerSettings {
    /// The warm-started policy: version 0, the reference of `kl_coef`, and the base of adapters.
    pub start: PathBuf,
    pub optim: OptimConfig,
    pub loss: LossConfig,
    pub guard: GuardConfig,
    /// `None`: every weight is trained.
    pub lora: Option<LoraConfig>,
    /// Of the first adapters.
    pub seed: u64,
    pub checkpoints: Checkpoints,
    pub threads: usize,
    pub execution: Execution,
    pub gpu: model::learner::GpuCompute,
    /// What the learner does is work of this one.
    pub tenant: Tenant,
}

pub fn trainer_factory<AB: AutodiffBackend + Kernels>(settings: TrainerSettings, device: AB::Device) -> TrainerFactory
where
    AB::Device: Sync,
{
    let settings = Arc::new(settings);
    Arc::new(move || Ok(Box::new(BurnTrainer::<AB>::start(settings.clone(), &device)?)))
}

/// The learner as the newest checkpoint has it, or at its start.
pub fn newest_learner<AB: AutodiffBackend + Kernels>(
    settings: &TrainerSettings,
    device: &AB::Device,
) -> Result<(Learner<AB>, Option<Manifest>), Fault> {
    let (_, network) = model::load_weights::<AB>(&settings.start, device).map_err(|e| fault(CHECKPOINT, e))?;
    let mut learner = Learner::new(network, settings.optim.clone())
        .with_execution(settings.execution, settings.threads)
        .with_gpu(settings.gpu)
        .with_guard(settings.guard);
    match &settings.lora {
        // The base is the reference.
        Some(lora) => learner = learner.with_lora(lora, settings.seed).map_err(|e| fault(LEARNER_FAILED, e))?,
        None if settings.loss.kl_coef != 0.0 => {
            let reference = learner.network().clone();
            learner.set_reference(&reference);
        }
        None => {}
    }
    let newest = settings.checkpoints.newest().map_err(|e| fault(CHECKPOINT, e))?;
    if let Some(manifest) = &newest {
        let folder = settings.checkpoints.path(manifest.policy);
        let found = learner.load_checkpoint(&folder).map_err(|e| fault(CHECKPOINT, e))?.digest;
        // Whole as it may be, it has to be the one that was published.
        if found != manifest.digest {
            let (folder, expected) = (folder.display(), &manifest.digest.0);
            let other =
                format!("{folder} holds another checkpoint: its SHA-256 is {}, `newest.json` says {expected}", found.0);
            return Err(fault(CHECKPOINT, other));
        }
    }
    Ok((learner, newest))
}

/// What a run's adapter belongs to: the user's own model where RL starts from it, else the run's warm start.
pub fn adapter_base(config: &Config, start: &Path) -> String {
    let own = config.model.folder().filter(|dir| !config.sft.enabled && dir.join("config.json").is_file());
    let folder = own.unwrap_or(start);
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf()).display().to_string()
}

struct BurnTrainer<AB: AutodiffBackend> {
    learner: Learner<AB>,
    settings: Arc<TrainerSettings>,
    newest: Option<TrainedItem>,
}

impl<AB: AutodiffBackend + Kernels> BurnTrainer<AB> {
    fn start(settings: Arc<TrainerSettings>, device: &AB::Device) -> Result<Self, Fault> {
        let (learner, newest) = newest_learner(&settings, device)?;
        let newest = newest.map(|manifest| item(manifest, &learner));
        Ok(BurnTrainer { learner, settings, newest })
    }

    /// Waits until nothing of the learner's runs on its device any more: its turn is about to end. What has failed there is told by whoever
    /// asks next.
    fn rest(&self) {
        for device in self.learner.network().devices() {
            if let Err(error) = AB::sync(&device) {
                tracing::debug!(?error, "the learner's device");
            }
        }
    }

    /// Writes the checkpoint and names it the newest.
    fn publish(&self, step: StepId, applied: bool, report: serde_json::Value) -> Result<Manifest, TrainError> {
        let checkpoints = &self.settings.checkpoints;
        let policy = self.learner.version();
        // Writing takes seconds, in which nobody needs the GPU but for a tensor now and then.
        let tenant = self.settings.tenant.clone();
        let _busy = tenant.busy();
        let digest = self
            .learner
            .save_in_turns(&checkpoints.path(policy), {
                let tenant = tenant.clone();
                move || tenant.work()
            })
            .map_err(|e| TrainError { fatal: true, fault: fault(CHECKPOINT, e) })?
            .digest;
        let manifest = checkpoints.manifest(step, policy, digest, applied, report);
        checkpoints.publish(&manifest).map_err(|e| TrainError { fatal: true, fault: fault(CHECKPOINT, e) })?;
        Ok(manifest)
    }
}

impl<AB: AutodiffBackend + Kernels> Trainer for BurnTrainer<AB> {
    fn newest(&self) -> Option<TrainedItem> {
        self.newest.clone()
    }

    fn prepare(&mut self) -> Result<(), Fault> {
        self.learner.prepare().map_err(|e| fault(LEARNER_FAILED, e))
    }

    fn train(&mut self, job: &TrainJob) -> Result<TrainedItem, TrainError> {
        let report = {
            let _work = self.settings.tenant.work();
            let done = self.learner.train_step(&job.samples, &self.settings.loss);
            self.rest();
            done.map_err(|e| TrainError { fatal: e.is_fatal(), fault: fault(LEARNER_FAILED, e) })?
        };
        let applied = report.applied;
        let manifest = self.publish(job.step, applied, flat(serde_json::to_value(&report)))?;
        let _work = self.settings.tenant.work();
        let done = item(manifest, &self.learner);
        self.rest();
        self.newest = Some(done.clone());
        let tokens = self.learner.take_seen().into_iter();
        let scores = |seen: model::learner::Seen| TokenScores {
            logprobs: seen.logprobs,
            entropies: seen.entropies,
            fates: Some(seen.fates),
        };
        let tokens = tokens.map(scores).collect();
        Ok(TrainedItem { tokens, ..done })
    }
}

fn item<AB: AutodiffBackend + Kernels>(manifest: Manifest, learner: &Learner<AB>) -> TrainedItem {
    TrainedItem {
        step: manifest.step,
        policy: manifest.policy,
        applied: manifest.applied,
        report: manifest.report,
        digest: manifest.digest,
        weights: weights(learner.inference()),
        tokens: Vec::new(),
    }
}

/// One level of nesting taken out: `ratio.p99` becomes `ratio_p99`, so that every number is a metric.
fn flat(report: Result<serde_json::Value, serde_json::Error>) -> serde_json::Value {
    let Ok(serde_json::Value::Object(fields)) = report else { return serde_json::Value::Null };
    let mut flat = serde_json::Map::new();
    for (name, value) in fields {
        match value {
            serde_json::Value::Object(inner) => {
                flat.extend(inner.into_iter().map(|(part, value)| (format!("{name}_{part}"), value)));
            }
            value => {
                flat.insert(name, value);
            }
        }
    }
    serde_json::Value::Object(flat)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Planted: `vetoed` taken out of the page. Seen: it is missing on the right.
    #[test]
    fn the_page_lists_every_number_of_a_step() {
        let report = super::flat(serde_json::to_value(model::stats::StepReport::default()));
        let names: BTreeSet<String> = report.as_object().unwrap().keys().cloned().collect();
        let page = include_str!("../../../docs/corrections.md");
        let table = page.split_once("## What a step reports").unwrap().1;
        let first_cells = table.lines().filter_map(|l| l.strip_prefix("| `")).filter_map(|l| l.split(" | ").next());
        let listed: BTreeSet<String> =
            first_cells.flat_map(|cell| cell.split(", ")).map(|n| n.trim_matches('`').to_string()).collect();
        assert_eq!(names, listed);
    }
}
