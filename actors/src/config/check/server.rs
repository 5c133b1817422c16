//! Rules of a generation server: it must have an address, a model and time, and without new weights nothing to learn from.

use super::super::{Config, GeneratorKind, ReloadKind, ServerKind, Settings};
use super::place;
use crate::errors::UserError;
use crate::openai;

pub fn check(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let g = &config.generator;
    if g.kind == GeneratorKind::Burn {
        return Ok(());
    }
    if let Err(found) = openai::root(&g.base_url) {
        let at = place(settings, &["generator.base_url"]);
        return Err(openai::no_address().at(at).found(format!("generator.base_url: {found}")));
    }
    if g.server == ServerKind::Vllm && g.model.is_empty() {
        return Err(UserError::new("the generation server has no model")
            .at(place(settings, &["generator.model", "generator.kind"]))
            .found("generator.kind = \"openai\", generator.server = \"vllm\", generator.model = \"\"")
            .expected("generator.model as the server calls it")
            .hint("GET <generator.base_url>/models lists the names; vLLM's `--served-model-name` gives one"));
    }
    let deadline = config.rollout.sample_deadline_s;
    if deadline < g.timeout_s {
        return Err(UserError::new("the generation server's silence could outlive the answer's deadline")
            .at(place(settings, &["generator.timeout_s", "rollout.sample_deadline_s"]))
            .found(format!("generator.timeout_s = {}, rollout.sample_deadline_s = {deadline}", g.timeout_s))
            .expected("rollout.sample_deadline_s of at least generator.timeout_s")
            .hint("the deadline also covers repeated requests and waiting for a server that is away"));
    }
    if g.reload == ReloadKind::None && (config.run.steps > 0 || config.sft.enabled) {
        return Err(UserError::new(
            "the generation server would sample from other weights than the ones that are trained",
        )
        .at(place(settings, &["generator.reload", "run.steps", "sft.enabled"]))
        .found(format!(
            "generator.reload = \"none\", run.steps = {}, sft.enabled = {}",
            config.run.steps, config.sft.enabled
        ))
        .expected("run.steps = 0 and sft.enabled = false (an evaluation of what the server has)")
        .hint("set generator.reload = \"disk\" to train"));
    }
    Ok(())
}
