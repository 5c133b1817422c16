//! `troupe run` and `troupe resume`: from arguments to a run, from its summary to text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rollout::task::{Split, TaskSpec};

use super::args::{ConfigArgs, ResumeArgs, RunArgs};
use super::{Answer, Done, Failure, failure, output, pyenv};
use crate::config::{Config, Device, EvalSplit, GeneratorKind, ServerKind};
use crate::dump::Dumper;
use crate::errors::UserError;
use crate::observe::Observer;
use crate::policy::{Gpus, require_isolation};
use crate::progress::Terminal;
use crate::run::{RunError, RunSummary};
use crate::stop::StopToken;
use crate::summary::Interval;
use crate::tasks::{load_tasks, require_training_tasks};

/// Numbered run directories below `run.dir`.
const MAX_RUNS: u32 = 100_000;

pub fn run(args: RunArgs) -> Done {
    let config = configuration(&args.config)?;
    let tasks = require_all(&config)?;
    if let leaks @ [(evaluated, trained), ..] = &crate::tasks::leaks(&tasks, config.eval.tasks())[..]
        && config.eval.enabled
    {
        let count = leaks.len();
        output::say(format!(
            "note: {count} of the tasks that are evaluated are trained on under another name, which makes held-out figures too good: \
             {evaluated} is {trained}"
        ));
    }
    if config.cluster.is_on() {
        crate::cluster::Cookie::find(&config.cluster)?;
    }
    if args.dry_run {
        // As the run would: what it names has to be there.
        let gpus = Gpus::find(&config, Path::new(""), Path::new(""), [0; 32])?;
        output::line(dry_run(&config, &tasks, args.run_dir.as_deref(), gpus.as_deref()))?;
        return Ok(Answer::Yes);
    }
    if config.gpu.devices == "none" && config.reward.speed_clip != Config::builtin()?.reward.speed_clip {
        output::say("note: nothing is timed without a GPU, so reward.speed_clip has nothing to clip");
    }
    // Before anything is made; `resume` asks again.
    if !config.executor.require_isolation.is_empty() {
        let python = pyenv::interpreter(&config)?;
        require_isolation(&python, &config.executor.require_isolation)
            .map_err(|e| failure::of_run(e, &config.run.dir))?;
    }
    let stop = stopping(args.tied)?;
    let run_dir = match args.run_dir {
        Some(dir) => current_dir()?.join(dir),
        None => new_run_dir(&config.run.dir)?,
    };
    output::say(format!("run directory: {}", run_dir.display()));
    finish(&run_dir, |observer| crate::run::run(config, tasks, &run_dir, observer, stop))
}

pub fn resume(args: ResumeArgs) -> Done {
    let stop = stopping(args.tied)?;
    finish(&args.run_dir, |observer| crate::run::resume(&args.run_dir, observer, stop))
}

/// What a run needs, looked for before anything is made. Returns the tasks.
pub fn require_all(config: &Config) -> Result<Vec<TaskSpec>, Failure> {
    let tasks = load_tasks(config.tasks.folder())?;
    require_training_tasks(&tasks, config.tasks.folder())?;
    crate::tasks::require_levels(&tasks, &config.tasks.level_mix)?;
    require_model(config)?;
    require_fitting_adapters(config)?;
    require_evaluated_tasks(config, &tasks)?;
    crate::llm_judge::Setup::new(&config.judge)?;
    crate::openai::secret(&config.generator)?;
    Ok(tasks)
}

/// Asked to stop by signals; a run that is tied also by the end of stdin.
fn stopping(tied: bool) -> Result<StopToken, Failure> {
    let stop = signals()?;
    if tied {
        stop.on_stdin_end(false).map_err(|e| Failure::Broken(format!("stdin cannot be listened to: {e}")))?;
    }
    Ok(stop)
}

/// The configuration of this command, its paths absolute.
pub fn configuration(args: &ConfigArgs) -> Result<Config, Failure> {
    Ok(Config::load_here(&args.files, &args.sets)?.with_absolute_paths(&current_dir()?))
}

