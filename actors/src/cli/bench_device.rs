//! `troupe bench executor` on GPUs.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use sandbox::Suspects;
use sandbox::executor::{ExecutorConfig, Limits};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::args::ExecutorBenchArgs;
use super::{Answer, Done, Failure, doctor, interrupt, output, pyenv, runtime};
use crate::bench::device::{self, Fairness, Item, Lanes, Throughput};
use crate::config::Config;
use crate::errors::UserError;
use crate::policy::Gpus;

pub fn executor(mut args: ExecutorBenchArgs) -> Done {
    let temp = std::env::temp_dir();
    let larger = tempfile::Builder::new().prefix("troupe-set-").tempdir();
    let larger = larger.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    if args.rows > 1 {
        device::enlarge(&args.device_set, args.rows.into(), larger.path())?;
        args.device_set = larger.path().to_owned();
    }
    let mut sets = args.sets.clone();
    if !sets.iter().any(|s| s.starts_with("gpu.devices")) {
        sets.push("gpu.devices=all".into());
    }
    let config = Config::load_here(&[], &sets)?;
    let python = pyenv::interpreter(&config)?;
    let mut items = device::load(&args.device_set)?;
    if let Some(task) = args.only.iter().find(|task| items.iter().all(|i| i.task.id.0 != **task)) {
        let mut known: Vec<&str> = items.iter().map(|i| i.task.id.0.as_str()).collect();
        known.dedup();
        return Err(Failure::User(
            UserError::new("there is no such task in the device set")
                .at("troupe bench executor --only")
                .found(task.clone())
                .expected(known.join(", ")),
        ));
    }
    items.retain(|i| args.only.is_empty() || args.only.contains(&i.task.id.0));
    let found: Value = runtime()?.block_on(async {
        tokio::select! {
            result = parts(&args, &sets, &config, &python, &items) => result,
            () = interrupt::first() => Err(Failure::Interrupted),
        }
    })?;
    if args.json {
        output::pretty_json(&found)?;
    }
    let failed = found["drill"]["held"] == json!(false) || found["control"]["error"].is_string();
    Ok(if failed { Answer::No } else { Answer::Yes })
}

async fn parts(
    args: &ExecutorBenchArgs,
    sets: &[String],
    config: &Config,
    python: &Path,
    items: &[Item],
) -> Result<Value, Failure> {
    let mut found = json!({});
    let wanted = |part: &str| args.parts.iter().any(|p| p == part);
    let honest = honest(items);
    if honest.is_none() && (wanted("drill") || wanted("drill-lanes")) {
        return Err(no_honest());
    }
    if wanted("drill-lanes") {
        // For the process that runs the drill.
        let open = serde_json::from_reader(std::io::stdin())
            .map_err(|e| Failure::Broken(format!("stdin is no list of numbers: {e}")))?;
        let lanes = start(args, config, python, Gpus::as_they_are).await?;
        let pause = Duration::from_secs(args.kill_every_s.max(1));
        let honest = honest.ok_or_else(no_honest)?;
        device::drill_lanes(honest, &lanes.0, args.drill, pause, &open, |said| drop(output::json(said))).await;
        lanes.0.end().await;
        return Ok(found);
    }
    if wanted("control") {
        found["control"] = control(args, config, python, items).await?;
    }
    if args.parts.iter().any(|p| p != "drill" && p != "control") {
        let lanes = start(args, config, python, Gpus::as_they_are).await?;
        let (count, gpus) = (lanes.0.executors.len(), lanes.0.gpus.count());
        output::say(format!("{} candidates, {count} executors on {gpus} GPUs", items.len()));
        let deadline = Duration::from_secs(args.deadline_s);
        let result = measure(args, config, python, items, &lanes.0, deadline, &mut found).await;
        lanes.0.end().await;
        result?;
    }
    if wanted("drill") {
        let honest = honest.ok_or_else(no_honest)?;
        let mut arguments: Vec<String> = ["bench", "executor", "--parts", "drill-lanes"].map(String::from).into();
        arguments.extend(["--device-set".into(), args.device_set.display().to_string()]);
        for (flag, n) in
            [("--workers", args.workers), ("--drill", args.drill), ("--deadline-s", args.deadline_s as usize)]
        {
            arguments.extend([flag.into(), n.to_string()]);
        }
        if !args.only.is_empty() {
            arguments.extend(["--only".into(), args.only.join(",")]);
        }
        arguments.extend(sets.iter().flat_map(|s| ["--set".into(), s.clone()]));
        let drill = device::drill(honest, args.drill, &arguments, output::say).await;
        let drill = drill.map_err(|e| UserError::io("run the drill", &args.device_set, &e))?;
        output::line(drill.to_string())?;
        found["drill"] = json!(drill);
        found["drill"]["held"] = json!(drill.held());
    }
    Ok(found)
}

