//! One process's part of a run: from a store to the end of the last phase, a stop, or a fault.

mod entries;
mod generator;
mod head;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::backend::AutodiffBackend;
use model::Loaded;
use model::correction::Correction;
use model::correction::geometric::Bounds;
use model::correction::icepop::Range;
use model::kernels::Kernels;
use model::loss::LossConfig;
use model::optim::{LrSchedule, OptimConfig};
use model::sampling::Sampling;
use ractor::{Actor, ActorRef};
use rollout::id::PolicyVersion;
use rollout::machine::MachineConfig;
use rollout::outcome::Fault;
use rollout::task::{Split, TaskSpec};
use sandbox::device::Tenant;
use sandbox::executor::Limits;
use sandbox::pyenv::{self, PyEnvConfig};
use tokio::sync::oneshot;

use entries::{entries, longest_text};

use crate::config::{self, Config, GeneratorKind};
use crate::crew::Crew;
use crate::eval::EvalLimits;
use crate::generator::Adoption;
use crate::llm_judge;
use crate::observe::{Observer, Progress, RunPhase, Source};
use crate::orchestrator::{Orchestrator, OrchestratorArgs, OrchestratorMsg, RunEnd, StopReason, orchestrator_lost};
use crate::policy::{self, Checkpoints, TrainerSettings};
use crate::resume::{Plan, restore};
use crate::run::{ADAPTER_DIR, POLICY_DIR, RunError};
use crate::run_dir::{SCRATCH_DIR, WARM_START_DIR, WEIGHTS_DIR};
use crate::sft;
use crate::stop::StopToken;
use crate::store::rows::Op;
use crate::store::{Reader, StoreError, Writer};
use crate::supervise::{ORCHESTRATOR_LOST, fault};
use crate::tasks::{level_mix, mixed};
use crate::wiring::Capacities;

/// Distance of the orchestrator's ticks.
const TICK: Duration = Duration::from_secs(1);
/// How often a wish to stop is looked for.
const STOP_POLL: Duration = Duration::from_millis(100);
/// Longest wait for the actors to let go at the end.
const LET_GO: Duration = Duration::from_secs(10);

/// The store's key of `llm_judge::Counts`.
const LLM_JUDGE_COUNTS: &str = "llm_judge";

