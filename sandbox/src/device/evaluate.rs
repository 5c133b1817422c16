//! One candidate through the device's stages.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rollout::evidence::{Ablation, Evidence};
use rollout::outcome::{Candidate, ExecReport, Fault, Outcome, Phase};
use rollout::task::TaskSpec;
use rollout::timing::Timing;
use serde_json::{Value, json};

use super::gate::Use;
use super::lease::{self, Measured, Pair, Subject};
use super::trial::OnDevice;
use super::{Device, Session};
use super::{baseline, cache};
use crate::evidence;
use crate::executor::Limits;
use crate::fault::{DEVICE, KILLED, PROTOCOL, fault};
use crate::referee::Prepared;
use crate::stage;
use crate::trial::{self, Ending, ms_since};
use crate::zygote::Zygote;

/// What a device says of a candidate.
#[derive(Debug)]
pub(crate) struct OnDeviceReport {
    pub outcome: Outcome,
    pub evidence: Evidence,
    pub timing: Option<Timing>,
    pub phase_ms: BTreeMap<String, f64>,
    pub log: String,
    pub kernelbench: [Option<bool>; 2],
    pub max_abs_error: Option<f64>,
}

impl OnDeviceReport {
    /// Puts what the device says beside what the interpreter said.
    pub fn add_to(self, report: &mut ExecReport) {
        report.outcome = self.outcome;
        report.timing = self.timing;
        report.phase_ms.extend(self.phase_ms);
        report.evidence.forwards.extend(self.evidence.forwards);
        if self.evidence.ablation == Ablation::Unchanged {
            report.evidence.ablation = Ablation::Unchanged;
        }
        let shapes = report.evidence.own_shapes_only.take();
        report.evidence.own_shapes_only = shapes.or(self.evidence.own_shapes_only);
        let [at_1e2, at_1e4] = self.kernelbench;
        report.kernelbench_1e2 = at_1e2.or(report.kernelbench_1e2);
        report.kernelbench_1e4 = at_1e4.or(report.kernelbench_1e4);
        report.max_abs_error = self.max_abs_error.or(report.max_abs_error);
        if !self.log.is_empty() {
            report.log_tail = self.log;
        }
    }
}

/// What the checks came to.
#[derive(Default)]
struct Checked {
    draws: Vec<Value>,
    said: Vec<Value>,
    own_shapes_only: Option<String>,
    ablation: Ablation,
    kernelbench: [Option<bool>; 2],
    max_abs_error: Option<f64>,
    /// `Err`: an outcome already.
    ending: Option<Ending>,
}

/// Everything that is the same for all steps of one evaluation.
pub(crate) struct Evaluation<'a> {
    pub device: &'a Arc<Device>,
    pub session: Session,
    pub task: &'a TaskSpec,
    pub candidate: &'a Candidate,
}

/// Evaluates `candidate`, which has passed the interpreter, on `device`, in a child of `zygote`'s.
pub(crate) async fn evaluate(
    device: &Arc<Device>,
    zygote: &mut Zygote,
    limits: &Limits,
    scratch: &Path,
    task: &TaskSpec,
    candidate: &Candidate,
) -> Result<OnDeviceReport, Fault> {
    if let Some(pid) = zygote.pid() {
        device.adopt(pid);
    }
    let first = attempt(device, zygote, limits, scratch, task, candidate, Use::Shared).await?;
    // One that was timed was alone then.
    if !shared_blame(&first.outcome) || first.phase_ms.contains_key("device_time") {
        return Ok(first);
    }
    // Others had some of the memory and of the time: once more without them before it is blamed.
    tracing::debug!(task = %task.id, outcome = ?first.outcome, "once more, alone on the device");
    let mut report = attempt(device, zygote, limits, scratch, task, candidate, Use::Alone).await?;
    report.phase_ms.extend(first.phase_ms.into_iter().map(|(phase, ms)| (format!("{phase}_before"), ms)));
    Ok(report)
}

fn shared_blame(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::OutOfMemory { phase: Phase::Run, .. } | Outcome::TimedOut { phase: Phase::Run, .. })
}

