//! Commands and flags, as `--help` shows them.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::args_cluster::ClusterBenchArgs;
use super::args_launch::LaunchArgs;
use super::args_node::{DrainArgs, JoinArgs, NodesArgs};
use super::args_view::{DashboardArgs, ExportArgs, InspectBenchArgs, WatchArgs};

/// Trains a language model to write Triton kernels: every answer is parsed, judged, executed and rewarded.
#[derive(Debug, Parser)]
#[command(name = "troupe", version, max_term_width = 110, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done and good, 1 the answer is no, 2 usage or configuration, 3 a fault of ours, \
                        130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The main job: an RL run described by `cluster.toml`.
    #[command(after_help = "Example: troupe run --set run.steps=50 --run-dir runs/first\n\n\
                            SIGUSR1 writes what the run is doing as JSON into its directory, also while it stands still.")]
    Run(RunArgs),
    /// Continue a run exactly where it stopped.
    #[command(after_help = "Example: troupe resume runs/first\n\nSIGUSR1: as with `troupe run`.")]
    Resume(ResumeArgs),
    /// The warm start alone: supervised fine-tuning on plan-and-code examples. Prints the model's folder.
    #[command(after_help = "Example: troupe sft --set sft.epochs=10")]
    Sft(SftArgs),
    /// One candidate through every layer of the verifier.
    #[command(after_help = "Example: troupe verify tasks/train/level1/l1_relu_12x100.py answer.md --json")]
    Verify(VerifyArgs),
    /// The static layers alone.
    #[command(after_help = "Example: troupe lint --task task.py candidate.py answer.md")]
    Lint(LintArgs),
    /// Look at the rollouts of a run, while it goes on or afterwards.
    #[command(after_help = "Examples:\n  troupe rollouts runs/first --filter 'verdict = passed and step >= 10'\n  \
                            troupe rollouts runs/first --filter \"finding ~ 'torch.sum'\" --jsonl\n  \
                            troupe rollouts runs/first --show 1234\n\n\
                            A filter compares fields with =, !=, <, <=, >, >= or ~ (contains), joined by and, or, not and \
                            parentheses; `none` stands for a value that is not known. Fields: id, phase, group, task, \
                            level, step, state, attempt, policy, policy.newest, staleness, finish, tokens, plan_tokens, \
                            verdict, reward.plan, reward.code, advantage.plan, advantage.code, ending, speedup, hack, \
                            finding (= a code, ~ a part of its message), answer.")]
    Rollouts(RolloutsArgs),
    Dashboard(DashboardArgs),
    Watch(WatchArgs),
    Export(ExportArgs),
    /// Work for a run of another machine, until it is over or this node is drained: as executors, which evaluate its candidates,
    /// or as a generator, which samples its answers.
    #[command(
        after_help = "Example: troupe join 10.0.0.5:7440 --role executor --workers 8 --set cluster.cookie_file=cookie\n\n\
                      SIGUSR1 writes what the node is doing as JSON into its scratch folder and says where."
    )]
    Join(JoinArgs),
    /// The nodes that work for a run.
    #[command(after_help = "Example: troupe nodes --head 10.0.0.5:7440 --set cluster.cookie_file=cookie")]
    Nodes(NodesArgs),
    /// Have a node end what it has and leave; nothing is lost.
    #[command(after_help = "Example: troupe drain worker-3 --head 10.0.0.5:7440 --set cluster.cookie_file=cookie")]
    Drain(DrainArgs),
    /// Start a run over several processes or machines: the head, and the nodes that `[launch]` of the run file asks for.
    #[command(after_help = "Example: troupe launch local --set launch.executors=2 --dry-run")]
    Launch(LaunchArgs),
    /// What is missing on this machine.
    #[command(after_help = "Example: troupe doctor")]
    Doctor(DoctorArgs),
    /// The page of a lint rule (K...), of an LLM judge's objection (J...) or of a fault (F...).
    #[command(after_help = "Example: troupe explain K001")]
    Explain(ExplainArgs),
    /// The figures in the README, reproducible.
    #[command(after_help = "Example: troupe bench orchestrator")]
    Bench(BenchArgs),
}

