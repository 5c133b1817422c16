//! `troupe verify`: one candidate through every layer of the verifier.

use std::path::Path;
use std::sync::Arc;

use reward::judge::judge_candidate;
use rollout::id::Digest;
use rollout::outcome::{ExecReport, Fault, Finding, Layers, Outcome, Ruling};
use rollout::task::TaskSpec;
use rollout::timing::Timing;
use sandbox::Suspects;
use sandbox::executor::{Executor, ExecutorConfig};
use sandbox::fault::KILLED;
use serde::Serialize;
use sha2::Digest as _;

use super::args::{DeviceArg, VerifyArgs};
use super::lint::finding_text;
use super::{Answer, Done, Failure, doctor, failure, interrupt, output, pyenv, runtime, source};
use crate::config::Config;
use crate::errors::UserError;
use crate::llm_judge::{self, Setup};
use crate::policy::{Gpus, isolation_note, require_isolation};
use crate::tasks;

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Verified {
    verdict: &'static str,
    layers: Layers,
    speedup: Option<f64>,
    /// Nothing is timed without a GPU.
    timing: Option<Times>,
    findings: Vec<Finding>,
    compat: Compat,
    fault: Option<Fault>,
    protocol: Digest,
    candidate: Option<Digest>,
}

/// KernelBench's own tolerances.
#[derive(Debug, Default, Serialize)]
struct Compat {
    #[serde(rename = "kernelbench_1e-2")]
    kernelbench_1e2: Option<bool>,
    #[serde(rename = "kernelbench_1e-4")]
    kernelbench_1e4: Option<bool>,
}

/// What the layers said, before it is printed.
struct Judged {
    layers: Layers,
    findings: Vec<Finding>,
    /// The candidate's text and digest, when there is one.
    candidate: Option<rollout::outcome::Candidate>,
    result: Result<Outcome, Fault>,
    report: Option<ExecReport>,
}

pub fn verify(args: VerifyArgs) -> Done {
    let mut sets = args.config.sets.clone();
    if args.judge {
        sets.push("judge.enabled=true".to_string());
    }
    let load = |sets: &[String]| Config::load_here(&args.config.files, sets);
    let config = match (args.device, load(&sets)) {
        (Some(DeviceArg::Cuda), Ok(config)) if config.gpu.devices != "none" => config,
        // Keys of `[gpu]` count only where there are GPUs.
        (Some(DeviceArg::Cuda), _) => load(&[&sets[..], &["gpu.devices=all".to_string()]].concat())?,
        (Some(DeviceArg::Cpu), config) => {
            let mut config = config?;
            config.gpu.devices = "none".to_string();
            config
        }
        (None, config) => config?,
    };
    let llm_judge = Setup::new(&config.judge)?;
    let task = tasks::load_task(&args.task)?;
    let read = source::read(&args.candidate)?;
    let ruling = match read.candidate {
        Ok(candidate) => judge_candidate(candidate, Some(&task)),
        Err(error) => Ruling::Reject {
            candidate: None,
            findings: Vec::new(),
            outcome: Outcome::Unparsed { reason: error.to_string() },
        },
    };
    let judged = match ruling {
        Ruling::Reject { candidate, findings, outcome } => {
            let layers = static_layers(candidate.as_ref(), &task);
            Judged { layers, findings, candidate, result: Ok(outcome), report: None }
        }
        Ruling::Admit { candidate, mut findings } => {
            let layers = static_layers(Some(&candidate), &task);
            let (result, report) = match execute(&config, &task, &candidate, &args, llm_judge)? {
                Ok((report, finding)) => {
                    findings.extend(finding);
                    (Ok(report.outcome.clone()), Some(report))
                }
                Err((fault, seen)) => (Err(fault), seen.map(|report| *report)),
            };
            findings.extend(report.iter().flat_map(|r| r.findings.iter().cloned()));
            findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
            // Of a fault in a later layer (the LLM judge's) what those before it said.
            let seen = report.as_ref().map(|r| r.outcome.layers()).unwrap_or_default();
            // The rules may find a program functional that then launches nothing, or to which the LLM judge objects.
            let functional = if seen.functional == Some(false) { Some(false) } else { layers.functional };
            let layers = Layers { functional, compiled: seen.compiled, correct: seen.correct, ..layers };
            Judged { layers, findings, candidate: Some(candidate), result, report }
        }
    };
    answer(&args, &task, judged)
}