/// Between a run (or a node) and who watches it: writes its state at SIGUSR1.
pub fn dumper(
    what: &'static str,
    folder: Option<&Path>,
    watcher: Arc<dyn Observer>,
) -> Result<Arc<dyn Observer>, Failure> {
    let dumper = Dumper::listen(what, folder, watcher);
    Ok(dumper.map_err(|e| Failure::Broken(format!("SIGUSR1 cannot be listened for: {e}")))?)
}

pub fn signals() -> Result<StopToken, Failure> {
    StopToken::on_signals().map_err(|e| Failure::Broken(format!("signals cannot be listened for: {e}")))
}

/// A model that is not there is found before anything is made.
pub fn require_model(config: &Config) -> Result<(), UserError> {
    match config.model.folder() {
        Some(dir) if !dir.is_dir() && !is_gguf(dir) => Err(UserError::new("the model folder does not exist")
            .at(format!("model.dir = \"{}\"", dir.display()))
            .found(if dir.exists() { "a file" } else { "nothing" })
            .expected("a Hugging Face folder with config.json, *.safetensors and tokenizer.json, or a .gguf file")
            .hint("check the path; relative paths start at the current folder")),
        _ => Ok(()),
    }
}

/// Adapters that the user's model cannot have are found before anything is made.
fn require_fitting_adapters(config: &Config) -> Result<(), Failure> {
    if let (Some(dir), true) = (config.model.folder(), config.lora.rank > 0) {
        let shape = model::load_config(dir).map_err(|e| failure::of_run(RunError::Model(e), &config.run.dir))?;
        crate::config::adapters(config, &shape)?;
    }
    Ok(())
}

/// Whether its contents are a model is told when it is read.
fn is_gguf(path: &Path) -> bool {
    matches!(model::find_gguf(path), Ok(Some(_)))
}

/// An evaluation of nothing would say nothing.
fn require_evaluated_tasks(config: &Config, tasks: &[TaskSpec]) -> Result<(), UserError> {
    let split = config.eval.tasks();
    if !config.eval.enabled || tasks.iter().any(|task| task.split == split) {
        return Ok(());
    }
    let (name, folder) = match config.eval.split {
        EvalSplit::HeldOut => ("held_out", "held_out/level<N>"),
        EvalSplit::Validation => ("validation", "validation/level<N>"),
    };
    let place = match config.tasks.folder() {
        Some(dir) => format!("tasks.dir = \"{}\"", dir.display()),
        None => "tasks.dir = \"\" (the tasks that ship with Troupe)".to_string(),
    };
    Err(UserError::new("there is nothing to evaluate")
        .at(place)
        .found(format!("eval.enabled = true, eval.split = \"{name}\", and no task of that split"))
        .expected(format!("tasks in {folder} of tasks.dir"))
        .hint("add some, choose another eval.split, or set eval.enabled = false"))
}

pub fn current_dir() -> Result<PathBuf, UserError> {
    std::env::current_dir().map_err(|e| UserError::io("find the current folder", Path::new("."), &e))
}

/// Makes the first `<parent>/<number>` that is not there yet.
pub fn new_run_dir(parent: &Path) -> Result<PathBuf, UserError> {
    std::fs::create_dir_all(parent).map_err(|e| UserError::io("make the folder of runs (`run.dir`)", parent, &e))?;
    for number in 1..MAX_RUNS {
        let dir = parent.join(format!("{number:03}"));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(UserError::io("make a run directory", &dir, &e)),
        }
    }
    Err(UserError::new("there are too many runs")
        .at(parent.display())
        .found(format!("{MAX_RUNS} run directories"))
        .expected("a free number")
        .hint("name the run directory with --run-dir"))
}

fn finish(run_dir: &Path, work: impl FnOnce(Arc<dyn Observer>) -> Result<RunSummary, RunError>) -> Done {
    let terminal = Arc::new(Terminal::new());
    let dumper = dumper("head", Some(run_dir), terminal.clone())?;
    let result = work(dumper);
    terminal.finish();
    let summary = result.map_err(|e| failure::of_run(e, run_dir))?;
    output::line(summary_text(&summary))?;
    if summary.interrupted {
        output::say(format!("stopped; `troupe resume {}` continues", run_dir.display()));
        return Err(Failure::Interrupted);
    }
    Ok(Answer::Yes)
}