/// Layers of configuration.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// A run file; may be given several times, the later wins. Without it, `cluster.toml` of the present folder if
    /// there is one, else the built-in default.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// One key, for example `rollout.staleness_max=0`; may be given several times, wins over files. The section may
    /// be left out where the key's name is unique.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The run directory itself. Without it, a new one below `run.dir`.
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Print the resolved configuration and the placement, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Stop in order when stdin ends, as with Ctrl-C: what `troupe launch` gives its head.
    #[arg(long, hide = true)]
    pub tied: bool,
}

#[derive(Args, Debug)]
pub struct ResumeArgs {
    /// The directory of the run that is to go on.
    #[arg(value_name = "RUN_DIR")]
    pub run_dir: PathBuf,
    /// As with `troupe run`.
    #[arg(long, hide = true)]
    pub tied: bool,
}

#[derive(Args, Debug)]
pub struct SftArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    Cpu,
    Cuda,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The task: a Python file in KernelBench's format.
    #[arg(value_name = "TASK.py")]
    pub task: PathBuf,
    /// A Python file, or a model's raw answer (`.md`, `.txt`).
    #[arg(value_name = "CANDIDATE")]
    pub candidate: PathBuf,
    /// Where the candidate is executed: in Triton's interpreter alone, or on a GPU behind it (`gpu.devices`, all of this
    /// machine's where that is "none"). Without it `gpu.devices` decides.
    #[arg(long, value_enum)]
    pub device: Option<DeviceArg>,
    /// Leave out the timing. On a CPU nothing is timed anyway.
    #[arg(long)]
    pub no_timing: bool,
    /// Seed of the inputs; without it they are drawn anew each time.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Ask the LLM judge (`[judge]`) about a candidate that passes, as with `judge.enabled = true`.
    #[arg(long)]
    pub judge: bool,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Args, Debug)]
pub struct LintArgs {
    /// The task the candidates answer; some rules need it.
    #[arg(long, value_name = "TASK.py")]
    pub task: Option<PathBuf>,
    /// Python files, or models' raw answers (`.md`, `.txt`).
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// JSON Lines on stdout, one document a file.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct RolloutsArgs {
    /// The run's directory; the run may go on, have ended or have crashed.
    #[arg(value_name = "RUN_DIR")]
    pub run_dir: PathBuf,
    /// Only rollouts for which this is true, for example 'task ~ softmax and reward.code = 1'.
    #[arg(long, value_name = "EXPR", conflicts_with = "show")]
    pub filter: Option<String>,
    /// Everything about one rollout: prompt, plan, code, ruling, report, reward.
    #[arg(long, value_name = "ID")]
    pub show: Option<u64>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    /// JSON Lines on stdout: one document a rollout.
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,
}

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// `K001`, `J001`, `F001`, ... Without it, all codes with their titles.
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
}

#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub what: BenchWhat,
}

