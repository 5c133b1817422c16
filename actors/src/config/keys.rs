//! Every key of the run file with the values it takes. A test holds this list, `cluster.toml` and `Config` equal.

use model::lora::config::WORDS;
use sandbox::isolation::PARTS;

/// The values that a key takes; the bounds are inclusive unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Flag,
    /// A path or text; may be empty.
    Text,
    /// A path or text; not empty.
    FullText,
    Choice(&'static [&'static str]),
    /// A list of these words, each at most once.
    Words(&'static [&'static str]),
    /// A list of texts, none empty, each at most once.
    Texts,
    /// A whole number.
    Whole {
        min: i64,
        max: i64,
    },
    /// A real number.
    Real {
        min: f64,
        max: f64,
        /// The lower bound itself is not allowed.
        above: bool,
        /// The upper bound itself is not allowed.
        below: bool,
    },
}

/// One key: `path` is `section.name`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    pub path: &'static str,
    pub kind: Kind,
}

impl Key {
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(s, _)| s)
    }

    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, n)| n)
    }
}

/// The parts of the isolation by name.
const PART_NAMES: [&str; PARTS.len()] = {
    let mut names = [""; PARTS.len()];
    let mut n = 0;
    while n < names.len() {
        names[n] = PARTS[n].name;
        n += 1;
    }
    names
};

/// The largest whole number that TOML holds.
const MAX: i64 = i64::MAX;
/// A count of things that take memory: beyond it, it is a slip.
const COUNT: i64 = 1_000_000;

const fn key(path: &'static str, kind: Kind) -> Key {
    Key { path, kind }
}

const fn whole(min: i64, max: i64) -> Kind {
    Kind::Whole { min, max }
}

const fn real(min: f64, max: f64) -> Kind {
    Kind::Real { min, max, above: false, below: false }
}

/// Above `min`, up to `max`.
const fn above(min: f64, max: f64) -> Kind {
    Kind::Real { min, max, above: true, below: false }
}

/// From `min`, below `max`.
const fn below(min: f64, max: f64) -> Kind {
    Kind::Real { min, max, above: false, below: true }
}

/// What may be done about an alarm.
const REACTIONS: &[&str] = &["off", "warn", "lower_rate", "skip", "stop"];