fn dry_run(config: &Config, tasks: &[TaskSpec], run_dir: Option<&Path>, gpus: Option<&Gpus>) -> String {
    let count = |split| tasks.iter().filter(|t| t.split == split).count();
    let r = &config.rollout;
    let policy = match config.model.folder() {
        Some(dir) => format!("{}", dir.display()),
        None => {
            let m = &config.model;
            format!("embedded, {} layers of width {}, vocabulary {}", m.layers, m.hidden, m.vocab)
        }
    };
    let device = match config.model.device {
        Device::Cpu => "CPU",
        Device::Cuda => "GPU 0",
    };
    let generator = match config.generator.kind {
        GeneratorKind::Burn if !config.generator.here => "none here, those of nodes that join".to_string(),
        GeneratorKind::Burn => format!("1 on the {device}, {} sequences together", config.generator.max_batch),
        GeneratorKind::Openai => {
            let name = match config.generator.server {
                ServerKind::Vllm => "vLLM",
                ServerKind::Sglang => "SGLang",
            };
            format!("{name} at {}, {} requests at once", config.generator.base_url, config.generator.max_batch)
        }
    };
    let warm_start = if config.sft.enabled { "on (from the cache where it has been made before)" } else { "off" };
    let learners = match config.learner.gpus {
        0 | 1 => format!("1 on the {device}"),
        n => format!("1 on GPUs 0 to {}", n - 1),
    };
    let executors = match gpus {
        None => "on the CPU (compiled for sm_90, run in Triton's interpreter; nothing is timed, so the\n\
                 #                  speed-up is not known and reward.speed_clip has nothing to clip)"
            .to_string(),
        Some(gpus) => format!("in Triton's interpreter first, then checked and timed on {}", gpus.names().join(", ")),
    };
    let llm_judge = match config.judge.enabled {
        true => format!(
            "{} at {}, {} requests at once",
            config.judge.model, config.judge.base_url, config.judge.concurrency
        ),
        false => "off".to_string(),
    };
    let nodes = match config.cluster.is_on() {
        true => format!("executors and generators join at {}", config.cluster.listen),
        false => "none".to_string(),
    };
    let trained = match &config.lora {
        lora if lora.rank == 0 => "trains every weight".to_string(),
        lora => format!("trains adapters of rank {} on {}", lora.rank, lora.targets.join(", ")),
    };
    let target = run_dir.map_or(format!("a new one in {}", config.run.dir.display()), |d| d.display().to_string());
    format!(
        "# placement\n\
         #   run directory  {target}\n\
         #   policy         {policy}; warm start {warm_start}\n\
         #   learner        {learners}, {trained}\n\
         #   generator      {generator}\n\
         #   judge          {} threads\n\
         #   executors      {} {executors}\n\
         #   other nodes    {nodes}\n\
         #   LLM judge      {llm_judge}\n\
         #   tasks          {} training, {} validation, {} held out\n\
         #   a step         {} groups of {} answers; at most {} rollouts in flight, at most {} versions stale\n\
         \n\
         # resolved configuration\n{}",
        crate::judge::THREADS,
        config.executor.workers,
        count(Split::Train),
        count(Split::Validation),
        count(Split::HeldOut),
        r.groups_per_step,
        r.group_size,
        r.credits,
        r.staleness_max,
        config.to_toml().trim_end()
    )
}

