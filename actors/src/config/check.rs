//! Rules between keys: a key that the user set must have an effect, and keys that belong together must fit.

use super::{AdvNorm, Config, Device, LenNormKind, RewardMode, Settings};
use crate::errors::UserError;

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
        holds: |c| c.reward.len_norm == LenNormKind::Constant,
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
    Effect { keys: &["eval.samples", "eval.split"], only: "eval.enabled = true", holds: |c| c.eval.enabled },
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
    batch(config, settings)
}

/// The place of the first of `keys` that the user set, else of the first.
fn place(settings: &Settings, keys: &[&str]) -> String {
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

fn batch(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let r = &config.rollout;
    if r.credits < r.group_size {
        return Err(UserError::new("no group could ever start")
            .at(place(settings, &["rollout.credits", "rollout.group_size"]))
            .found(format!("rollout.credits = {}, rollout.group_size = {}", r.credits, r.group_size))
            .expected("rollout.credits of at least rollout.group_size")
            .hint(format!(
                "rollout.credits = {} keeps every stage busy",
                r.group_size * r.groups_per_step * (1 + r.staleness_max as usize)
            )));
    }
    Ok(())
}