/// Plays all phases that are left; true when the user stopped it.
pub fn play<AB: AutodiffBackend + Kernels>(
    config: &Config,
    tasks: &[TaskSpec],
    run_dir: &Path,
    writer: &Writer,
    observer: &Arc<dyn Observer>,
    stop: &StopToken,
) -> Result<bool, RunError>
where
    AB::Device: Sync,
{
    let llm_judge = llm_judge::Setup::new(&config.judge)?;
    let device = AB::Device::default();
    observer.on(Progress::Phase(RunPhase::SetUp));
    let cache_dir = pyenv::default_cache_dir()?;
    let python = pyenv::ensure(
        &PyEnvConfig { interpreter: config.python.path().map(Path::to_path_buf), cache_dir: cache_dir.clone() },
        &mut |line| observer.on(Progress::Note(line.to_string())),
    );
    // Ctrl-C also reaches the installer, which then fails.
    if stop.asked() {
        return Ok(true);
    }
    let python = python?;
    policy::require_isolation(&python, &config.executor.require_isolation)?;
    if let Some(note) = config.sampling.truncation_note() {
        observer.on(Progress::Note(note));
    }
    observer.on(Progress::Phase(RunPhase::WarmStart));
    let start = start_policy::<AB>(config, run_dir, &cache_dir, &device, observer, stop)?;

    let checkpoints = Checkpoints::new(run_dir, config.learner.keep_checkpoints);
    let unreadable = |source| RunError::Io { doing: "cannot read the checkpoints of", path: run_dir.into(), source };
    let newest = checkpoints.newest().map_err(unreadable)?;
    // The network is not kept: on a GPU it would stand beside the learner's and the generators'.
    let (shape, tokenizer) = {
        let Loaded { config, tokenizer, .. } = model::load_hf::<AB>(&start, &device)?;
        (config, Arc::new(tokenizer))
    };
    let entries = entries(config, tasks, &tokenizer, shape.max_position_embeddings)?;

    let reader = Reader::open(run_dir)?;
    let plan = plan(config, tasks);
    let restored = restore(&reader, &plan, newest.as_ref())?;
    let handle = writer.handle();
    let prompts = entries.iter().map(|entry| Op::Prompt {
        task: entry.spec.id.clone(),
        text: entry.prompt.text.clone(),
        tokens: entry.prompt.tokens.clone(),
    });
    handle.send(prompts.chain(restored.repairs).collect())?;

    let tenant = Tenant::default();
    let trainer = TrainerSettings {
        start: start.clone(),
        optim: optim(config),
        loss: loss(config),
        guard: config.guard,
        lora: config::adapters(config, &shape)?,
        seed: config.run.seed,
        checkpoints: checkpoints.clone(),
        threads: sft::learner_threads(config),
        execution: sft::execution(config),
        gpu: model::learner::GpuCompute {
            // The newest; with adapters it is a copy of its own, and the next one is made beside it.
            published: if config.lora.rank > 0 { 2 } else { 1 },
            longest: longest_text(config, &entries, shape.max_position_embeddings),
            ..sft::gpu(config)
        },
        tenant: tenant.clone(),
    };
    let sampler = generator::sampler::<AB::InnerBackend>(
        config,
        run_dir,
        (&shape, &tokenizer),
        &entries,
        &tenant,
        restored.phases.is_empty(),
    )?;
    let secret = secret(&reader)?;
    let epoch = head::next_epoch(config, &reader)?;
    // A head without executors of its own needs no GPU for them.
    let gpus = match config.executor.workers.max(config.executor.workers_max) {
        0 => None,
        _ => policy::Gpus::find(config, &python, &run_dir.join(SCRATCH_DIR), secret)?,
    };
    let homes = generator::homes(config);
    let gpus = gpus.map(|gpus| gpus.beside(&tenant, |kind| homes.contains(kind)));
    let _watched = gpus.as_ref().and_then(|gpus| gpus.watched(&handle));
    let mut crew = Crew {
        sampler,
        trainer: policy::trainer_factory::<AB>(trainer.clone(), device.clone()),
        verifier: policy::verifier_factory(
            python,
            run_dir.join(SCRATCH_DIR),
            limits(config),
            secret,
            config.executor.require_isolation.clone(),
            gpus.clone(),
            observer.clone(),
        ),
        saturated: gpus.map(policy::Gpus::saturation),
        llm_judge: llm_judge.clone(),
        cluster: None,
        pen: Default::default(),
    };
    if let (Some(judge), Some(counts)) = (&llm_judge, llm_judge_counts(&reader)?) {
        judge.restore(counts);
    }
    drop(reader);
    // The newest checkpoint's policy, or the warm start; read again at the end, so that the first is not held all the time.
    let factory = crew.trainer.clone();
    let newest = |prepare: bool| -> Result<Adoption, RunError> {
        let mut trainer = factory().map_err(|fault| failed(fault, false, run_dir))?;
        if prepare {
            trainer.prepare().map_err(|fault| failed(fault, false, run_dir))?;
        }
        if let Some(item) = trainer.newest() {
            return Ok(Adoption { weights: item.weights, policy: item.policy });
        }
        drop(trainer);
        let (_, network) = model::load_weights::<AB::InnerBackend>(&start, &device)?;
        Ok(Adoption { weights: policy::weights(network), policy: PolicyVersion(0) })
    };
    if !restored.phases.is_empty() {
        let start = newest(true)?;
        let policy = (&shape, &*tokenizer);
        let generating =
            head::generating::<AB::InnerBackend>(config, run_dir, (epoch, &secret), policy, &entries, &trainer);
        let head = head::start(config, tasks, secret, epoch, &handle, observer, generating)?;
        crew.cluster = head.as_ref().map(|head| head.link());
        crew.cluster.iter().for_each(|link| observer.may_look(Source::Cluster(link.clone())));
        let (done, ended) = oneshot::channel();
        let args = OrchestratorArgs {
            crew: crew.clone(),
            capacities: capacities(config),
            tasks: entries,
            phases: restored.phases,
            store: handle.clone(),
            observer: observer.clone(),
            reward: config.reward,
            start,
            time_limit_ms: config.run.time_limit_s * 1000,
            tick: TICK,
            done,
        };
        let end = conduct(args, ended, stop);
        if let Some(head) = head {
            head.finish(matches!(end, Ok(RunEnd::Completed)));
        }
        let end = end?;
        if let Some(judge) = &llm_judge {
            let value = serde_json::to_string(&judge.counts()).map_err(StoreError::from)?;
            // How the run ended is the news, also where the store is the reason.
            if let Err(error) = handle.send(vec![Op::Meta { key: LLM_JUDGE_COUNTS, value }]) {
                tracing::warn!(%error, "what the LLM judge did was not stored");
            }
        }
        // Every executor is gone; what they left is of no use.
        let _ = std::fs::remove_dir_all(run_dir.join(SCRATCH_DIR));
        let _ = std::fs::remove_dir_all(run_dir.join(WEIGHTS_DIR));
        match end {
            RunEnd::Completed => {}
            RunEnd::Stopped => return Ok(true),
            RunEnd::Failed { fault, disk_full } => return Err(failed(fault, disk_full, run_dir)),
        }
    }
    if let Some(network) = policy::network::<AB::InnerBackend>(&newest(false)?.weights) {
        model::save_hf(&run_dir.join(POLICY_DIR), &shape, &network, &tokenizer)?;
        if trainer.lora.is_some() {
            let (learner, _) =
                policy::newest_learner::<AB>(&trainer, &device).map_err(|fault| failed(fault, false, run_dir))?;
            let base = policy::adapter_base(config, &trainer.start);
            learner.save_adapter(&run_dir.join(POLICY_DIR).join(ADAPTER_DIR), &base)?;
        }
    }
    Ok(false)
}

