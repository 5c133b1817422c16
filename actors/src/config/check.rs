//! Rules between keys: a key that the user set must have an effect, and keys that belong together must fit.

mod server;

use rollout::machine::ConfigError;

use super::{
    AdvNorm, Config, Device, GeneratorKind, LenNorm, Mismatch, PolicyLoss, Reaction, ReloadKind, RewardMode,
    ServerKind, Settings,
};
use super::{cluster, lora};
use crate::errors::UserError;
use crate::{http, policy, session};

/// Seconds of an evaluation for what has no limit of its own in the run file.
const EVALUATION_MARGIN_S: u64 = 10;

/// A group of keys that only count under a condition.
struct Effect {
    keys: &'static [&'static str],
    /// The condition, in words.
    only: &'static str,
    holds: fn(&Config) -> bool,
}

const EFFECTS: &[Effect] = &[
    Effect {
        keys: &["reward.uniform_beta"],
        only: "reward.mode = \"uniform\"",
        holds: |c| c.reward.mode == RewardMode::Uniform,
    },
    Effect {
        keys: &["reward.std_estimator"],
        only: "reward.adv_norm = \"std\"",
        holds: |c| c.reward.adv_norm == AdvNorm::Std,
    },
    Effect {
        keys: &["reward.len_norm_constant"],
        only: "reward.len_norm = \"constant\"",
        holds: |c| c.reward.len_norm == LenNorm::Constant,
    },
    Effect {
        keys: &["learner.truncate_at"],
        only: "learner.correction = \"truncated\"",
        holds: |c| c.learner.correction == Mismatch::Truncated,
    },
    Effect {
        keys: &["learner.icepop_low", "learner.icepop_high"],
        only: "learner.correction = \"icepop\"",
        holds: |c| c.learner.correction == Mismatch::Icepop,
    },
    Effect {
        keys: &["learner.reject_low", "learner.reject_high", "learner.reject_veto"],
        only: "learner.reject_answers = true",
        holds: |c| c.learner.reject_answers,
    },
    Effect {
        keys: &["learner.clip_low", "learner.clip_high"],
        only: "learner.epochs > 1 (every ratio in the first pass of learner.policy_loss = \"decoupled\" is 1)",
        holds: |c| c.learner.policy_loss != PolicyLoss::Decoupled || c.learner.epochs > 1,
    },
    Effect {
        keys: &["lora.alpha", "lora.targets", "lora.rslora"],
        only: "lora.rank above 0",
        holds: |c| c.lora.rank > 0,
    },
    Effect {
        keys: &["guard.gradient_spike_factor"],
        only: "guard.gradient_spike other than \"off\"",
        holds: |c| c.guard.gradient_spike != Reaction::Off,
    },
    Effect {
        keys: &["guard.mismatch_kl_max"],
        only: "guard.mismatch other than \"off\"",
        holds: |c| c.guard.mismatch != Reaction::Off,
    },
    Effect {
        keys: &["guard.entropy_share_min"],
        only: "guard.entropy_collapse other than \"off\"",
        holds: |c| c.guard.entropy_collapse != Reaction::Off,
    },
    Effect {
        keys: &["guard.lower_by"],
        only: "an alarm of [guard] set to \"lower_rate\"",
        holds: |c| [c.guard.gradient_spike, c.guard.mismatch, c.guard.entropy_collapse].contains(&Reaction::LowerRate),
    },
    Effect {
        keys: &["model.hidden", "model.layers", "model.heads", "model.kv_heads", "model.ff", "model.vocab"],
        only: "model.dir = \"\" (a model folder brings its own shape)",
        holds: |c| c.model.folder().is_none(),
    },
    Effect {
        keys: &[
            "sft.examples",
            "sft.epochs",
            "sft.batch",
            "sft.lr",
            "sft.warmup_steps",
            "sft.weight_decay",
            "sft.grad_clip",
        ],
        only: "sft.enabled = true",
        holds: |c| c.sft.enabled,
    },
    Effect {
        keys: &[
            "generator.server",
            "generator.base_url",
            "generator.model",
            "generator.api_key_env",
            "generator.timeout_s",
            "generator.retries",
            "generator.reload",
            "generator.reload_dir",
            "generator.reload_timeout_s",
        ],
        only: "generator.kind = \"openai\"",
        holds: |c| c.generator.kind == GeneratorKind::Openai,
    },
    Effect {
        keys: &["generator.model"],
        only: "generator.server = \"vllm\" (SGLang serves one model and is not told its name)",
        holds: |c| c.generator.server == ServerKind::Vllm,
    },
    Effect {
        keys: &["generator.reload_dir", "generator.reload_timeout_s"],
        only: "generator.reload = \"disk\"",
        holds: |c| c.generator.reload == ReloadKind::Disk,
    },
    Effect {
        keys: &[
            "judge.base_url",
            "judge.model",
            "judge.api_key_env",
            "judge.temperature",
            "judge.answer_tokens",
            "judge.timeout_s",
            "judge.deadline_s",
            "judge.concurrency",
            "judge.retries",
            "judge.requests_per_minute",
            "judge.max_requests",
            "judge.max_tokens",
        ],
        only: "judge.enabled = true",
        holds: |c| c.judge.enabled,
    },
    Effect {
        keys: &["generator.cache_mb"],
        only: "model.device = \"cuda\" and generator.kind = \"burn\"",
        holds: |c| c.model.device == Device::Cuda && c.generator.kind == GeneratorKind::Burn,
    },
    Effect {
        keys: &["learner.gpus", "learner.gpu_type", "learner.gpu_recompute", "model.gpu_wait_s"],
        only: "model.device = \"cuda\"",
        holds: |c| c.model.device == Device::Cuda,
    },
    Effect {
        keys: &[
            "gpu.checks",
            "gpu.box_mb",
            "gpu.call_timeout_ms",
            "gpu.timing_tries",
            "gpu.foreign_mb",
            "gpu.idle_percent",
            "gpu.idle_ms",
            "gpu.lock_sm_mhz",
        ],
        only: "gpu.devices other than \"none\", or cluster.listen (executors of other machines may have GPUs)",
        holds: |c| c.gpu.devices != "none" || c.cluster.is_on(),
    },
    Effect {
        keys: &["generator.here"],
        only: "generator.kind = \"burn\" and cluster.listen (where generators of other machines join)",
        holds: |c| c.generator.kind == GeneratorKind::Burn && c.cluster.is_on(),
    },
    Effect {
        keys: &["generator.stop_at_code"],
        only: "generator.kind = \"burn\" (a server has stop rules of its own)",
        holds: |c| c.generator.kind == GeneratorKind::Burn,
    },
    Effect {
        keys: &[
            "cluster.bulk_port",
            "cluster.heartbeat_ms",
            "cluster.suspect_ms",
            "cluster.dead_ms",
            "cluster.lease_ms",
            "cluster.max_message_bytes",
        ],
        only: "cluster.listen (nobody can join without it)",
        holds: |c| c.cluster.is_on(),
    },
    Effect { keys: &["eval.samples", "eval.split"], only: "eval.enabled = true", holds: |c| c.eval.enabled },
    Effect {
        keys: &["reward.adv_norm", "reward.std_estimator", "reward.baseline"],
        only: "reward.zero_advantages = false",
        holds: |c| !c.reward.zero_advantages,
    },
];