async fn attempt(
    device: &Arc<Device>,
    zygote: &mut Zygote,
    limits: &Limits,
    scratch: &Path,
    task: &TaskSpec,
    candidate: &Candidate,
    wanted: Use,
) -> Result<OnDeviceReport, Fault> {
    let mut phase_ms = BTreeMap::new();
    let mut lap = Lap { phase_ms: &mut phase_ms, since: Instant::now() };
    let evaluation = Evaluation { device, session: Session::new(device), task, candidate };
    stage::enter("wait for the device");
    // What a reference takes alone is found out before its first candidate has a context: nothing of it can run then.
    let (pass, first) = baseline::let_in(device, task).await?;
    lap.end("device_wait_prepare");
    stage::enter(if first { "device reference, alone" } else { "device reference" });
    let (mut prepared, the_box, draws) = evaluation.prepare().await?;
    if first {
        let box_bytes = prepared.job["box"]["size"].as_u64().unwrap_or(0);
        baseline::take(device, task, box_bytes, || evaluation.ask(json!({"op": "baseline"}))).await?;
    }
    drop(pass);
    lap.end("device_reference");
    stage::enter("device compile");
    let key = cache::key(task, candidate, &prepared.job["device"]);
    let known = device.compiled.lock().unwrap_or_else(PoisonError::into_inner).get(&key);
    if let Some(known) = &known {
        prepared.job["cache"] = json!({"files": known.files, "at": prepared.blob.len()});
        prepared.blob.extend(&known.blob);
    }
    prepared.job["own_bytes"] = json!(device.own_bytes(wanted));
    let home = trial::home(scratch)?;
    let limits = Limits { run_ms: device.config.limits.call_ms, ..*limits };
    let mut child = OnDevice::start(zygote, &prepared, candidate, limits, home.path(), &the_box).await?;
    drop(the_box);
    let compiled = match child.compiled().await {
        Ok(compiled) => compiled,
        Err(fault) => return Err(abandon(child, fault).await),
    };
    lap.end("device_compile");
    stage::enter("wait to check");
    let mut checked = Checked::default();
    match compiled {
        Err(ending) => checked.ending = Some(ending),
        Ok((_, compiled)) => {
            if known.is_none() {
                device.compiled.lock().unwrap_or_else(PoisonError::into_inner).put(key, compiled);
            }
            let pass = match device.enter(wanted).await {
                Ok(pass) => pass,
                Err(fault) => return Err(abandon(child, fault).await),
            };
            lap.end("device_wait_check");
            stage::enter("device check");
            let done = match evaluation.session.known() {
                Ok(()) => evaluation.check(&mut child, draws, &mut checked).await,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = done {
                return Err(abandon(child, fault).await);
            }
            lap.end("device_check");
            let timed = checked.ending.is_none() && device.config.timed;
            stage::enter(if timed { "wait to time" } else { "end" });
            if timed {
                if let Err(fault) = child.freeze(true).await {
                    return Err(abandon(child, fault).await);
                }
                drop(pass);
                let pass = match device.enter(Use::Alone).await {
                    Ok(pass) => pass,
                    Err(fault) => return Err(abandon(child, fault).await),
                };
                lap.end("device_wait_time");
                stage::enter("time");
                let leased = match evaluation.session.known() {
                    Ok(()) => device.lease(evaluation.session.id).await,
                    Err(fault) => Err(fault),
                };
                let lease = match leased {
                    Ok(lease) => lease,
                    Err(fault) => return Err(abandon(child, fault).await),
                };
                let subject = Subject { device, task, job: &prepared.job };
                let result = lease::measure(&subject, &mut Pair { evaluation: &evaluation, child: &mut child }).await;
                lap.end("device_time");
                stage::enter("release");
                // Its context goes while nobody else is timed.
                let result = match result {
                    Ok(Measured::Accepted(timing)) => {
                        finish(evaluation, child, home, checked, Some(timing), phase_ms, true).await
                    }
                    Ok(Measured::Ended(ending)) => {
                        checked.ending = Some(ending);
                        finish(evaluation, child, home, checked, None, phase_ms, true).await
                    }
                    Err(fault) => Err(abandon(child, fault).await),
                };
                let suspect = !matches!(&result, Ok(report) if !suspicious(&report.outcome));
                let since = Instant::now();
                lease.release(suspect).await?;
                drop(pass);
                return result.map(|mut report| {
                    report.phase_ms.insert("device_release".into(), ms_since(since));
                    report
                });
            }
            return finish(evaluation, child, home, checked, None, phase_ms, true).await;
        }
    }
    finish(evaluation, child, home, checked, None, phase_ms, false).await
}

/// What the device itself could have done.
fn suspicious(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Crashed { .. } | Outcome::TimedOut { .. } | Outcome::OutOfMemory { .. })
}