/// What the LLM judge did in this run, as far as its processes ended in order; `None` before the first.
pub fn llm_judge_counts(reader: &Reader) -> Result<Option<llm_judge::Counts>, StoreError> {
    let text = reader.meta(LLM_JUDGE_COUNTS)?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

/// Runs the actors until the run ends. Every wait inside is bounded; this one lasts as long as the run.
pub fn conduct(args: OrchestratorArgs, ended: oneshot::Receiver<RunEnd>, stop: &StopToken) -> Result<RunEnd, RunError> {
    conduct_known(args, ended, stop, |_| {})
}

/// As [`conduct`]; `know` gets the orchestrator's address before anything happens.
pub fn conduct_known(
    args: OrchestratorArgs,
    mut ended: oneshot::Receiver<RunEnd>,
    stop: &StopToken,
    know: impl FnOnce(ActorRef<OrchestratorMsg>),
) -> Result<RunEnd, RunError> {
    let no_runtime = |source| RunError::Io { doing: "cannot start threads for", path: "the actors".into(), source };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(no_runtime)?;
    let pen = args.crew.pen.clone();
    let end = runtime.block_on(async {
        let spawned = Orchestrator::spawn(None, Orchestrator, args).await;
        let (actor, mut alive) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => return RunEnd::Failed { fault: fault(ORCHESTRATOR_LOST, error), disk_full: false },
        };
        know(actor.clone());
        let _ = actor.cast(OrchestratorMsg::Begin);
        let mut told = false;
        let end = loop {
            tokio::select! {
                biased;
                end = &mut ended => break end.ok(),
                _ = &mut alive => break ended.try_recv().ok(),
                () = tokio::time::sleep(STOP_POLL) => {
                    if stop.asked() && !told {
                        told = true;
                        let _ = actor.cast(OrchestratorMsg::Stop(StopReason::User));
                    }
                }
            }
        };
        actor.kill();
        let _ = tokio::time::timeout(LET_GO, alive).await;
        end.unwrap_or(RunEnd::Failed { fault: orchestrator_lost(), disk_full: false })
    });
    // The executors' tasks end here, and with them their Python processes.
    runtime.shutdown_timeout(LET_GO);
    // The learner's thread is none of the runtime's. What it still writes would be in the way of whoever goes on with this run.
    if !pen.is_back(LET_GO) {
        tracing::warn!("the learner is still at work on its last step");
    }
    Ok(end)
}

