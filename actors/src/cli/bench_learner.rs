//! `troupe bench learner`.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use burn::tensor::backend::AutodiffBackend;
use model::kernels::Kernels;
use model::learner::{Execution, Learner};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::args::{DeviceArg, DtypeArg, LearnerBenchArgs};
use super::{Answer, Done, Failure, interrupt, output, runtime};
use crate::bench::learner::{self, Bench, LearnerBench, LearnerFigures, PeerFigures};
use crate::errors::UserError;

pub fn learner(args: LearnerBenchArgs) -> Done {
    if args.gpus > 1 && args.device == DeviceArg::Cpu {
        return Err(Failure::User(
            UserError::new("several GPUs train a network on GPUs")
                .at("--gpus")
                .found(format!("--gpus {}", args.gpus))
                .expected("--device cuda")
                .hint("leave --gpus out"),
        ));
    }
    if matches!(args.device, DeviceArg::Cuda) {
        crate::cuda::require("--device")?;
    }
    let found = match (args.device, &args.peer_python) {
        // What this process has taken of a GPU would be the peer's.
        (DeviceArg::Cuda, Some(_)) => apart(&args)?,
        _ => measured(&args)?,
    };
    let mut all = Vec::new();
    for ours in found {
        let peer = peer(&args, &ours)?;
        if !args.json {
            output::line(line(&ours, peer.as_ref()))?;
        }
        let ratio = peer.as_ref().map(|p| ours.tokens_per_s / p.tokens_per_s);
        all.push(json!({ "ours": ours, "peer": peer, "ratio": ratio }));
    }
    if args.json {
        output::pretty_json(&Value::from(all))?;
    }
    Ok(Answer::Yes)
}

fn measured(args: &LearnerBenchArgs) -> Result<Vec<LearnerFigures>, Failure> {
    match args.device {
        DeviceArg::Cpu => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            measure::<model::Cpu>(args, |l| l.with_execution(Execution::Host, threads), |_| (), || None)
        }
        #[cfg(feature = "cuda")]
        DeviceArg::Cuda => on_gpu(args),
        #[cfg(not(feature = "cuda"))]
        DeviceArg::Cuda => Err(Failure::User(
            UserError::new("this build has no CUDA")
                .at("--device cuda")
                .expected("a build with the feature `cuda`, or --device cpu")
                .hint("build with `cargo build --release --features cuda`"),
        )),
    }
}

/// The same command without a peer, in a process that has ended before the peer begins.
fn apart(args: &LearnerBenchArgs) -> Result<Vec<LearnerFigures>, Failure> {
    #[derive(serde::Deserialize)]
    struct Layout {
        ours: LearnerFigures,
    }
    let this = std::env::current_exe()
        .map_err(|e| UserError::io("find the program that is", std::path::Path::new("/proc/self/exe"), &e))?;
    let mut command = tokio::process::Command::new(&this);
    command.args(without_peer(std::env::args_os().skip(1))).stdin(Stdio::null()).stdout(Stdio::piped());
    command.kill_on_drop(true);
    // As long as the peer has for as many layouts.
    let limit_s = args.deadline_s.saturating_mul(args.layout.len() as u64);
    runtime()?.block_on(async {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(limit_s)) => {
                Err(Failure::Broken(format!("our half did not end in {limit_s} s (--deadline-s for each layout)")))
            }
            done = command.spawn().map_err(|e| UserError::io("start", &this, &e))?.wait_with_output() => {
                let out = done.map_err(|e| UserError::io("wait for", &this, &e))?;
                if !out.status.success() {
                    let status = out.status;
                    return Err(Failure::Broken(format!("our half ended with {status}; what it said is above")));
                }
                let found: Vec<Layout> = serde_json::from_slice(&out.stdout)
                    .map_err(|e| Failure::Broken(format!("our half's answer cannot be read: {e}")))?;
                Ok(found.into_iter().map(|layout| layout.ours).collect())
            }
            () = interrupt::first() => Err(Failure::Interrupted),
        }
    })
}