/// All rules; the first that is broken is the error.
pub fn check(config: &Config, settings: &Settings) -> Result<(), UserError> {
    for effect in EFFECTS {
        for key in effect.keys {
            let origin = settings.asked(key);
            if let (Some(origin), false) = (origin, (effect.holds)(config)) {
                return Err(UserError::new(format!("`{key}` has no effect in this configuration"))
                    .at(origin)
                    .found(format!("`{key}` is set"))
                    .expected(format!("`{key}` only with {}", effect.only))
                    .hint(format!("remove `{key}`, or set {}", effect.only)));
            }
        }
    }
    device(config, settings)?;
    shape(config, settings)?;
    start(config, settings)?;
    lora::check(config, settings)?;
    correction(config, settings)?;
    deterministic(config, settings)?;
    batch(config, settings)?;
    mixture(config, settings)?;
    executors(config, settings)?;
    cluster::check(config, settings)?;
    deadlines(config, settings)?;
    llm_judge(config, settings)?;
    server::check(config, settings)
}

/// The place of the first of `keys` that the user set, else of the first.
pub(super) fn place(settings: &Settings, keys: &[&str]) -> String {
    let user = keys.iter().find_map(|k| settings.origin(k).filter(|o| o.is_user()));
    match user.or_else(|| keys.first().and_then(|k| settings.origin(k))) {
        Some(origin) => origin.to_string(),
        None => String::new(),
    }
}

fn device(config: &Config, settings: &Settings) -> Result<(), UserError> {
    if config.model.device == Device::Cuda && !cfg!(feature = "cuda") {
        return Err(UserError::new("this binary was built without CUDA")
            .at(place(settings, &["model.device"]))
            .found("model.device = \"cuda\"")
            .expected("model.device = \"cpu\"")
            .hint("build with `cargo build --release --features cuda`, or set model.device = \"cpu\""));
    }
    Ok(())
}

