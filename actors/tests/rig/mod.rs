//! What the runtime's tests share: a tiny real policy, a verifier whose verdict depends on the sampled tokens alone,
//! and the arguments of a run around them.
#![allow(dead_code, unused_imports)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actors::bench::standins;
pub use actors::bench::standins::{plan_tokens, text_of};
pub use actors::cluster::recipe::tagged;
use actors::crew::{BoxFuture, Crew, Prompt, TaskEntry, Verifier};
use actors::eval::EvalLimits;
use actors::generator::Adoption;
use actors::observe::{Observer, Progress};
use actors::orchestrator::{OrchestratorArgs, OrchestratorMsg, RunEnd};
use actors::policy::{Checkpoints, SamplerSettings, TrainerSettings, cpu};
use actors::resume::{Plan, restore};
use actors::session::conduct_known;
use actors::stop::StopToken;
use actors::store::{Reader, StoreConfig, Writer};
use actors::wiring::Capacities;
use model::config::TinyShape;
use model::engine::EngineConfig;
use model::guard::GuardConfig;
use model::lora::LoraConfig;
use model::loss::LossConfig;
use model::optim::OptimConfig;
use model::sampling::Sampling;
use model::{ModelConfig, Tokenizer};
use ractor::ActorRef;
use rollout::curriculum::CurriculumKind;
use rollout::id::{PolicyVersion, TaskId};
use rollout::machine::MachineConfig;
use rollout::outcome::{Candidate, ExecReport, Fault};
use rollout::task::{Split, TaskSpec};
use tokio::sync::oneshot;

pub const SEED: u64 = 11;
pub const MAX_NEW_TOKENS: usize = 12;

/// A tiny random policy in a Hugging Face folder.
pub fn tiny_policy(dir: &Path) -> PathBuf {
    let corpus: Vec<String> = (0..40).map(|n| format!("def f{n}(x):\n    return x + {n}\n")).collect();
    let tokenizer = model::train_bpe(&corpus, 300).unwrap();
    let shape = TinyShape { hidden: 16, layers: 1, heads: 2, kv_heads: 1, ff: 32, vocab: tokenizer.vocab_size() };
    let config = ModelConfig::tiny_default(shape, 256, tokenizer.eos_token_ids().to_vec());
    let folder = dir.join("tiny");
    cpu::make(&folder, &config, &tokenizer, SEED).unwrap();
    folder
}

pub fn tokenizer(policy: &Path) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_dir(policy).unwrap())
}

/// Tasks whose prompts differ.
pub fn tasks(tokenizer: &Tokenizer, count: usize, split: Split) -> Vec<Arc<TaskEntry>> {
    (0..count)
        .map(|n| {
            let id = TaskId(format!("{}_{n:02}", if split == Split::Train { "train" } else { "held_out" }));
            let source = format!("def f{n}(x):\n    return x + {n}\n");
            let tokens = tokenizer.encode(&source).unwrap();
            let spec = TaskSpec { id: id.clone(), level: 1, split, tags: Vec::new(), source: source.clone() };
            Arc::new(TaskEntry {
                spec: Arc::new(spec),
                id: Arc::new(id),
                prompt: Arc::new(Prompt { text: source, tokens }),
            })
        })
        .collect()
}

/// Whether an answer with these tokens passes.
pub fn passes(tokens: &[u32]) -> bool {
    standins::tag(tokens).is_multiple_of(3)
}

/// Reads the tag.
pub struct ByTag {
    pub delay: Duration,
}

impl Verifier for ByTag {
    fn verify<'a>(&'a mut self, _: &'a TaskSpec, candidate: &'a Candidate) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            let tag =
                candidate.source.lines().find_map(|l| l.strip_prefix("TAG = ")).and_then(|t| t.parse::<u64>().ok());
            Ok(standins::report(tag.is_some_and(|t| t.is_multiple_of(3))))
        })
    }
}

/// A run of the tiny policy.
pub struct Rig {
    pub policy: PathBuf,
    pub run_dir: PathBuf,
    pub machine: MachineConfig,
    pub loss: LossConfig,
    pub guard: GuardConfig,
    pub lora: Option<LoraConfig>,
    pub optim: OptimConfig,
    pub eval_samples: u64,
    pub execute_delay: Duration,
    pub train_tasks: usize,
    /// The orchestrator, once it plays.
    pub address: Arc<OnceLock<ActorRef<OrchestratorMsg>>>,
}

impl Rig {
    pub fn new(dir: &Path) -> Rig {
        let run_dir = dir.join("run");
        std::fs::create_dir_all(&run_dir).unwrap();
        Rig {
            policy: tiny_policy(dir),
            run_dir,
            machine: MachineConfig {
                seed: SEED,
                group_size: 4,
                groups_per_step: 3,
                staleness_max: 0,
                credits: 24,
                curriculum: CurriculumKind::Uniform,
                drop_zero_variance: false,
                steps: 6,
                ..MachineConfig::default()
            },
            loss: LossConfig { micro_batch: 4, ..LossConfig::default() },
            guard: GuardConfig::default(),
            lora: None,
            optim: OptimConfig { lr: 1e-2, ..OptimConfig::default() },
            eval_samples: 0,
            execute_delay: Duration::ZERO,
            train_tasks: 5,
            address: Arc::default(),
        }
    }