fn no_honest() -> Failure {
    Failure::User(
        UserError::new("the drill has no candidate to begin with")
            .at("troupe bench executor --only")
            .found("no candidate that is expected to pass and has `def forward(self, x):`")
            .expected("one at least")
            .hint("name relu as well, or leave --only out"),
    )
}

/// What the drill's candidates are made of.
fn honest(items: &[Item]) -> Option<&Item> {
    let fits = |i: &&Item| i.expect.verdict == "passed" && i.candidate.source.contains("def forward(self, x):");
    items.iter().filter(|i| i.task.id.0 == "relu").find(fits).or(items.iter().find(fits))
}

/// What is changed of the GPUs before they start.
type How = fn(Arc<Gpus>) -> Arc<Gpus>;

/// The executors, and the folder they work in.
async fn start(
    args: &ExecutorBenchArgs,
    config: &Config,
    python: &Path,
    how: How,
) -> Result<(Lanes, TempDir), Failure> {
    let temp = std::env::temp_dir();
    let scratch = tempfile::Builder::new().prefix("troupe-bench-").tempdir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    let secret: [u8; 32] = rand::random();
    let Some(gpus) = Gpus::find(config, python, scratch.path(), secret)? else {
        return Err(Failure::User(
            UserError::new("there is no GPU to measure on")
                .at("troupe bench executor")
                .found("gpu.devices = \"none\"")
                .expected("GPUs, or --cpu")
                .hint("on a CPU kernels are compiled for sm_90 and run in Triton's interpreter"),
        ));
    };
    let limits = Limits {
        import_ms: args.deadline_s * 1000,
        compile_ms: args.deadline_s * 1000,
        run_ms: args.deadline_s * 1000,
        ..doctor::limits(config)
    };
    let suspects = Suspects::default();
    let make = |n: usize| ExecutorConfig {
        python: python.to_owned(),
        scratch: scratch.path().join(format!("executor-{n}")),
        limits,
        secret,
        suspects: suspects.clone(),
        require: Vec::new(),
        device: None,
    };
    Ok((Lanes::start(args.workers.max(1), how(gpus), make).await?, scratch))
}

/// Ours with fresh places, ours with one, then `do_bench` in all its ways, one after the other: each has the GPU to itself. What is known is
/// told after each, so that a run that is ended early, or whose `do_bench` fails, has shown something.
async fn control(args: &ExecutorBenchArgs, config: &Config, python: &Path, items: &[Item]) -> Result<Value, Failure> {
    let mut controls = device::Controls::default();
    let ways: [(bool, How); 2] = [(false, Gpus::as_they_are), (true, Gpus::in_one_place)];
    for (one_place, how) in ways {
        let lanes = start(args, config, python, how).await?;
        device::warm_up(items, &lanes.0).await;
        let measured = controls.ours(items, &lanes.0, one_place).await;
        lanes.0.end().await;
        measured.map_err(Failure::Broken)?;
        output::say(format!(
            "measured by us, {} of 2 ways\n{}",
            1 + usize::from(one_place),
            device::control_table(&controls.known())
        ));
    }
    let arguments: &[&str] = if config.gpu.devices.trim() == "processor" { &["--device", "cpu"] } else { &[] };
    let tell = |process: usize, known: &[device::Control]| {
        output::say(format!("{process} processes of do_bench\n{}", device::control_table(known)));
    };
    let done = controls.do_bench(python, &args.device_set, items, arguments, tell).await;
    let known = controls.known();
    output::line(device::control_table(&known))?;
    match done {
        Ok(()) => Ok(json!({"known": known, "error": null})),
        Err(e) => {
            output::say(format!("do_bench: {e}; what was measured before it is above"));
            Ok(json!({"known": known, "error": e.to_string()}))
        }
    }
}