fn failed(fault: Fault, disk_full: bool, run_dir: &Path) -> RunError {
    let cause =
        if disk_full { "free some space (or whatever the message names), then" } else { "what is done is safe;" };
    RunError::Fault { fault, hint: format!("{cause} continue with `troupe resume {}`", run_dir.display()) }
}

/// The policy RL starts from, inside the run directory: a resumed run needs no cache.
fn start_policy<AB: AutodiffBackend + Kernels>(
    config: &Config,
    run_dir: &Path,
    cache_dir: &Path,
    device: &AB::Device,
    observer: &Arc<dyn Observer>,
    stop: &StopToken,
) -> Result<PathBuf, RunError> {
    let own = run_dir.join(WARM_START_DIR);
    if own.join("config.json").is_file() {
        return Ok(own);
    }
    let made = sft::warm_start::<AB>(config, cache_dir, device, observer, stop)?;
    if !config.sft.enabled {
        // A broken folder is told by its own name, and once mended `troupe resume` goes on.
        let loaded = model::load_hf::<AB>(&made, device)?;
        if model::find_gguf(&made)?.is_some() {
            // Converted once: from here on every reader finds a Hugging Face folder.
            model::save_hf(&own, &loaded.config, &loaded.network, &loaded.tokenizer)?;
            return Ok(own);
        }
    }
    let failed = |source| RunError::Io { doing: "cannot copy the policy to", path: own.clone(), source };
    let staging = tempfile::Builder::new().prefix("warm-start-").tempdir_in(run_dir).map_err(failed)?;
    for entry in std::fs::read_dir(&made).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().is_file() {
            let copy = staging.path().join(entry.file_name());
            std::fs::copy(entry.path(), &copy).map_err(failed)?;
            std::fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(failed)?;
        }
    }
    std::fs::rename(staging.keep(), &own).map_err(failed)?;
    Ok(own)
}

/// The phases' settings as the run file gives them.
pub fn plan(config: &Config, tasks: &[TaskSpec]) -> Plan {
    let of = |split: Split| tasks.iter().filter(|t| t.split == split).map(|t| t.id.clone()).collect::<Vec<_>>();
    let machine = machine_config(config);
    let train = mixed(tasks, &level_mix(&config.tasks.level_mix).unwrap_or_default());
    Plan {
        limits: EvalLimits {
            credits: config.rollout.credits,
            retries: config.rollout.retries,
            sample_ms: machine.sample_deadline_ms,
            judge_ms: machine.judge_deadline_ms,
            execute_ms: machine.execute_deadline_ms,
        },
        machine,
        train: train.iter().map(|(task, _)| task.clone()).collect(),
        train_mixture: train.iter().filter_map(|(_, part)| *part).collect(),
        evaluated: of(config.eval.tasks()),
        eval_samples: if config.eval.enabled { config.eval.samples as u64 } else { 0 },
        seed: config.run.seed,
    }
}

/// The machine's settings. Its deadlines also cover the queue: for a place among the answers that are sampled at once, and for a free
/// executor, as many as may be before this one, each within its own limit; and the LLM judge after it.
pub fn machine_config(config: &Config) -> MachineConfig {
    let r = &config.rollout;
    let queued = r.credits.div_ceil(config.executor.workers.max(1)) as u64;
    let turns = r.credits.div_ceil(config.generator.max_batch.max(1)).max(1) as u64;
    // An answer of a version waits until a server has loaded it.
    let reload_s = if config.generator.kind == GeneratorKind::Openai { config.generator.reload_timeout_s } else { 0 };
    let llm_judge_s = if config.judge.enabled { config.judge.deadline_s } else { 0 };
    MachineConfig {
        seed: config.run.seed,
        group_size: r.group_size as u32,
        groups_per_step: r.groups_per_step as u32,
        staleness_max: r.staleness_max,
        credits: r.credits as u32,
        retries: r.retries,
        curriculum: r.curriculum,
        drop_zero_variance: r.drop_zero_variance,
        steps: config.run.steps,
        sample_deadline_ms: (r.sample_deadline_s * turns + reload_s) * 1000,
        judge_deadline_ms: r.judge_deadline_s * 1000,
        execute_deadline_ms: (r.execute_deadline_s * (1 + queued) + llm_judge_s) * 1000,
        train_deadline_ms: r.train_deadline_s * 1000,
        adopt_deadline_ms: match config.generator.kind {
            GeneratorKind::Burn if config.generator.here => MachineConfig::default().adopt_deadline_ms,
            // Other machines have to fetch it first.
            GeneratorKind::Burn => head::ADOPT_MS,
            // One reload may wait for another.
            GeneratorKind::Openai => 2 * config.generator.reload_timeout_s * 1000,
        },
        ..MachineConfig::default()
    }
}

