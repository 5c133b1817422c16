//! Whole runs of the tiny policy, and what must not depend on which machines took part.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actors::cluster::head::Generating;
use actors::cluster::kit::stand_in;
use actors::cluster::recipe::Recipe;
use actors::cluster::weights::Press;
use actors::config::Device;
use actors::crew::Crew;
use actors::orchestrator::RunEnd;
use actors::policy::{Adapted, cpu};
use actors::stop::StopToken;
use actors::store::rows::PhaseTag;

use crate::rig::{MAX_NEW_TOKENS, Rig, SEED, Watch, tokenizer};

/// How a run ended.
#[derive(Debug, PartialEq)]
pub struct Ledger {
    pub endings: BTreeMap<String, u64>,
    pub steps: usize,
    pub evaluated: Vec<(u64, rollout::id::TaskId, bool)>,
    /// Of the last checkpoint.
    pub policy: String,
    pub faults: BTreeMap<String, u64>,
}

pub fn ledger(rig: &Rig) -> Ledger {
    let reader = rig.reader();
    let mut evaluated = reader.evaluated(PhaseTag::EvalBefore).unwrap();
    evaluated.extend(reader.evaluated(PhaseTag::EvalAfter).unwrap());
    evaluated.sort();
    let mut faults = BTreeMap::new();
    for fault in reader.faults().unwrap() {
        *faults.entry(fault.code).or_default() += 1;
    }
    Ledger {
        endings: reader.endings(PhaseTag::Train).unwrap(),
        steps: reader.steps().unwrap().len(),
        evaluated,
        policy: rig.checkpoints().newest().unwrap().unwrap().digest.0,
        faults,
    }
}

/// One run in a new folder; `set` changes what it is, `change` who does it, and says how many executors it has itself.
pub fn run(dir: &Path, set: impl FnOnce(&mut Rig), change: impl FnOnce(&Rig, &mut Crew) -> u32) -> Ledger {
    std::fs::create_dir_all(dir).unwrap();
    let mut rig = Rig::new(dir);
    rig.eval_samples = 2;
    set(&mut rig);
    let mut crew = Crew { verifier: stand_in(Duration::from_millis(5)), ..rig.crew() };
    let executors = change(&rig, &mut crew);
    let end = rig.play(crew, Arc::new(Watch(|_| {})), &StopToken::default(), |args| {
        (args.capacities.executors, args.capacities.executors_max) = (executors, executors);
        args.capacities.reuse_verdicts = false;
    });
    assert_eq!(end, RunEnd::Completed);
    ledger(&rig)
}

/// So that generators may join a rig's run; `here`: answers at once of the one in the head.
pub fn generating(rig: &Rig, here: usize) -> Generating {
    let config = model::load_config(&rig.policy).unwrap();
    let adapted = rig.lora.as_ref().map(|_| Adapted { checkpoints: rig.checkpoints(), start: rig.policy.clone() });
    let entries = rig.entries();
    Generating {
        vocab: config.vocab_size,
        recipe: Recipe {
            run: "rig".into(),
            device: Device::Cpu,
            single_precision: false,
            cache_bytes: 0,
            gpu_wait_s: 0,
            max_batch: 16,
            max_seq_len: 128,
            sampling: rig.sampling(),
            max_new_tokens: MAX_NEW_TOKENS,
            stop_at_code: false,
            eos: tokenizer(&rig.policy).eos_token_ids().to_vec(),
            lora: rig.lora.clone().map(|lora| (lora, SEED)),
            prompts: entries.iter().map(|entry| (entry.spec.id.clone(), entry.prompt.tokens.clone())).collect(),
            files: Vec::new(),
            tagged: true,
        },
        press: Press {
            publisher: cpu::publisher(config, adapted),
            folder: rig.run_dir.join("published"),
            shared: None,
            epoch: 1,
        },
        places_here: here,
        sample_ms: 60_000,
    }
}