async fn measure(
    args: &ExecutorBenchArgs,
    config: &Config,
    python: &Path,
    items: &[Item],
    lanes: &Lanes,
    deadline: Duration,
    found: &mut Value,
) -> Result<(), Failure> {
    let wanted = |part: &str| args.parts.iter().any(|p| p == part);
    let io = |e: std::io::Error| UserError::io("run a peer", &args.device_set, &e);
    device::warm_up(items, lanes).await;
    if wanted("equivalence") {
        let tell = |processes: usize, set: &[device::Equivalence]| {
            output::say(format!("{processes} processes of do_bench\n{}", equivalence(set)));
        };
        let set = device::equivalence(python, &args.device_set, items, lanes, tell).await.map_err(io)?;
        output::line(equivalence(&set))?;
        found["equivalence"] = json!(set);
    }
    if wanted("throughput") || wanted("ours") {
        let ours = device::throughput(items, lanes).await?;
        output::line(table(&ours))?;
        found["ours"] = json!(ours);
        if wanted("throughput") {
            let b = device::persistent(python, &args.device_set, items, deadline).await.map_err(io)?;
            output::line(format!(
                "a persistent process without isolation: {:.1} candidates/min ({} in {:.0} s), ours {:.2} times as many",
                b.per_minute,
                b.candidates,
                b.seconds,
                ours.per_minute / b.per_minute
            ))?;
            found["persistent"] = json!(b);
            let some = device::sample(items, args.fresh_every);
            let a = device::fresh(python, &args.device_set, &some, deadline + IMPORTS).await.map_err(io)?;
            output::line(format!(
                "a fresh process for each: {:.1} candidates/min ({} in {:.0} s), ours {:.2} times as many",
                a.per_minute,
                a.candidates,
                a.seconds,
                ours.per_minute / a.per_minute
            ))?;
            found["fresh"] = json!(a);
        }
    }
    if wanted("fairness") {
        found["fairness"] = fair(args, config, python, items, lanes).await?;
    }
    Ok(())
}

/// A line for each candidate, and how many are how far off.
fn equivalence(set: &[device::Equivalence]) -> String {
    let line = |e: &device::Equivalence| {
        format!(
            "{:<44} speed-up {:.4}, do_bench {:.4} (its processes {}; {:.2} % apart{}): {:+.2} %",
            e.name,
            e.ours,
            e.do_bench,
            e.processes.iter().map(|(_, p)| format!("{:.4}", p[0])).collect::<Vec<_>>().join(" "),
            e.spread(),
            if e.host_bound { "; longer flush, it was bound by the host" } else { "" },
            e.difference
        )
    };
    let mut lines: Vec<String> = set.iter().map(line).collect();
    lines.push(format!("speed-ups of {} candidates {}", set.len(), distances(set)));
    let unbound: Vec<_> = set.iter().filter(|e| !e.host_bound).cloned().collect();
    lines.push(format!(
        "of them the {} where do_bench does not measure the host {}",
        unbound.len(),
        distances(&unbound)
    ));
    lines.join("\n")
}