fn shape(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let m = &config.model;
    if m.folder().is_some() {
        return Ok(());
    }
    if !m.hidden.is_multiple_of(2 * m.heads) {
        return Err(UserError::new("the embedded policy's heads do not fit its width")
            .at(place(settings, &["model.heads", "model.hidden"]))
            .found(format!("model.hidden = {}, model.heads = {}", m.hidden, m.heads))
            .expected("model.hidden = model.heads x an even head size")
            .hint(format!("for example model.hidden = {}", 32 * m.heads)));
    }
    if !m.heads.is_multiple_of(m.kv_heads) {
        return Err(UserError::new("the embedded policy's key-value heads do not divide its heads")
            .at(place(settings, &["model.kv_heads", "model.heads"]))
            .found(format!("model.heads = {}, model.kv_heads = {}", m.heads, m.kv_heads))
            .expected("model.heads to be a multiple of model.kv_heads")
            .hint("model.kv_heads = 1 always fits"));
    }
    Ok(())
}

/// The embedded policy is made by the warm start.
fn start(config: &Config, settings: &Settings) -> Result<(), UserError> {
    if config.sft.enabled || config.model.folder().is_some() {
        return Ok(());
    }
    Err(UserError::new("the embedded policy knows nothing without a warm start")
        .at(place(settings, &["sft.enabled", "model.dir"]))
        .found("sft.enabled = false, model.dir = \"\"")
        .expected("sft.enabled = true, or a model of your own in model.dir")
        .hint("remove `sft.enabled`, or name a Hugging Face folder in model.dir"))
}

/// What depends on the clock, or on somebody else, is not the same twice.
fn deterministic(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let (key, found, expected) = match (config.rollout.staleness_max, config.judge.enabled, &*config.gpu.devices) {
        _ if !config.run.deterministic => return Ok(()),
        _ if config.generator.kind == GeneratorKind::Openai => ("generator.kind", "\"openai\"".to_owned(), "\"burn\""),
        (0, false, "none") => return Ok(()),
        (1.., _, _) => ("rollout.staleness_max", config.rollout.staleness_max.to_string(), "0"),
        (_, true, _) => ("judge.enabled", "true".to_owned(), "false"),
        (_, _, devices) => ("gpu.devices", format!("{devices:?}"), "\"none\""),
    };
    Err(UserError::new("a run with these settings is not the same twice")
        .at(place(settings, &[key, "run.deterministic"]))
        .found(format!("run.deterministic = true, {key} = {found}"))
        .expected(format!("{key} = {expected}"))
        .hint("set it, or run.deterministic = false: what was sampled and trained is on record either way"))
}

/// A cap needs a weight to cap.
fn correction(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let l = &config.learner;
    let refused = l.correction == Mismatch::Truncated && l.policy_loss != PolicyLoss::Decoupled;
    if !refused {
        return Ok(());
    }
    let policy_loss = match l.policy_loss {
        PolicyLoss::Ppo => "ppo",
        PolicyLoss::Decoupled => "decoupled",
        PolicyLoss::Gspo => "gspo",
        PolicyLoss::GspoToken => "gspo_token",
    };
    Err(UserError::new("there is no weight that could be truncated")
        .at(place(settings, &["learner.correction", "learner.policy_loss"]))
        .found(format!("learner.correction = \"truncated\", learner.policy_loss = \"{policy_loss}\""))
        .expected("learner.policy_loss = \"decoupled\" (the others have the weight inside the ratio that is clipped)")
        .hint("set learner.policy_loss = \"decoupled\", or learner.correction = \"icepop\", which goes with every one"))
}

/// Shares are numbers; that each level has tasks is looked at when they are loaded.
fn mixture(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let text = &config.tasks.level_mix;
    let Err(why) = crate::tasks::level_mix(text) else { return Ok(()) };
    Err(UserError::new("this is no mixture of levels")
        .at(place(settings, &["tasks.level_mix"]))
        .found(format!("tasks.level_mix = \"{text}\": {why}"))
        .expected("shares of levels 1, 2, .. of at least 0, one of them above 0")
        .hint("for example \"1,1\", or \"\" for every task alike"))
}