/// `arguments` without `--peer-python` and with `--json`.
fn without_peer(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const PEER: &str = "--peer-python";
    let (mut kept, mut is_value) = (Vec::new(), false);
    for argument in arguments {
        let text = argument.to_string_lossy();
        let (value, peer) = (std::mem::replace(&mut is_value, text == PEER), text.starts_with(PEER));
        if !value && !peer && text != "--json" {
            kept.push(argument);
        }
    }
    kept.push("--json".into());
    kept
}

#[cfg(feature = "cuda")]
fn on_gpu(args: &LearnerBenchArgs) -> Result<Vec<LearnerFigures>, Failure> {
    use model::device::Runtime;
    use model::learner::{GpuCompute, GpuType};
    let element = match args.dtype {
        DtypeArg::Bf16 => GpuType::Bf16,
        DtypeArg::Fp32 => GpuType::Fp32,
    };
    let gpus = usize::from(args.gpus);
    let compute = GpuCompute { element, recompute: args.recompute, gpus, ..GpuCompute::default() };
    let taken = || {
        let (free, total) = Runtime::new(0).and_then(|r| r.memory()).ok()?;
        Some((total - free) as f64 / (1u64 << 30) as f64)
    };
    let prepare = |l: Learner<model::Gpu>| l.with_execution(Execution::Device, 1).with_gpu(compute);
    let after = |l: &Learner<model::Gpu>| {
        if let Some(Ok(compiled)) = l.gpu_found() {
            output::say(if compiled { "kernels were compiled" } else { "compiled kernels were on the disk" });
        }
        if let Some((budget, held)) = l.gpu_memory() {
            output::say(format!("planned memory: {budget}"));
            output::say(format!("the executor's own buffers: {:.2} GB", held as f64 / 1e9));
        }
    };
    measure::<model::Gpu>(args, prepare, after, taken)
}

fn measure<AB: AutodiffBackend + Kernels>(
    args: &LearnerBenchArgs,
    prepare: impl FnOnce(Learner<AB>) -> Learner<AB>,
    after: impl Fn(&Learner<AB>),
    device_gib: impl Fn() -> Option<f64>,
) -> Result<Vec<LearnerFigures>, Failure> {
    let unknown = || Failure::Broken(format!("no shape is called {}", args.shape));
    let config = learner::config(&args.shape, args.layers).ok_or_else(unknown)?;
    output::say(format!("{}: {} parameters", args.shape, config.num_parameters()));
    let device = AB::Device::default();
    // Weights of a GPU are made there: 33 GB of the host's memory would stand in between for the largest shape.
    let network = match args.device {
        DeviceArg::Cpu => config.init_cheap::<AB>(1, &device),
        DeviceArg::Cuda => config.init_in_place::<AB>(1, &device),
    };
    let mut ready = prepare(Learner::new(network, learner::optim()));
    let rank = args.lora.map(usize::from);
    if let Some(rank) = rank {
        ready = ready.with_lora(&learner::adapters(rank), 1).map_err(|e| Failure::Broken(e.to_string()))?;
    }
    let mut bench = Bench::<AB>::new(&args.shape, config, ready, rank);
    let mut found = Vec::new();
    for layout in &args.layout {
        let wanted = LearnerBench {
            shape: args.shape.clone(),
            layers: args.layers,
            layout: layout.clone(),
            steps: args.steps,
            micro_batch: args.micro_batch,
            peak_tflops: (args.device == DeviceArg::Cuda).then_some(args.peak_tflops * f64::from(args.gpus)),
        };
        let figures = bench.run(&wanted, &device_gib).map_err(|e| Failure::Broken(e.to_string()))?;
        let figures = figures.ok_or_else(|| Failure::Broken(format!("no layout is called {layout}")))?;
        output::say(line(&figures, None));
        found.push(figures);
    }
    after(bench.learner());
    Ok(found)
}