#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Rollouts per second through the whole actor graph, with stand-ins of zero cost for generator, executor and
    /// learner.
    #[command(after_help = "Example: troupe bench orchestrator --rollouts 1000000")]
    Orchestrator {
        /// Rollouts to push through.
        #[arg(long, default_value_t = 200_000)]
        rollouts: u64,
        /// One JSON document on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Executors as processes of their own with stand-in candidates: how the executors' stage scales, and what the head carries.
    #[command(after_help = "Examples:\n  troupe bench cluster --nodes 1,2,4,8,16,32\n  \
                            troupe bench cluster --nodes 4 --workers 16 --takes-ms 0 --each 300\n  \
                            troupe bench cluster --nodes 4 --workers 16 --takes-ms 0 --peer-python ray/bin/python\n  \
                            troupe bench cluster --drills")]
    Cluster(ClusterBenchArgs),
    /// Every hack and every honest kernel of the corpus through the verifier: the table of what stopped what. The answer
    /// is no when a hack passes, an honest kernel does not, another layer stops a hack than the corpus names, or one
    /// cannot be judged.
    #[command(after_help = "Example: troupe bench corpus --only hacks/C7 --behind")]
    Corpus(CorpusArgs),
    /// Candidates per second through the static layers, on one core.
    #[command(after_help = "Example: troupe bench lint")]
    Lint(LintBenchArgs),
    /// What one verified candidate costs, beside a fresh Python process for each with KernelBench's checks alone.
    #[command(
        after_help = "Example: troupe bench executor --cpu\n         troupe bench executor --parts throughput,drill --set gpu.devices=all"
    )]
    Executor(ExecutorBenchArgs),
    /// Tokens per second of generation with random weights of a known shape, against what the memory's speed allows.
    #[command(after_help = "Example: troupe bench generator --device cuda --shape qwen3-0.6b --peer-python python3")]
    Generator(GeneratorBenchArgs),
    /// What one update of the policy costs: forward, backward, AdamW, for known shapes with random weights. With a Python that has
    /// torch and transformers, beside the same in PyTorch.
    #[command(after_help = "Example: troupe bench learner --device cuda --layout 4x1024 --peer-python python3")]
    Learner(LearnerBenchArgs),
    /// What viewers cost a run: rollouts per second without and with three of them, in turns within one run.
    #[command(after_help = "Example: troupe bench inspect")]
    Inspect(InspectBenchArgs),
    /// Hostile candidates in a row, each followed by an honest one: does every one end in time, is nothing left, do all
    /// honest ones pass? Answers no where anything is wrong.
    #[command(after_help = "Example: troupe bench hostile --count 100")]
    Hostile {
        /// Candidates, honest ones included.
        #[arg(long, default_value_t = 1000)]
        count: u64,
        /// Executors at once.
        #[arg(long, default_value_t = 2)]
        executors: u32,
        /// One JSON document on stdout.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
pub struct GeneratorBenchArgs {
    /// The network's shape.
    #[arg(long, default_value = "tiny", value_parser = crate::bench::learner::SHAPES)]
    pub shape: String,
    /// Where it runs.
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: DeviceArg,
    /// Sequences at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub sequences: u32,
    /// Sequences of one prompt.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub group: u32,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub prompt: u32,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=16384))]
    pub answer: u32,
    /// On a GPU: fp32 in bf16's place.
    #[arg(long)]
    pub single_precision: bool,
    /// A Python with torch and transformers: measures `transformers.generate` on the same shape too.
    #[arg(long, value_name = "PYTHON")]
    pub peer_python: Option<PathBuf>,
    /// The peer's program.
    #[arg(long, value_name = "FILE", default_value = "tests/device/torch_generate_peer.py")]
    pub peer_script: PathBuf,
    /// Sequences of the peer at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub peer_batch: u32,
    /// Seconds that the peer may take.
    #[arg(long, default_value_t = 300)]
    pub peer_limit_s: u64,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

/// What `bench executor` measures on GPUs; the last is what the drill starts itself.
fn parts() -> [PossibleValue; 7] {
    let hidden = PossibleValue::new("drill-lanes").hide(true);
    let shown = ["throughput", "ours", "equivalence", "control", "fairness", "drill"];
    let [a, b, c, d, e, f] = shown.map(PossibleValue::new);
    [a, b, c, d, e, f, hidden]
}

#[derive(Args, Debug)]
pub struct CorpusArgs {
    /// The corpus' folder.
    #[arg(long, value_name = "DIR", default_value = "tests/exploits")]
    pub corpus: PathBuf,
    /// Only files whose path contains this.
    #[arg(long, value_name = "PART")]
    pub only: Option<String>,
    /// Execute what the static rules reject too, for the table's last column. Takes longer.
    #[arg(long)]
    pub behind: bool,
    /// Executors at once.
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// One key of the run file (`--set gpu.devices=all`: on GPUs, behind the interpreter).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// One JSON document on stdout, every candidate with its reason.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct LintBenchArgs {
    /// The corpus' folder.
    #[arg(long, value_name = "DIR", default_value = "tests/exploits")]
    pub corpus: PathBuf,
    /// How long to measure.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    /// Products and activations in bf16; master weights, gradients and statistics in fp32. GPUs only.
    Bf16,
    Fp32,
}

#[derive(Args, Debug)]
pub struct LearnerBenchArgs {
    /// The network's shape.
    #[arg(long, default_value = "qwen3-0.6b", value_parser = crate::bench::learner::SHAPES)]
    pub shape: String,
    /// Layers in place of the shape's own.
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Sequences times tokens, or the lengths of rollouts: 4 prompts of 256 tokens, 8 answers each, whose lengths are log-normal
    /// (median 350, sigma 0.8, at most 1792). Several with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "4x1024,2x2048,ragged", value_parser = crate::bench::learner::LAYOUTS)]
    pub layout: Vec<String>,
    #[arg(long, value_enum, default_value = "cpu")]
    pub device: DeviceArg,
    /// The type that a GPU computes with.
    #[arg(long, value_enum, default_value = "bf16")]
    pub dtype: DtypeArg,
    /// Keep only the layers' inputs for the backward pass, and compute the rest again (GPU).
    #[arg(long)]
    pub recompute: bool,
    /// GPUs that share the micro-batches; the peak counts for each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub gpus: u8,
    /// Train adapters of this rank on every matrix, and nothing else.
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub lora: Option<u16>,
    /// Timed steps after the first.
    #[arg(long, default_value_t = 10)]
    pub steps: usize,
    /// Sequences a pass, at most.
    #[arg(long, default_value_t = 64)]
    pub micro_batch: usize,
    /// TFLOP/s that the device can do at most, for the utilisation.
    #[arg(long, default_value_t = 989.0)]
    pub peak_tflops: f64,
    /// A Python with torch and transformers: the same is measured in PyTorch.
    #[arg(long, value_name = "PYTHON")]
    pub peer_python: Option<PathBuf>,
    /// The peer's program.
    #[arg(long, value_name = "FILE", default_value = "tests/device/torch_learner_peer.py")]
    pub peer_script: PathBuf,
    /// Sequences a pass of the peer, at most; fewer fit, as it keeps the logits of whole batches.
    #[arg(long, default_value_t = 8)]
    pub peer_micro_batch: usize,
    /// Seconds that the peer has for each layout.
    #[arg(long, default_value_t = 300)]
    pub deadline_s: u64,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ExecutorBenchArgs {
    /// Triton's interpreter on the CPU.
    #[arg(long)]
    pub cpu: bool,
    /// Candidates, measured one after the other and then again on all executors.
    #[arg(long, default_value_t = 60)]
    pub candidates: usize,
    /// Candidates of the peer.
    #[arg(long, default_value_t = 12)]
    pub peer: usize,
    /// Executors, and processes of the peer, at once.
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// On GPUs: what to measure; several with commas between them. `throughput` (with its peers; `ours`
    /// without), `equivalence`, `control` (what a difference to `do_bench` comes of), `fairness`, `drill`.
    #[arg(
        long,
        value_name = "PARTS",
        value_delimiter = ',',
        default_value = "throughput,equivalence,fairness,drill",
        value_parser = parts()
    )]
    pub parts: Vec<String>,
    /// On GPUs: the folder with the set of tasks and candidates.
    #[arg(long, value_name = "DIR", default_value = "tests/device")]
    pub device_set: PathBuf,
    /// On GPUs: only the candidates of these tasks of the set; several with commas between them.
    #[arg(long, value_name = "TASKS", value_delimiter = ',')]
    pub only: Vec<String>,
    /// On GPUs: so many times the rows in every task of the set, for calls that take longer.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub rows: u16,
    /// On GPUs: every n-th candidate of each verdict goes through a fresh process of the peer, which takes seconds for each.
    #[arg(long, default_value_t = 1)]
    pub fresh_every: usize,
    /// On GPUs: seconds that a hanging candidate has, with us and with the peers.
    #[arg(long, default_value_t = 10)]
    pub deadline_s: u64,
    /// On GPUs: measurements of one candidate for its coefficient of variation.
    #[arg(long, default_value_t = 50)]
    pub repeats: usize,
    /// On GPUs: evaluations of one candidate beside a noisy neighbour; each may be refused several times.
    #[arg(long, default_value_t = 10)]
    pub noisy: usize,
    /// On GPUs: the neighbour is taken for one of our own processes, so that no look at the GPU shows it; in several kinds.
    #[arg(long)]
    pub hidden_neighbour: bool,
    /// On GPUs: candidates of the fault drill.
    #[arg(long, default_value_t = 200)]
    pub drill: usize,
    /// On GPUs: seconds between kills in the drill.
    #[arg(long, default_value_t = 8)]
    pub kill_every_s: u64,
    /// One key of the run file (`--set gpu.devices=all`).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// One JSON document on stdout.
    #[arg(long)]
    pub json: bool,
}
