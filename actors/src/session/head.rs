//! The run as the head of a cluster, where `cluster.listen` says so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::backend::Backend;
use model::{ModelConfig, Tokenizer};
use rollout::task::TaskSpec;

use super::generator;
use crate::cluster::head::Generating;
use crate::cluster::kit::Work;
use crate::cluster::weights::Press;
use crate::cluster::{Cookie, Head, HeadConfig, Kit};
use crate::config::{Config, GeneratorKind};
use crate::crew::TaskEntry;
use crate::observe::{Observer, Progress};
use crate::policy::{self, TrainerSettings};
use crate::run::RunError;
use crate::run_dir::WEIGHTS_DIR;
use crate::store::rows::Op;
use crate::store::{Reader, StoreError, StoreHandle};

/// The store's key of the last epoch in which nodes were taken in.
const EPOCH: &str = "cluster_epoch";
/// Milliseconds that generators of other machines have for a new version where there is none here, before it is announced again.
pub const ADOPT_MS: u64 = 600_000;
const FLUSH: Duration = Duration::from_secs(60);

/// One more than the last process of this run had; 0 where nobody can join.
pub fn next_epoch(config: &Config, reader: &Reader) -> Result<u64, StoreError> {
    if !config.cluster.is_on() {
        return Ok(0);
    }
    let last = reader.meta(EPOCH)?.and_then(|text| text.parse::<u64>().ok());
    Ok(last.unwrap_or(0) + 1)
}

/// What generators of other machines need, and the folder of the policy that RL begins with; `None` where they cannot join.
pub fn generating<'a, B: Backend>(
    config: &Config,
    run_dir: &Path,
    (epoch, secret): (u64, &[u8; 32]),
    (model, tokenizer): (&ModelConfig, &Tokenizer),
    entries: &[Arc<TaskEntry>],
    trainer: &'a TrainerSettings,
) -> Option<(Generating, &'a Path)> {
    if !config.cluster.is_on() || config.generator.kind != GeneratorKind::Burn {
        return None;
    }
    let run = blake3::derive_key("troupe 2026-11 name of a run", secret);
    let run = blake3::Hash::from_bytes(run).to_hex()[..16].to_string();
    let recipe = generator::recipe(config, model, tokenizer, entries, trainer.lora.clone(), run.clone());
    let adapted = trainer
        .lora
        .is_some()
        .then(|| policy::Adapted { checkpoints: trainer.checkpoints.clone(), start: trainer.start.clone() });
    let (folder, shared) = match config.cluster.weights_path() {
        Some(root) => (root.join(&run), Some(run)),
        None => (run_dir.join(WEIGHTS_DIR), None),
    };
    let generating = Generating {
        press: Press { publisher: policy::publisher::<B>(model.clone(), adapted), folder, shared, epoch },
        places_here: if config.generator.here { recipe.max_batch } else { 0 },
        sample_ms: config.rollout.sample_deadline_s * 1000,
        vocab: model.vocab_size,
        recipe,
    };
    Some((generating, &trainer.start))
}

/// Listens, if the run file says so. The epoch is durable before the first node can hear it.
pub fn start(
    config: &Config,
    tasks: &[TaskSpec],
    secret: [u8; 32],
    epoch: u64,
    store: &StoreHandle,
    observer: &Arc<dyn Observer>,
    generating: Option<(Generating, &Path)>,
) -> Result<Option<Head>, RunError> {
    let cluster = &config.cluster;
    if !cluster.is_on() {
        return Ok(None);
    }
    store.send(vec![Op::Meta { key: EPOCH, value: epoch.to_string() }])?;
    store.flush(FLUSH)?;
    let kit = Kit {
        work: Work::Sandbox { config: config.to_toml(), secret },
        tasks: tasks.to_vec(),
        deadline_ms: config.rollout.execute_deadline_s * 1000,
        executors: config.executor.workers.max(1) as u32,
    };
    let head = HeadConfig {
        listen: cluster.listen.clone(),
        bulk_port: cluster.bulk_port,
        cookie: Cookie::find(cluster)?,
        epoch,
        beat: cluster.beat(),
        limit: cluster.max_message_bytes,
        kit,
        observer: observer.clone(),
    };
    let head = Head::start_with(head, generating)?;
    observer.on(Progress::Note(format!("nodes can join at {} (`troupe join`, epoch {epoch})", cluster.listen)));
    Ok(Some(head))
}