    pub fn sampling(&self) -> Sampling {
        Sampling::default()
    }

    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(&self.run_dir, 1)
    }

    pub fn crew(&self) -> Crew {
        let delay = self.execute_delay;
        Crew {
            sampler: tagged(cpu::sampler(SamplerSettings {
                engine: EngineConfig { max_batch: 16, max_seq_len: 128, threads: 1 },
                gpu: None,
                stop_at_code: false,
                sampling: self.sampling(),
                max_new_tokens: MAX_NEW_TOKENS,
                tokenizer: tokenizer(&self.policy),
                tenant: Default::default(),
            })),
            trainer: cpu::trainer(TrainerSettings {
                start: self.policy.clone(),
                optim: self.optim.clone(),
                loss: self.loss.clone(),
                guard: self.guard,
                lora: self.lora.clone(),
                seed: SEED,
                checkpoints: self.checkpoints(),
                threads: 1,
                execution: Default::default(),
                gpu: Default::default(),
                tenant: Default::default(),
            }),
            verifier: Arc::new(move |_| Box::pin(async move { Ok(Box::new(ByTag { delay }) as Box<dyn Verifier>) })),
            saturated: None,
            llm_judge: None,
            cluster: None,
            pen: Default::default(),
        }
    }

    pub fn entries(&self) -> Vec<Arc<TaskEntry>> {
        let tokenizer = tokenizer(&self.policy);
        let mut entries = tasks(&tokenizer, self.train_tasks, Split::Train);
        entries.extend(tasks(&tokenizer, 4, Split::HeldOut));
        entries
    }

    pub fn plan(&self) -> Plan {
        let of = |split: Split| {
            self.entries().iter().filter(|e| e.spec.split == split).map(|e| e.spec.id.clone()).collect::<Vec<_>>()
        };
        Plan {
            machine: self.machine.clone(),
            train: of(Split::Train),
            train_mixture: Vec::new(),
            evaluated: of(Split::HeldOut),
            eval_samples: self.eval_samples,
            seed: SEED,
            limits: EvalLimits {
                credits: self.machine.credits as usize,
                retries: 2,
                sample_ms: 60_000,
                judge_ms: 60_000,
                execute_ms: 60_000,
            },
        }
    }

    /// Plays what is left of the run; `crew` may be wrapped, `with` may change the arguments.
    pub fn play(
        &self,
        crew: Crew,
        observer: Arc<dyn Observer>,
        stop: &StopToken,
        with: impl FnOnce(&mut OrchestratorArgs),
    ) -> RunEnd {
        let writer = Writer::start(StoreConfig::new(self.run_dir.clone()), Box::new(|_| {})).unwrap();
        let end = self.play_with(&writer, crew, observer, stop, with);
        let _ = writer.stop();
        end
    }

    pub fn play_with(
        &self,
        writer: &Writer,
        crew: Crew,
        observer: Arc<dyn Observer>,
        stop: &StopToken,
        with: impl FnOnce(&mut OrchestratorArgs),
    ) -> RunEnd {
        let newest = self.checkpoints().newest().unwrap();
        let restored = restore(&Reader::open(&self.run_dir).unwrap(), &self.plan(), newest.as_ref()).unwrap();
        let _ = writer.handle().send(restored.repairs);
        let start = match (crew.trainer)().unwrap().newest() {
            Some(item) => Adoption { weights: item.weights, policy: item.policy },
            None => Adoption { weights: cpu::load(&self.policy).unwrap(), policy: PolicyVersion(0) },
        };
        if restored.phases.is_empty() {
            return RunEnd::Completed;
        }
        let (done, ended) = oneshot::channel();
        let mut args = OrchestratorArgs {
            crew,
            capacities: Capacities {
                credits: self.machine.credits as usize,
                executors: 2,
                executors_max: 2,
                execute_deadline: Duration::from_secs(60),
                train_deadline: Duration::from_secs(60),
                reuse_verdicts: true,
            },
            tasks: self.entries(),
            phases: restored.phases,
            store: writer.handle(),
            observer,
            reward: reward::RewardConfig::default(),
            start,
            time_limit_ms: 0,
            tick: Duration::from_millis(50),
            done,
        };
        with(&mut args);
        conduct_known(args, ended, stop, |actor| drop(self.address.set(actor))).unwrap()
    }

    pub fn reader(&self) -> Reader {
        Reader::open(&self.run_dir).unwrap()
    }
}

/// This test binary again, for the ignored test `child` of a module (`module_path!()`); it is told its folder in the variable.
pub fn child_process(module: &str, variable: &str, dir: &Path) -> std::process::Child {
    let (_, module) = module.split_once("::").expect("a module of the test's program");
    std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::child"), "--ignored", "--nocapture"])
        .env(variable, dir)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
}

/// Calls a closure with everything that is told.
pub struct Watch<F: Fn(Progress) + Send + Sync>(pub F);

impl<F: Fn(Progress) + Send + Sync> Observer for Watch<F> {
    fn on(&self, progress: Progress) {
        (self.0)(progress);
    }
}