fn summary_text(summary: &RunSummary) -> String {
    let mut out = vec![
        format!("run        {}", summary.run_dir.display()),
        format!("steps      {} (policy {})", summary.steps, summary.policy_version),
    ];
    let all: u64 = summary.rollouts.values().sum();
    let endings: Vec<String> = summary.rollouts.iter().map(|(ending, n)| format!("{ending} {n}")).collect();
    out.push(format!("rollouts   {all}: {}", if endings.is_empty() { "none".into() } else { endings.join(", ") }));
    out.push(format!("faults     {} (never scored)", summary.faults));
    if let Some(c) = &summary.llm_judge {
        out.push(format!(
            "LLM judge  {} asked, {} of them known; {} rejected, {} masked; {} requests, {} tokens",
            c.asked, c.cached, c.rejected, c.faults, c.requests, c.tokens
        ));
    }
    if summary.skipped > 0 {
        out.push(format!("skipped    {} steps: a loss or gradient was not finite", summary.skipped));
    }
    if let Some(h) = &summary.held_out {
        out.push(format!("{:<10} {} tasks, verified pass@1, 95 % intervals", split_name(summary.split), h.tasks));
        out.push(format!("  before   {}", interval(&h.before, "%")));
        if let Some(after) = &h.after {
            out.push(format!("  after    {}", interval(after, "%")));
        }
        if let Some(gain) = &h.gain {
            out.push(format!("  gain     {}", interval(gain, "points")));
        }
        let [before, after] = summary.masked;
        if before + after > 0 {
            out.push(format!("  masked   {before} answers before, {after} after: faults of ours, in no mean; with every task that was asked,"));
            for (when, range) in ["before", "after"].into_iter().zip(summary.masked_bounds) {
                if let Some([low, high]) = range {
                    out.push(format!(
                        "           {when}: {:.1} % if all of them were wrong, {:.1} % if all were right",
                        100.0 * low,
                        100.0 * high
                    ));
                }
            }
        }
    }
    if let Some(dir) = &summary.policy_dir {
        out.push(format!("policy     {}", dir.display()));
    }
    if let Some(dir) = &summary.adapter_dir {
        out.push(format!("adapter    {} (for PEFT; the policy has it merged)", dir.display()));
    }
    out.push(format!("time       {:.0} s", summary.seconds));
    out.join("\n")
}

fn split_name(split: EvalSplit) -> &'static str {
    match split {
        EvalSplit::HeldOut => "held out",
        EvalSplit::Validation => "validation",
    }
}

fn interval(x: &Interval, unit: &str) -> String {
    let sign = if unit == "points" { "+" } else { "" };
    let number = |x: f64| if sign == "+" { format!("{:+.1}", 100.0 * x) } else { format!("{:.1}", 100.0 * x) };
    format!("{} {unit}  [{}, {}]", number(x.mean), number(x.low), number(x.high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_directories_are_numbered_and_never_reused() {
        let parent = tempfile::tempdir().unwrap();
        let runs = parent.path().join("deep/runs");
        assert_eq!(new_run_dir(&runs).unwrap(), runs.join("001"));
        assert_eq!(new_run_dir(&runs).unwrap(), runs.join("002"));
    }

    #[test]
    fn the_summary_shows_the_gain_with_its_interval() {
        let h = |mean: f64, low: f64, high: f64| Interval { mean, low, high };
        let summary = RunSummary {
            run_dir: "runs/001".into(),
            interrupted: false,
            steps: 24,
            policy_version: 24,
            split: EvalSplit::HeldOut,
            held_out: Some(crate::summary::HeldOut {
                tasks: 60,
                samples_before: 480,
                samples_after: 480,
                before: h(0.2, 0.15, 0.25),
                after: Some(h(0.35, 0.3, 0.4)),
                gain: Some(h(0.15, 0.1, 0.2)),
            }),
            masked: [0, 1],
            masked_bounds: [None, Some([0.349, 0.351])],
            rollouts: [("trained".to_string(), 90), ("zero_variance".to_string(), 10)].into(),
            faults: 1,
            llm_judge: Some(crate::llm_judge::Counts {
                asked: 90,
                cached: 20,
                rejected: 3,
                faults: 1,
                requests: 71,
                tokens: 9000,
            }),
            skipped: 2,
            policy_dir: None,
            adapter_dir: Some("runs/001/policy/adapter".into()),
            seconds: 12.3,
        };
        let text = summary_text(&summary);
        for line in [
            "LLM judge  90 asked, 20 of them known; 3 rejected, 1 masked; 71 requests, 9000 tokens",
            "skipped    2 steps: a loss or gradient was not finite",
            "rollouts   100: trained 90, zero_variance 10",
            "  before   20.0 %  [15.0, 25.0]",
            "  gain     +15.0 points  [+10.0, +20.0]",
            "  masked   0 answers before, 1 after",
            "           after: 34.9 % if all of them were wrong, 35.1 % if all were right",
            "adapter    runs/001/policy/adapter (for PEFT",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn a_dry_run_prints_a_run_file_that_reads_back() {
        let config = Config::builtin().unwrap();
        let text = dry_run(&config, &[], None, None);
        assert!(text.contains("executors      2"), "{text}");
        assert_eq!(Config::from_resolved(&text, Path::new("x")).unwrap(), config);
    }
}