/// The layers that need no execution.
fn static_layers(candidate: Option<&rollout::outcome::Candidate>, task: &TaskSpec) -> Layers {
    match candidate {
        None => Layers { extracted: Some(false), ..Layers::default() },
        Some(candidate) => {
            let report = reward::lint::lint(&candidate.source, Some(task));
            // What is not Python has no function that could be judged.
            let is_python = report.findings.iter().all(|f| f.code != reward::lint::SYNTAX);
            let functional = is_python.then_some(report.functional);
            Layers { extracted: Some(true), syntax: Some(report.syntax), functional, ..Layers::default() }
        }
    }
}

/// A report, and the LLM judge's objection to what passed.
type Seen = (ExecReport, Option<Finding>);
/// Why there is no verdict, and what was seen before that.
type Unseen = (Fault, Option<Box<ExecReport>>);

/// The contract's words for a measurement.
#[derive(Debug, Serialize)]
struct Times {
    candidate_us: f64,
    reference_us: f64,
    ci95: [f64; 2],
    samples: u32,
    evidence: Timing,
}

impl Times {
    fn of(timing: &Timing) -> Times {
        Times {
            candidate_us: timing.candidate_us,
            reference_us: timing.reference_us,
            ci95: [timing.low, timing.high],
            samples: timing.samples,
            evidence: timing.clone(),
        }
    }
}

/// Runs the candidate; the outer error ends the command, the inner one is a fault to be shown as the verdict.
fn execute(
    config: &Config,
    task: &TaskSpec,
    candidate: &rollout::outcome::Candidate,
    args: &VerifyArgs,
    llm_judge: Option<Arc<Setup>>,
) -> Result<Result<Seen, Unseen>, Failure> {
    // A mistake there is told before minutes go into an environment.
    Gpus::find(config, Path::new(""), Path::new(""), [0; 32])?;
    let python = pyenv::interpreter(config)?;
    let temp = std::env::temp_dir();
    let scratch = tempfile::Builder::new().prefix("troupe-verify-").tempdir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    let limits = doctor::limits(config);
    let require = config.executor.require_isolation.clone();
    require_isolation(&python, &require).map_err(|e| failure::of_run(e, scratch.path()))?;
    let secret = secret(args.seed);
    let gpus = Gpus::find(config, &python, scratch.path(), secret)?;
    let gpus = gpus.map(|gpus| if args.no_timing { gpus.untimed() } else { gpus });
    let executor = ExecutorConfig {
        python,
        scratch: scratch.path().to_path_buf(),
        limits,
        secret,
        suspects: Suspects::default(),
        require,
        device: None,
    };
    runtime()?.block_on(async {
        tokio::select! {
            result = evaluate(executor, gpus, task, candidate, llm_judge) => Ok(result),
            () = interrupt::first() => Err(Failure::Interrupted),
        }
    })
}

async fn evaluate(
    mut config: ExecutorConfig,
    gpus: Option<Arc<Gpus>>,
    task: &TaskSpec,
    candidate: &rollout::outcome::Candidate,
    llm_judge: Option<Arc<Setup>>,
) -> Result<Seen, Unseen> {
    let alone = |fault| (fault, None);
    if let Some(gpus) = &gpus {
        config.device = Some(gpus.of_executor(0).await.map_err(alone)?);
    }
    let executor = Executor::start(config).await.map_err(alone)?;
    if let Some(note) = executor.isolation().await.as_ref().and_then(isolation_note) {
        output::say(note);
    }
    let mut result = executor.evaluate(task, candidate).await;
    // Whose doing a kill was shows at the second one; a run tries again too.
    if result.as_ref().is_err_and(|fault| fault.code == KILLED) {
        result = executor.evaluate(task, candidate).await;
    }
    executor.shutdown().await;
    if let Some(gpus) = gpus {
        gpus.shutdown().await;
    }
    let report = reward::evidence::weigh(result.map_err(alone)?);
    match llm_judge.filter(|_| report.outcome.is_correct()) {
        None => Ok((report, None)),
        Some(setup) => match llm_judge::ask_once(setup, task, candidate).await {
            Err(fault) => Err((fault, Some(Box::new(report)))),
            Ok(opinion) => {
                let outcome = opinion.apply(report.outcome.clone());
                Ok((ExecReport { outcome, ..report }, opinion.finding()))
            }
        },
    }
}