/// How many of `set` are how far off `do_bench`, and `do_bench` off itself.
fn distances(set: &[device::Equivalence]) -> String {
    use device::Places::{Elsewhere, First};
    let within = |off: &dyn Fn(&device::Equivalence) -> Option<f64>| within(set.iter().filter_map(off));
    format!(
        "against do_bench's, all its processes: {}; those as they come: {}; those with their tensors elsewhere: {}; do_bench elsewhere against do_bench as it \
         comes: {}",
        within(&|e| Some(e.difference)),
        within(&|e| e.against(First)),
        within(&|e| e.against(Elsewhere)),
        within(&device::Equivalence::itself)
    )
}

/// How many of `off` are how far, percent.
fn within(off: impl Iterator<Item = f64>) -> String {
    let all: Vec<f64> = off.map(f64::abs).collect();
    if all.is_empty() {
        return "none yet".into();
    }
    let to = |limit: f64| all.iter().filter(|d| **d <= limit).count();
    let worst = all.iter().copied().fold(0.0, f64::max);
    format!("within 1 % {}, 2 % {}, 4 % {} of {}, at most {worst:.2} %", to(1.0), to(2.0), to(4.0), all.len())
}

/// What a fresh process may take for torch, Triton and a context, before a candidate's own deadline.
const IMPORTS: Duration = Duration::from_secs(10);

async fn fair(
    args: &ExecutorBenchArgs,
    config: &Config,
    python: &Path,
    items: &[Item],
    lanes: &Lanes,
) -> Result<Value, Failure> {
    let good: Vec<&Item> = items.iter().filter(|i| i.expect.verdict == "passed").collect();
    // One from the beginning, the middle and the end of the set.
    let picked: Vec<&Item> = good.iter().step_by((good.len() / 3).max(1)).take(3).copied().collect();
    let (mut idle, mut noisy) = (Vec::new(), Vec::new());
    // A neighbour is on one GPU, beside which everything has to be measured.
    if args.hidden_neighbour && lanes.gpus.count() != 1 {
        return Err(Failure::User(
            UserError::new("a hidden neighbour is on one GPU only")
                .at("troupe bench executor --hidden-neighbour")
                .found(format!("{} GPUs", lanes.gpus.count()))
                .expected("one")
                .hint("name one: --set gpu.devices=0"),
        ));
    }
    for item in &picked {
        let f = device::fairness(item, lanes, args.repeats, None).await;
        output::line(shown("idle", &f))?;
        idle.push(f);
    }
    let kinds = if args.hidden_neighbour { &NEIGHBOURS[..] } else { &NEIGHBOURS[..1] };
    let pinned = lanes.gpus.of_executor(0).await?.uuid().map(str::to_owned);
    for (kind, on_s, off_s) in kinds {
        for (item, idle) in picked.iter().zip(&idle) {
            let neighbour = neighbour(python, &device_of(config), pinned.as_deref(), [*on_s, *off_s]).await;
            let mut neighbour = neighbour.map_err(|e| UserError::io("start a neighbour", python, &e))?;
            if let (true, Some(pid)) = (args.hidden_neighbour, neighbour.id()) {
                lanes.gpus.of_executor(0).await?.adopt(pid);
            }
            let f = device::fairness(item, lanes, args.noisy, Some(idle.mean)).await;
            // Gone before the next one, not some time after.
            let _ = neighbour.kill().await;
            let hidden = if args.hidden_neighbour { "a hidden" } else { "a" };
            output::line(shown(&format!("beside {hidden} neighbour that works {kind}"), &f))?;
            noisy.push(json!({"kind": kind, "hidden": args.hidden_neighbour, "found": f}));
        }
    }
    Ok(json!({"idle": idle, "noisy": noisy}))
}

/// As torch calls what `gpu.devices` names.
fn device_of(config: &Config) -> String {
    if config.gpu.devices.trim() == "processor" { "cpu".into() } else { "cuda".into() }
}