/// The same in PyTorch, where a Python was given; a process a layout.
fn peer(args: &LearnerBenchArgs, ours: &LearnerFigures) -> Result<Option<PeerFigures>, Failure> {
    let (Some(python), Some(lengths)) = (&args.peer_python, learner::lengths(&ours.layout)) else { return Ok(None) };
    let Some(config) = learner::config(&args.shape, args.layers) else { return Ok(None) };
    let wanted = json!({
        "config": config,
        "lengths": lengths,
        "steps": args.steps,
        "micro_batch": args.peer_micro_batch,
        "device": if args.device == DeviceArg::Cuda { "cuda" } else { "cpu" },
        "dtype": if args.dtype == DtypeArg::Bf16 && args.device == DeviceArg::Cuda { "bfloat16" } else { "float32" },
        "recompute": args.recompute,
        "lora": args.lora,
    });
    let mut command = tokio::process::Command::new(python);
    command.arg(&args.peer_script).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let work = async {
        let mut child = command.spawn().map_err(|e| UserError::io("start the peer", python, &e))?;
        if let Some(mut stdin) = child.stdin.take() {
            let sent = stdin.write_all(wanted.to_string().as_bytes()).await;
            sent.map_err(|e| UserError::io("tell the peer what to do", python, &e))?;
        }
        let out = child.wait_with_output().await.map_err(|e| UserError::io("wait for the peer", python, &e))?;
        if !out.status.success() {
            return Err(Failure::Broken(format!("the peer ended with {}; what it said is above", out.status)));
        }
        let text = String::from_utf8_lossy(&out.stdout);
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .map_err(|e| Failure::Broken(format!("the peer's last line is no answer: {e}: {last}")))
    };
    let deadline = Duration::from_secs(args.deadline_s);
    runtime()?.block_on(async {
        tokio::select! {
            done = tokio::time::timeout(deadline, work) => match done {
                Ok(figures) => figures.map(Some),
                Err(_) => Err(Failure::Broken(format!("the peer did not end in {} s (--deadline-s)", args.deadline_s))),
            },
            () = interrupt::first() => Err(Failure::Interrupted),
        }
    })
}

fn line(f: &LearnerFigures, peer: Option<&PeerFigures>) -> String {
    let memory = f.device_gib.map_or(String::new(), |gib| format!(", {gib:.1} GiB of the device"));
    let share = f.utilisation.map_or(String::new(), |u| format!(" ({:.1} % of the peak)", 100.0 * u));
    let lora = f.lora.map_or(String::new(), |rank| format!(", adapters of rank {rank}"));
    let mut text = format!(
        "{} {}{lora}: {:.0} tokens/s, {:.1} ms a step, {:.1} TFLOP/s{share}{memory}; first step {:.2} s, done {:.2} s after the process \
         began",
        f.shape, f.layout, f.tokens_per_s, f.median_ms, f.tflops, f.warm_up_s, f.first_step_s
    );
    if let Some(p) = peer {
        text += &format!(
            "\n{}: {:.0} tokens/s, {:.1} ms a step, {:.1} GiB reserved, done with the first step after {:.2} s; ratio {:.2}",
            p.name,
            p.tokens_per_s,
            p.median_ms,
            p.device_gib,
            p.first_step_s,
            f.tokens_per_s / p.tokens_per_s
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_half_is_the_same_command_without_the_peer() {
        let half = |line: &str| without_peer(line.split(' ').map(OsString::from));
        let expected: Vec<OsString> = ["bench", "learner", "--steps", "3", "--json"].map(OsString::from).into();
        assert_eq!(half("bench learner --peer-python py --steps 3"), expected);
        assert_eq!(half("bench learner --steps 3 --json --peer-python=py"), expected);
    }
}