/// In the order of `cluster.toml`.
pub const KEYS: &[Key] = &[
    key("run.seed", whole(0, MAX)),
    key("run.dir", Kind::FullText),
    key("run.steps", whole(0, MAX)),
    key("run.time_limit_s", whole(0, MAX)),
    key("run.deterministic", Kind::Flag),
    key("model.dir", Kind::Text),
    key("model.device", Kind::Choice(&["cpu", "cuda"])),
    key("model.gpu_wait_s", whole(1, 86_400)),
    key("model.hidden", whole(2, COUNT)),
    key("model.layers", whole(1, 1000)),
    key("model.heads", whole(1, 10_000)),
    key("model.kv_heads", whole(1, 10_000)),
    key("model.ff", whole(1, COUNT)),
    key("model.vocab", whole(300, COUNT)),
    key("tasks.dir", Kind::Text),
    key("tasks.level_mix", Kind::Text),
    key("sft.enabled", Kind::Flag),
    key("sft.examples", Kind::Text),
    key("sft.epochs", whole(1, COUNT)),
    key("sft.batch", whole(1, COUNT)),
    key("sft.lr", above(0.0, 10.0)),
    key("sft.warmup_steps", whole(0, COUNT)),
    key("sft.weight_decay", real(0.0, 10.0)),
    key("sft.grad_clip", above(0.0, f64::MAX)),
    key("sampling.temperature", above(0.0, 100.0)),
    key("sampling.top_k", whole(0, COUNT)),
    key("sampling.top_p", above(0.0, 1.0)),
    key("sampling.min_p", below(0.0, 1.0)),
    key("sampling.max_new_tokens", whole(1, COUNT)),
    key("rollout.group_size", whole(2, COUNT)),
    key("rollout.groups_per_step", whole(1, COUNT)),
    key("rollout.staleness_max", whole(0, COUNT)),
    key("rollout.credits", whole(2, COUNT)),
    key("rollout.retries", whole(0, 1000)),
    key("rollout.curriculum", Kind::Choice(&["uniform", "frontier"])),
    key("rollout.drop_zero_variance", Kind::Flag),
    key("rollout.sample_deadline_s", whole(1, COUNT)),
    key("rollout.judge_deadline_s", whole(1, COUNT)),
    key("rollout.execute_deadline_s", whole(1, COUNT)),
    key("rollout.train_deadline_s", whole(1, COUNT)),
    key("reward.alpha", real(0.0, 1000.0)),
    key("reward.mode", Kind::Choice(&["hrd", "uniform"])),
    key("reward.uniform_beta", real(0.0, 1.0)),
    key("reward.speed_clip", real(0.0, f64::MAX)),
    key("reward.plan_fallback", Kind::Choice(&["correctness", "zero"])),
    key("reward.adv_norm", Kind::Choice(&["center", "std"])),
    key("reward.std_estimator", Kind::Choice(&["unbiased", "population"])),
    key("reward.baseline", Kind::Choice(&["group_mean", "leave_one_out"])),
    key("reward.len_norm", Kind::Choice(&["per_class", "sequence", "token_mean", "constant"])),
    key("reward.len_norm_constant", whole(1, COUNT)),
    key("reward.missing_delimiter", Kind::Choice(&["zero", "drop"])),
    key("reward.zero_advantages", Kind::Flag),
    key("learner.lr", above(0.0, 10.0)),
    key("learner.warmup_steps", whole(0, COUNT)),
    key("learner.final_lr_percent", whole(0, 100)),
    key("learner.beta1", below(0.0, 1.0)),
    key("learner.beta2", below(0.0, 1.0)),
    key("learner.eps", above(0.0, 1.0)),
    key("learner.weight_decay", real(0.0, 10.0)),
    key("learner.grad_clip", above(0.0, f64::MAX)),
    key("learner.policy_loss", Kind::Choice(&["ppo", "decoupled", "gspo", "gspo_token"])),
    key("learner.correction", Kind::Choice(&["none", "truncated", "icepop"])),
    key("learner.truncate_at", real(1.0, f64::MAX)),
    key("learner.icepop_low", real(0.0, 1.0)),
    key("learner.icepop_high", real(1.0, f64::MAX)),
    key("learner.reject_answers", Kind::Flag),
    key("learner.reject_low", real(0.0, 1.0)),
    key("learner.reject_high", real(1.0, f64::MAX)),
    key("learner.reject_veto", below(0.0, 1.0)),
    key("learner.clip_low", Kind::Real { min: 0.0, max: 1.0, above: true, below: true }),
    key("learner.clip_high", above(0.0, 100.0)),
    key("learner.kl_coef", real(0.0, 1000.0)),
    key("learner.epochs", whole(1, 1000)),
    key("learner.micro_batch", whole(1, COUNT)),
    key("learner.threads", whole(0, COUNT)),
    key("learner.gpu_type", Kind::Choice(&["bf16", "fp32"])),
    key("learner.gpu_recompute", Kind::Flag),
    key("learner.gpus", whole(1, 64)),
    key("learner.keep_checkpoints", whole(0, COUNT)),
    key("lora.rank", whole(0, COUNT)),
    key("lora.alpha", above(0.0, 1_000_000.0)),
    key("lora.targets", Kind::Words(&WORDS)),
    key("lora.rslora", Kind::Flag),
    key("guard.not_finite", Kind::Choice(&["skip", "stop"])),
    key("guard.gradient_spike", Kind::Choice(REACTIONS)),
    key("guard.gradient_spike_factor", real(1.0, f64::MAX)),
    key("guard.mismatch", Kind::Choice(REACTIONS)),
    key("guard.mismatch_kl_max", real(0.0, f64::MAX)),
    key("guard.entropy_collapse", Kind::Choice(REACTIONS)),
    key("guard.entropy_share_min", below(0.0, 1.0)),
    key("guard.window", whole(2, COUNT)),
    key("guard.lower_by", Kind::Real { min: 0.0, max: 1.0, above: true, below: true }),
    key("generator.kind", Kind::Choice(&["burn", "openai"])),
    key("generator.here", Kind::Flag),
    key("generator.max_batch", whole(1, COUNT)),
    key("generator.server", Kind::Choice(&["vllm", "sglang"])),
    key("generator.base_url", Kind::FullText),
    key("generator.model", Kind::Text),
    key("generator.api_key_env", Kind::Text),
    key("generator.timeout_s", whole(1, COUNT)),
    key("generator.retries", whole(0, 100)),
    key("generator.reload", Kind::Choice(&["disk", "none"])),
    key("generator.reload_dir", Kind::Text),
    key("generator.reload_timeout_s", whole(1, COUNT)),
    key("generator.cache_mb", whole(0, 16_000_000)),
    key("generator.stop_at_code", Kind::Flag),
    key("executor.workers", whole(0, 1024)),
    key("executor.workers_max", whole(0, 1024)),
    key("executor.compile_timeout_ms", whole(100, 86_400_000)),
    key("executor.run_timeout_ms", whole(100, 86_400_000)),
    key("executor.memory_mb", whole(512, 16_000_000)),
    key("executor.max_processes", whole(1, COUNT)),
    key("executor.reuse_verdicts", Kind::Flag),
    key("executor.require_isolation", Kind::Words(&PART_NAMES)),
    key("cluster.listen", Kind::Text),
    key("cluster.bulk_port", whole(0, 65_535)),
    key("cluster.cookie_file", Kind::Text),
    key("cluster.cookie_env", Kind::FullText),
    key("cluster.heartbeat_ms", whole(10, 600_000)),
    key("cluster.suspect_ms", whole(10, 600_000)),
    key("cluster.dead_ms", whole(10, 3_600_000)),
    key("cluster.lease_ms", whole(10, 3_600_000)),
    key("cluster.max_message_bytes", whole(4096, 65_536)),
    key("cluster.reconnect_s", whole(0, COUNT)),
    key("cluster.reconnect_pause_ms", whole(10, 600_000)),
    key("cluster.object_store", Kind::Text),
    key("cluster.peer_listen", Kind::Text),
    key("cluster.tls_cert", Kind::Text),
    key("cluster.tls_key", Kind::Text),
    key("cluster.tls_ca", Kind::Text),
    key("launch.executors", whole(0, 10_000)),
    key("launch.workers", whole(0, 1024)),
    key("launch.generators", whole(0, 10_000)),
    key("launch.executor_gpus", whole(0, 64)),
    key("launch.generator_gpus", whole(0, 64)),
    key("launch.head_gpus", whole(0, 64)),
    key("launch.stop_s", whole(1, 86_400)),
    key("launch.restarts", whole(0, 1000)),
    key("launch.binary", Kind::Text),
    key("launch.advertise", Kind::Text),
    key("launch.hosts", Kind::Texts),
    key("launch.ssh_config", Kind::Text),
    key("launch.ssh_tunnel", Kind::Flag),
    key("launch.ssh_workdir", Kind::Text),
    key("launch.ssh_python", Kind::Text),
    key("launch.head_cpus", whole(0, 4096)),
    key("launch.executor_cpus", whole(0, 4096)),
    key("launch.generator_cpus", whole(0, 4096)),
    key("launch.head_mem_mb", whole(0, 64_000_000)),
    key("launch.executor_mem_mb", whole(0, 64_000_000)),
    key("launch.generator_mem_mb", whole(0, 64_000_000)),
    key("launch.slurm_partition", Kind::Text),
    key("launch.slurm_account", Kind::Text),
    key("launch.slurm_time", Kind::Text),
    key("launch.slurm_args", Kind::Texts),
    key("launch.k8s_name", Kind::FullText),
    key("launch.k8s_namespace", Kind::FullText),
    key("launch.k8s_image", Kind::Text),
    key("launch.k8s_secret", Kind::FullText),
    key("launch.k8s_storage_class", Kind::Text),
    key("launch.k8s_storage_gb", whole(1, 1_000_000)),
    key("launch.k8s_seccomp", Kind::Text),
    key("gpu.devices", Kind::FullText),
    key("gpu.checks", whole(0, 64)),
    key("gpu.box_mb", whole(64, 1_000_000)),
    key("gpu.call_timeout_ms", whole(100, 3_600_000)),
    key("gpu.timing_tries", whole(1, 100)),
    key("gpu.foreign_mb", whole(0, 1_000_000)),
    key("gpu.idle_percent", whole(0, 100)),
    key("gpu.idle_ms", whole(0, 3_600_000)),
    key("gpu.lock_sm_mhz", whole(0, 10_000)),
    key("judge.enabled", Kind::Flag),
    key("judge.base_url", Kind::FullText),
    key("judge.model", Kind::Text),
    key("judge.api_key_env", Kind::Text),
    key("judge.temperature", real(0.0, 2.0)),
    key("judge.answer_tokens", whole(64, COUNT)),
    key("judge.timeout_s", whole(1, COUNT)),
    key("judge.deadline_s", whole(1, COUNT)),
    key("judge.concurrency", whole(1, 1024)),
    key("judge.retries", whole(0, 100)),
    key("judge.requests_per_minute", whole(0, COUNT)),
    key("judge.max_requests", whole(0, MAX)),
    key("judge.max_tokens", whole(0, MAX)),
    key("eval.enabled", Kind::Flag),
    key("eval.split", Kind::Choice(&["held_out", "validation"])),
    key("eval.samples", whole(1, COUNT)),
    key("python.interpreter", Kind::Text),
];