/// Inputs are drawn from it: the same for the same seed, new each time without one.
fn secret(seed: Option<u64>) -> [u8; 32] {
    match seed {
        None => rand::random(),
        Some(seed) => sha2::Sha256::digest(format!("troupe verify {seed}").as_bytes()).into(),
    }
}

fn answer(args: &VerifyArgs, task: &TaskSpec, judged: Judged) -> Done {
    let speedup = match &judged.result {
        Ok(Outcome::Passed { speedup }) => *speedup,
        _ => None,
    };
    let compat = judged.report.as_ref().map_or_else(Compat::default, |r| Compat {
        kernelbench_1e2: r.kernelbench_1e2,
        kernelbench_1e4: r.kernelbench_1e4,
    });
    let verified = Verified {
        verdict: judged.result.as_ref().map_or("fault", Outcome::verdict),
        layers: judged.layers,
        speedup,
        timing: judged.report.as_ref().and_then(|r| r.timing.as_ref()).map(Times::of),
        findings: judged.findings.clone(),
        compat,
        fault: judged.result.as_ref().err().cloned(),
        protocol: judged.report.as_ref().map_or_else(sandbox::protocol_digest, |r| r.protocol.clone()),
        candidate: judged.candidate.as_ref().map(|c| c.digest.clone()),
    };
    if args.json {
        output::pretty_json(&verified)?;
    } else {
        output::line(human(args, task, &judged, &verified))?;
    }
    match judged.result {
        Ok(outcome) if outcome.is_correct() => Ok(Answer::Yes),
        Ok(_) => Ok(Answer::No),
        Err(fault) => Err(fault.into()),
    }
}

fn human(args: &VerifyArgs, task: &TaskSpec, judged: &Judged, verified: &Verified) -> String {
    let mut out = vec![format!("{} for task {}", args.candidate.display(), task.id)];
    let layers = [
        ("extracted", verified.layers.extracted),
        ("syntax", verified.layers.syntax),
        ("functional", verified.layers.functional),
        ("compiled", verified.layers.compiled),
        ("correct", verified.layers.correct),
    ];
    for (name, reached) in layers {
        let word = match reached {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "not reached",
        };
        out.push(format!("  {name:<11} {word}"));
    }
    let text = judged.candidate.as_ref().map_or("", |c| c.source.as_str());
    out.extend(verified.findings.iter().map(|f| finding_text(f, text)));
    if let Some(report) = &judged.report {
        out.extend(report_lines(report));
    }
    out.push(match &judged.result {
        Ok(outcome) => verdict_line(outcome),
        Err(fault) => format!("fault {fault} (ours: says nothing about the candidate)"),
    });
    out.join("\n")
}

/// The executor's report for a reader.
pub fn report_lines(report: &ExecReport) -> Vec<String> {
    let mut out = Vec::new();
    for launch in &report.launches {
        let [x, y, z] = launch.grid;
        out.push(format!("  launch      {} on a grid of {x} x {y} x {z}", launch.kernel));
    }
    if let Some(error) = report.max_abs_error {
        out.push(format!("  max error   {error:e} (absolute, over all outputs)"));
    }
    let verdict = |ok: Option<bool>| ok.map_or("not compared", |ok| if ok { "passes" } else { "fails" });
    if report.kernelbench_1e2.is_some() {
        let (loose, tight) = (verdict(report.kernelbench_1e2), verdict(report.kernelbench_1e4));
        out.push(format!("  KernelBench {loose} at 1e-2, {tight} at 1e-4"));
    }
    out.extend(report.timing.iter().flat_map(timing_lines));
    if !report.phase_ms.is_empty() {
        let phases: Vec<String> = report.phase_ms.iter().map(|(p, ms)| format!("{p} {ms:.0} ms")).collect();
        out.push(format!("  time taken  {}", phases.join(", ")));
    }
    if report.reused {
        out.push("  reused      an identical answer to this task was executed before".to_string());
    }
    if !report.log_tail.trim().is_empty() {
        out.push("  printed by the candidate (not evidence of anything):".to_string());
        out.extend(report.log_tail.trim_end().lines().map(|l| format!("    | {}", printable(l))));
    }
    out
}

