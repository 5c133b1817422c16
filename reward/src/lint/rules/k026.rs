//! K026: random seeds, backend switches and thread counts belong to the harness.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K026
pub const RULE: Rule = Rule {
    code: "K026",
    title: "global settings are changed",
    page: include_str!("../../../../docs/rules/K026.md"),
    check,
};

const LIST: &[&str] = &[
    "torch.manual_seed",
    "torch.seed",
    "torch.set_rng_state",
    "torch.get_rng_state",
    "torch.initial_seed",
    "torch.random",
    "torch.default_generator",
    "torch.cuda.set_rng_state",
    "torch.cuda.get_rng_state",
    "torch.cuda.default_generators",
    "torch.cuda.set_device",
    "torch.cuda.memory",
    "torch.cuda.set_per_process_memory_fraction",
    "torch.Generator",
    "torch.autograd.set_detect_anomaly",
    "torch.autograd.detect_anomaly",
    "torch.autograd.anomaly_mode",
    "torch.cuda.empty_cache",
    "torch.set_flush_denormal",
    "torch.set_float32_matmul_precision",
    "torch.cuda.set_sync_debug_mode",
    "torch.set_num_threads",
    "torch.set_num_interop_threads",
    "torch.set_default_dtype",
    "torch.set_default_device",
    "torch.set_default_tensor_type",
    "torch.autocast_increment_nesting",
    "torch.autocast_decrement_nesting",
    "torch.clear_autocast_cache",
    "torch.use_deterministic_algorithms",
    "random.seed",
    "numpy.random.seed",
];

/// `torch.backends.cuda.enable_flash_sdp` and its kin.
fn is_backend_switch(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or_default();
    path.starts_with("torch.backends.")
        && (name == "flags" || ["enable_", "set_", "preferred_"].iter().any(|s| name.starts_with(s)))
}

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for mention in &known.whole.mentions {
        let path = mention.path.as_str();
        if LIST.iter().any(|l| path.strip_prefix(l).is_some_and(|r| r.is_empty() || r.starts_with('.')))
            || is_backend_switch(path)
            || path.starts_with("torch.set_autocast_")
            || path.ends_with(".manual_seed")
            || path.ends_with(".manual_seed_all")
        {
            reject(findings, RULE.code, mention.line, format!("{path} changes settings that belong to the harness"));
        }
    }
    for attribute in known.whole.attributes.iter().filter(|a| a.path == "__enter__") {
        reject(findings, RULE.code, attribute.line, ".__enter__ without a with statement leaves a setting on");
    }
    for filter in &known.whole.protocols.filters {
        reject(findings, RULE.code, filter.line, format!("{} does more than silence a warning", filter.path));
    }
    for context in &known.whole.left_on {
        let message = format!("{} outside a with statement or a decorator may stay on", context.path);
        reject(findings, RULE.code, context.line, message);
    }
    for switch in &known.whole.switches {
        reject(findings, RULE.code, switch.line, format!("{} is switched for good", switch.path));
    }
}