/// The sections, in order, each once.
pub fn sections() -> Vec<&'static str> {
    let mut all: Vec<&'static str> = KEYS.iter().map(Key::section).collect();
    all.dedup();
    all
}

impl Kind {
    /// What a value must be, for an error text.
    pub fn expected(&self) -> String {
        match *self {
            Kind::Flag => "true or false".into(),
            Kind::Text => "text in quotes".into(),
            Kind::FullText => "text in quotes, not empty".into(),
            Kind::Choice(all) => format!("one of {}", quoted(all)),
            Kind::Words(all) => format!("a list in brackets, each once, of {}", quoted(all)),
            Kind::Texts => "a list in brackets of texts in quotes, none empty, each once".into(),
            Kind::Whole { min, max: MAX } => format!("a whole number, at least {min}"),
            Kind::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Real { min, max, above, below } => {
                let low = if above { format!("above {min}") } else { format!("at least {min}") };
                let high = match (max == f64::MAX, below) {
                    (true, _) => String::new(),
                    (false, true) => format!(" and below {max}"),
                    (false, false) => format!(" and at most {max}"),
                };
                format!("a number {low}{high}")
            }
        }
    }

    /// Whether `value` is of this kind and within its bounds.
    pub fn accepts(&self, value: &toml::Value) -> bool {
        match (self, value) {
            (Kind::Flag, toml::Value::Boolean(_)) | (Kind::Text, toml::Value::String(_)) => true,
            (Kind::FullText, toml::Value::String(s)) => !s.is_empty(),
            (Kind::Choice(all), toml::Value::String(s)) => all.contains(&s.as_str()),
            (Kind::Words(all), toml::Value::Array(list)) => {
                let known = |v: &toml::Value| v.as_str().is_some_and(|word| all.contains(&word));
                list.iter().enumerate().all(|(n, v)| known(v) && !list[..n].contains(v))
            }
            (Kind::Texts, toml::Value::Array(list)) => {
                let full = |v: &toml::Value| v.as_str().is_some_and(|text| !text.is_empty());
                list.iter().enumerate().all(|(n, v)| full(v) && !list[..n].contains(v))
            }
            (Kind::Whole { min, max }, toml::Value::Integer(n)) => (min..=max).contains(&n),
            (Kind::Real { .. }, toml::Value::Integer(n)) => self.in_bounds(*n as f64),
            (Kind::Real { .. }, toml::Value::Float(x)) => self.in_bounds(*x),
            _ => false,
        }
    }

    fn in_bounds(&self, x: f64) -> bool {
        match *self {
            Kind::Real { min, max, above, below } => {
                x.is_finite() && (x > min || (x == min && !above)) && (x < max || (x == max && !below))
            }
            _ => false,
        }
    }
}

/// `"a", "b"`.
pub fn quoted(words: &[&str]) -> String {
    words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
}