fn timing_lines(t: &Timing) -> Vec<String> {
    let c = &t.conditions;
    // Less than it took counts where it was slower than alone by more than what is paid for.
    let counts = t.speedup * t.candidate_us;
    let alone = match counts < t.reference_us * (1.0 - 1e-6) {
        true => format!(" (alone {:.2} us: {counts:.2} us count)", t.baseline_us),
        false => String::new(),
    };
    let mut out = vec![
        format!(
            "  timing      {:.2} us, the reference {:.2} us{alone}: {:.3} times as fast [{:.3}, {:.3}]{} over {} calls each",
            t.candidate_us,
            t.reference_us,
            t.speedup,
            t.low,
            t.high,
            if t.tie { ", a tie" } else { "" },
            t.samples
        ),
        format!(
            "  device      {}, SM {} to {} MHz, at most {} C and {:.0} W",
            t.device,
            c.sm_mhz_min,
            c.sm_mhz_max,
            c.temperature_max_c,
            f64::from(c.power_max_mw) / 1e3
        ),
    ];
    out.extend(t.refused.iter().map(|why| format!("  refused     a measurement: {why}")));
    out
}

/// A verdict with its reason.
pub fn verdict_line(outcome: &Outcome) -> String {
    let name = outcome.verdict();
    match outcome {
        Outcome::Unparsed { reason } | Outcome::Rejected { reason } => format!("{name}: {}", printable(reason)),
        Outcome::CompileError { message } | Outcome::WrongAnswer { message } | Outcome::Implausible { message } => {
            format!("{name}: {}", printable(message))
        }
        Outcome::Crashed { phase, message } | Outcome::OutOfMemory { phase, message } => {
            format!("{name} while it was in {phase:?}: {}", printable(message))
        }
        Outcome::TimedOut { phase, limit_ms } => format!("{name}: {phase:?} took more than {limit_ms} ms"),
        Outcome::Passed { speedup: Some(x) } => format!("{name}: {x:.2} times as fast as the reference"),
        Outcome::Passed { speedup: None } => format!("{name} (nothing is timed without a GPU)"),
    }
}

/// Text of a candidate for a terminal: what could move its cursor, turn the text around or hide in it is made visible.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            // Marks, embeddings and isolates of writing direction; characters without width; separators.
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => char::REPLACEMENT_CHARACTER,
            '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_secret_and_no_seed_a_new_one() {
        assert_eq!(secret(Some(1)), secret(Some(1)));
        assert_ne!(secret(Some(1)), secret(Some(2)));
        assert_ne!(secret(None), secret(None));
    }

    #[test]
    fn terminal_escapes_of_a_candidate_are_not_passed_on() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\n"), "a\u{fffd}[2Jb\tc\n");
        assert_eq!(printable("x\u{202e}y\u{200b}\u{2066}z\u{9b}1m é"), "x\u{fffd}y\u{fffd}\u{fffd}z\u{fffd}1m é");
    }

    #[test]
    fn the_document_has_exactly_the_published_keys_in_order() {
        let verified = Verified {
            verdict: "passed",
            layers: Layers { extracted: Some(true), ..Layers::default() },
            speedup: None,
            timing: None,
            findings: vec![],
            compat: Compat::default(),
            fault: None,
            protocol: Digest("p".into()),
            candidate: Some(Digest("c".into())),
        };
        assert_eq!(
            serde_json::to_string(&verified).unwrap(),
            r#"{"verdict":"passed","layers":{"extracted":true,"syntax":null,"functional":null,"compiled":null,"correct":null},"speedup":null,"timing":null,"findings":[],"compat":{"kernelbench_1e-2":null,"kernelbench_1e-4":null},"fault":null,"protocol":"p","candidate":"c"}"#
        );
    }
}