fn capacities(config: &Config) -> Capacities {
    Capacities {
        credits: config.rollout.credits,
        executors: config.executor.workers as u32,
        executors_max: config.executor.workers_max.max(config.executor.workers) as u32,
        execute_deadline: Duration::from_secs(config.rollout.execute_deadline_s),
        train_deadline: Duration::from_secs(config.rollout.train_deadline_s),
        reuse_verdicts: config.executor.reuse_verdicts,
    }
}

fn sampling(config: &Config) -> Sampling {
    let s = &config.sampling;
    Sampling { temperature: s.temperature as f32, top_k: s.top_k, top_p: s.top_p as f32, min_p: s.min_p as f32 }
}

fn optim(config: &Config) -> OptimConfig {
    let l = &config.learner;
    OptimConfig {
        lr: l.lr,
        beta1: l.beta1 as f32,
        beta2: l.beta2 as f32,
        eps: l.eps as f32,
        weight_decay: l.weight_decay as f32,
        grad_clip: l.grad_clip as f32,
        schedule: schedule(config),
    }
}

/// One batch is `learner.epochs` updates.
fn schedule(config: &Config) -> LrSchedule {
    let l = &config.learner;
    match l.final_lr_percent {
        100 => LrSchedule::constant(l.warmup_steps),
        percent => LrSchedule::cosine(l.warmup_steps, config.run.steps * l.epochs as u64, percent),
    }
}

fn loss(config: &Config) -> LossConfig {
    let l = &config.learner;
    let temperature = config.sampling.temperature as f32;
    LossConfig {
        clip_low: l.clip_low as f32,
        clip_high: l.clip_high as f32,
        kl_coef: l.kl_coef as f32,
        temperature: if temperature > 0.0 { temperature } else { 1.0 },
        micro_batch: l.micro_batch,
        grad_clip: l.grad_clip as f32,
        epochs: l.epochs,
        correction: correction(l),
        ..LossConfig::default()
    }
}

/// What the run file's keys ask of the model.
pub fn correction(l: &config::Learner) -> Correction {
    let bounds = Bounds { low: l.reject_low, high: l.reject_high, veto: l.reject_veto };
    Correction {
        policy_loss: l.policy_loss,
        mismatch: l.correction,
        truncate_at: l.truncate_at,
        icepop: Range { low: l.icepop_low, high: l.icepop_high },
        reject: l.reject_answers.then_some(bounds),
    }
}

/// The run file's limits on one candidate.
pub fn limits(config: &Config) -> Limits {
    let e = &config.executor;
    Limits {
        compile_ms: e.compile_timeout_ms,
        run_ms: e.run_timeout_ms,
        memory_bytes: e.memory_mb << 20,
        max_processes: e.max_processes,
        ..Limits::default()
    }
}

/// The secret the run was created with.
fn secret(reader: &Reader) -> Result<[u8; 32], StoreError> {
    let missing = || StoreError::Incomplete("its secret".into());
    let text = reader.meta("secret")?.ok_or_else(missing)?;
    let mut secret = [0; 32];
    for (n, byte) in secret.iter_mut().enumerate() {
        let digits = text.get(2 * n..2 * n + 2).ok_or_else(missing)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| missing())?;
    }
    Ok(secret)
}