fn shown(how: &str, f: &Fairness) -> String {
    let off = f.off.map_or(String::new(), |off| format!(", at most {off:.2} % off the idle mean"));
    let reasons = if f.reasons.is_empty() { String::new() } else { format!("\n    {}", f.reasons.join("\n    ")) };
    format!(
        "{how}: {} {} times, {} accepted: speed-up {:.4} [{:.4}, {:.4}], coefficient of variation {:.2} %{off}; {} measurements \
         refused, {} faults, {} blamed (0 wanted){reasons}",
        f.name,
        f.repeats,
        f.evaluations.len(),
        f.mean,
        f.min,
        f.max,
        f.cv,
        f.refused,
        f.faults,
        f.blamed
    )
}

const NEIGHBOUR_UP: Duration = Duration::from_secs(60);
/// What neighbours there are: in words, seconds at work, seconds at rest. The first is the usual one.
const NEIGHBOURS: [(&str, f64, f64); 4] = [
    ("every other half second", 0.5, 0.5),
    ("5 ms of every 50", 0.005, 0.045),
    ("a tenth of a second every two", 0.1, 1.9),
    ("without rest", 1e9, 0.0),
];
/// Keeps the GPU busy with matrix products of a third of a millisecond or so, for so long, then rests.
const NEIGHBOUR: &str = "
import sys, time, torch
device, on, off = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
rest = torch.cuda.synchronize if device == 'cuda' else int
a = torch.randn(2048, 2048, device=device)
a @ a
rest()
print('on', flush=True)
while True:
    end = time.time() + on
    while time.time() < end:
        a @ a
        rest()
    time.sleep(off)
";

/// On the GPU with the UUID `pinned`. Returns when it is at work.
async fn neighbour(
    python: &Path,
    device: &str,
    pinned: Option<&str>,
    on_and_off_s: [f64; 2],
) -> std::io::Result<Child> {
    let mut command = Command::new(python);
    command.envs(pinned.map(|uuid| ("CUDA_VISIBLE_DEVICES", uuid)));
    command.args(["-c", NEIGHBOUR, device]).args(on_and_off_s.map(|s| s.to_string()));
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let Some(out) = child.stdout.take() else { return Err(std::io::Error::other("no pipe from it")) };
    let mut lines = BufReader::new(out).lines();
    let first = tokio::time::timeout(NEIGHBOUR_UP, lines.next_line()).await;
    match first.map_err(|_| std::io::Error::other("it does not begin"))?? {
        Some(_) => Ok(child),
        None => Err(std::io::Error::other("it ended")),
    }
}

fn table(t: &Throughput) -> String {
    let utilisation = t.utilisation.map_or(String::new(), |u| format!(", NVML utilisation {u:.0} %"));
    let mut out = vec![format!(
        "{} candidates in {:.1} s on {} executors and {} GPUs ({} checks at once): {:.1} candidates/min per GPU, {} timed; \
         gate occupied {:.0} % (checks and timing), timing alone {:.0} %{utilisation}",
        t.candidates,
        t.seconds,
        t.lanes,
        t.gpus,
        t.checks,
        t.per_minute,
        t.timed,
        100.0 * t.occupied,
        100.0 * t.timing
    )];
    let verdicts: Vec<String> = t.verdicts.iter().map(|(v, n)| format!("{v} {n}")).collect();
    out.push(format!("verdicts: {}", verdicts.join(", ")));
    out.push(format!("{:<22} {:>10} {:>9} {:>9} {:>9}", "stage", "candidates", "p50 ms", "p95 ms", "p99 ms"));
    for s in &t.stages {
        out.push(format!("{:<22} {:>10} {:>9.1} {:>9.1} {:>9.1}", s.name, s.candidates, s.p50, s.p95, s.p99));
    }
    for (name, expected, found) in &t.unexpected {
        out.push(format!("UNEXPECTED {name}: expected {expected}, found {found}"));
    }
    out.extend(t.faults.iter().map(|f| format!("fault tried again: {f}")));
    out.join("\n")
}