/// Ends a child whose evaluation has failed by our doing.
async fn abandon(child: OnDevice<'_>, fault: Fault) -> Fault {
    if let Err(e) = child.finish(None).await {
        tracing::warn!("after {fault}: {e}");
    }
    fault
}

async fn finish(
    evaluation: Evaluation<'_>,
    child: OnDevice<'_>,
    home: tempfile::TempDir,
    mut checked: Checked,
    timing: Option<Timing>,
    mut phase_ms: BTreeMap<String, f64>,
    inside: bool,
) -> Result<OnDeviceReport, Fault> {
    let since = Instant::now();
    let later = child.computed.clone();
    let (ending, log, child_ms) = child.finish(checked.ending.take()).await?;
    phase_ms.extend(child_ms);
    if let Err(e) = trial::remove(home) {
        tracing::warn!("a candidate's directory was not removed: {e}");
    }
    let outcome = match ending {
        None => Outcome::Passed { speedup: timing.as_ref().map(Timing::rewarded) },
        Some(Ending::Killed(_)) => {
            return Err(fault(KILLED, "the process of a candidate was killed by the system while it was on a device"));
        }
        Some(ending) => match ending.outcome() {
            Some(outcome) => outcome.clone(),
            None => return Err(fault(PROTOCOL, "a child on a device sent outputs of an interpreter")),
        },
    };
    // What looks like the candidate's doing may be the device's: it shows that it works before anybody is blamed.
    if suspicious(&outcome) {
        // Which takes the device, beside checks at the most.
        let _pass = if inside { None } else { Some(evaluation.device.enter(Use::Shared).await?) };
        let proved = evaluation.device.ask(&json!({"op": "prove"})).await?;
        if proved.header["proved"] != true {
            return Err(fault(DEVICE, format!("the device does not compute what is known after: {outcome:?}")));
        }
    }
    phase_ms.insert("device_end".into(), ms_since(since));
    let mut forwards: Vec<Value> = checked.said.iter().map(|said| said["evidence"].clone()).collect();
    if let Some(later) = later {
        checked.draws.push(json!({"kind": "after timed calls", "train": true}));
        forwards.push(later);
    }
    let mut evidence = evidence::read(&json!(checked.draws), &json!(forwards), &Value::Null);
    // There is no second run to compare with; the interpreter's is the one that was.
    evidence.two_faces = None;
    evidence.forwards.iter_mut().for_each(|seen| seen.draw = format!("on the device: {}", seen.draw));
    evidence.own_shapes_only = checked.own_shapes_only;
    evidence.ablation = checked.ablation;
    let (kernelbench, max_abs_error) = (checked.kernelbench, checked.max_abs_error);
    Ok(OnDeviceReport { outcome, evidence, timing, phase_ms, log, kernelbench, max_abs_error })
}

struct Lap<'a> {
    phase_ms: &'a mut BTreeMap<String, f64>,
    since: Instant,
}

impl Lap<'_> {
    fn end(&mut self, name: &str) {
        self.phase_ms.insert(name.into(), ms_since(self.since));
        self.since = Instant::now();
    }
}