/// The machine's own rule: it is what decides in the run.
fn batch(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let r = &config.rollout;
    // Tasks are looked at when they are loaded.
    let error = match session::machine_config(config).check(1) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let e = UserError::new(format!("no step could ever be taken: {error}"));
    let ConfigError::Credits { needed, .. } = error else {
        // The other rules are bounds of single keys.
        return Err(e.at(place(settings, &["rollout.credits"])));
    };
    let keys = ["rollout.credits", "rollout.group_size", "rollout.groups_per_step"];
    Err(e
        .at(place(settings, &keys))
        .found(format!(
            "rollout.credits = {}, rollout.group_size = {}, rollout.groups_per_step = {}",
            r.credits, r.group_size, r.groups_per_step
        ))
        .expected(format!("rollout.credits of at least group_size x groups_per_step = {needed}"))
        .hint(format!("rollout.credits = {} keeps every stage busy", needed * (1 + r.staleness_max))))
}

/// A range has its upper end above the lower.
fn executors(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let e = &config.executor;
    if e.workers == 0 && !config.cluster.is_on() {
        return Err(UserError::new("there is nobody to evaluate candidates")
            .at(place(settings, &["executor.workers", "cluster.listen"]))
            .found("executor.workers = 0, cluster.listen = \"\"")
            .expected("executor.workers of at least 1, or cluster.listen, where executors of other machines join")
            .hint("set executor.workers = 2"));
    }
    if e.workers_max == 0 || e.workers_max >= e.workers {
        return Ok(());
    }
    Err(UserError::new("there are to be fewer executors at most than there are at least")
        .at(place(settings, &["executor.workers_max", "executor.workers"]))
        .found(format!("executor.workers = {}, executor.workers_max = {}", e.workers, e.workers_max))
        .expected("executor.workers_max of at least executor.workers, or 0")
        .hint("set executor.workers_max = 0 for a fixed number"))
}

/// An evaluation's deadline that strikes before the limits inside it turns what a slow candidate did (scored) into a
/// fault of ours (never scored): a policy could hide its failures there.
fn deadlines(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let (r, e) = (&config.rollout, &config.executor);
    let limits = session::limits(config);
    let on_gpu_ms = match config.gpu.devices.as_str() {
        "none" => 0,
        _ => policy::device_limits(config).evaluation_ms(&limits),
    };
    let inside_s = (limits.evaluation_ms() + on_gpu_ms).div_ceil(1000);
    let needed = inside_s + EVALUATION_MARGIN_S;
    if r.execute_deadline_s >= needed {
        return Ok(());
    }
    let keys = ["rollout.execute_deadline_s", "executor.run_timeout_ms", "executor.compile_timeout_ms"];
    Err(UserError::new("an evaluation could pass its deadline before its own limits end it")
        .at(place(settings, &keys))
        .found(format!(
            "rollout.execute_deadline_s = {}, executor.compile_timeout_ms = {}, executor.run_timeout_ms = {}",
            r.execute_deadline_s, e.compile_timeout_ms, e.run_timeout_ms
        ))
        .expected(format!(
            "rollout.execute_deadline_s of at least {needed}: {inside_s} s for the limits inside (import, compile, \
             run, reference, comparison; [gpu]) and {EVALUATION_MARGIN_S} s for starting and ending processes"
        ))
        .hint(format!("set rollout.execute_deadline_s = {needed}, or lower the limits of [executor]")))
}

/// A judge that is on must have somebody to ask and time to do it.
fn llm_judge(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let j = &config.judge;
    if !j.enabled {
        return Ok(());
    }
    if let Err(found) = http::endpoint(&j.base_url, "chat/completions") {
        return Err(UserError::new("the LLM judge has no address")
            .at(place(settings, &["judge.base_url"]))
            .found(format!("judge.base_url: {found}"))
            .expected("the URL of an OpenAI-compatible endpoint, for example \"http://127.0.0.1:8000/v1\"")
            .hint("the part before `/chat/completions`; a key belongs into the variable judge.api_key_env names"));
    }
    if j.model.is_empty() {
        return Err(UserError::new("the LLM judge has no model")
            .at(place(settings, &["judge.model", "judge.enabled"]))
            .found("judge.enabled = true, judge.model = \"\"")
            .expected("judge.model as the endpoint calls it")
            .hint("GET <judge.base_url>/models lists the names"));
    }
    if j.deadline_s < j.timeout_s {
        return Err(UserError::new("the LLM judge's first request could outlive its question")
            .at(place(settings, &["judge.deadline_s", "judge.timeout_s"]))
            .found(format!("judge.deadline_s = {}, judge.timeout_s = {}", j.deadline_s, j.timeout_s))
            .expected("judge.deadline_s of at least judge.timeout_s")
            .hint(format!(
                "judge.deadline_s = {} leaves room for the queue and for repeated requests",
                3 * j.timeout_s
            )));
    }
    Ok(())
}