impl Evaluation<'_> {
    async fn prepare(&self) -> Result<(Prepared, std::os::fd::OwnedFd, u64), Fault> {
        let question = json!({
            "op": "prepare", "session": self.session.id, "task": self.task.id.0, "nonce": self.candidate.digest.0,
            "source": self.task.source, "budget": self.device.config.box_bytes,
        });
        let (frame, the_box, referee) = self.device.ask_for_a_box(&question).await?;
        self.session.is_known_to(referee);
        let mut header = frame.header;
        let draws = header["draws"].as_u64().unwrap_or(0);
        let prepared = Prepared {
            ms: header["ms"].as_f64().unwrap_or(0.0),
            notes: serde_json::from_value(header["notes"].take()).unwrap_or_default(),
            output_bytes: 0,
            blob: frame.blob,
            job: {
                let mut job = header["job"].take();
                job["floor"] = header["floor"].take();
                job["sets"] = header["sets"].take();
                job
            },
        };
        Ok((prepared, the_box, draws))
    }

    pub(crate) async fn ask(&self, mut question: Value) -> Result<Value, Fault> {
        question["session"] = json!(self.session.id);
        Ok(self.device.ask(&question).await?.header)
    }

    /// Every draw, one after the other, then the first without kernels.
    async fn check(&self, child: &mut OnDevice<'_>, draws: u64, checked: &mut Checked) -> Result<(), Fault> {
        let limits = self.device.config.limits;
        let began = Instant::now();
        let steps = match child.ask(&json!({"op": "up"}), "up", limits.up_ms).await? {
            Ok(mut up) => up["steps"].take(),
            Err(ending) => {
                checked.ending = Some(ending);
                return Ok(());
            }
        };
        for step in ["context", "box", "import", "build"] {
            child.phase_ms.insert(format!("device_up_{step}"), steps[step].as_f64().unwrap_or(0.0));
        }
        child.phase_ms.insert("device_up".into(), ms_since(began));
        let mut spent = [0.0; 3];
        let mut last = Value::Null;
        for n in 0..draws {
            let mut lap = Instant::now();
            let mut took = |stage: usize| {
                spent[stage] += ms_since(lap);
                lap = Instant::now();
            };
            let draw = self.ask(json!({"op": "draw", "n": n})).await?["draw"].take();
            took(0);
            if draw.is_null() {
                continue;
            }
            let asked = Instant::now();
            let said = match child.ask(&json!({"op": "call", "draw": draw}), "called", limits.call_ms).await? {
                Ok(said) => said,
                Err(ending) => {
                    checked.ending = Some(ending);
                    return Ok(());
                }
            };
            // The last one is nominal, and the code is warm by then.
            child.call_ms = ms_since(asked);
            took(1);
            let verdict = self.ask(json!({"op": "compare", "n": n, "said": said})).await?;
            took(2);
            checked.said.push(said);
            checked.draws.push(draw.clone());
            last = draw;
            if let Some(ending) = checked.take(&verdict) {
                checked.ending = Some(ending);
                return Ok(());
            }
        }
        for (name, ms) in ["device_draws", "device_calls", "device_compare"].into_iter().zip(spent) {
            child.phase_ms.insert(name.into(), ms);
        }
        self.ablate(child, last, checked).await
    }

    /// The last draw, which is the first again, with launches that do nothing.
    async fn ablate(&self, child: &mut OnDevice<'_>, last: Value, checked: &mut Checked) -> Result<(), Fault> {
        if last["kind"] != "repeat" {
            return Err(fault(PROTOCOL, "the first draw was not asked again"));
        }
        let order = json!({"op": "ablate", "draw": last});
        checked.ablation = match child.ask(&order, "called", self.device.config.limits.call_ms).await? {
            Ok(said) => match self.ask(json!({"op": "ablated", "said": said})).await?["unchanged"] {
                Value::Bool(true) => Ablation::Unchanged,
                _ => Ablation::Changed,
            },
            // Without kernels there is no answer; but a child that is gone cannot be timed.
            Err(ending) => {
                checked.ending = Some(ending);
                Ablation::Changed
            }
        };
        Ok(())
    }
}

impl Checked {
    /// Takes a comparison in; an ending where it was not right.
    fn take(&mut self, verdict: &Value) -> Option<Ending> {
        if let Some(reason) = verdict["malformed"].as_str() {
            let message = format!("its result does not describe tensors: {reason}");
            return Some(Ending::Outcome(Outcome::Crashed { phase: Phase::Run, message }));
        }
        if let Some(raised) = verdict["shapes"].as_str() {
            self.own_shapes_only = Some(raised.to_owned());
        }
        for (held, key) in self.kernelbench.iter_mut().zip(["kernelbench_1e2", "kernelbench_1e4"]) {
            *held = verdict[key].as_bool().map(|now| held.unwrap_or(true) && now);
        }
        if let Some(error) = verdict["max_abs_error"].as_f64() {
            self.max_abs_error = Some(self.max_abs_error.unwrap_or(0.0).max(error));
        }
        let wrong = verdict["wrong"].as_str()?;
        Some(Ending::Outcome(Outcome::WrongAnswer { message: wrong.to_owned() }))
    }
}
