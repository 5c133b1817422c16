//! The timing of one candidate, alone on the device: bursts of candidate and reference in turn, on inputs and at addresses
//! that neither has met, until the interval of the ratio is narrow; then, whether anything disturbed it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rollout::outcome::{Fault, Outcome, Phase};
use rollout::timing::{Conditions, Timing};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::Device;
use super::evaluate::Evaluation;
use super::trial::OnDevice;
use crate::fault::{DISTURBED, PROTOCOL, fault};
use crate::gpu::contamination::{self, Contamination, Readings};
use crate::gpu::floor::Floor;
use crate::gpu::free::{Ours, foreign};
use crate::gpu::inventory::Reading;
use crate::gpu::timing::{Next, Sampler, Timed, median};
use crate::referee::Prepared;
use crate::trial::{Ending, crashed};

/// Until somebody else's process is looked for again.
const OCCUPIED: Duration = Duration::from_millis(250);
/// How often the device is read while something is timed.
const READ: Duration = Duration::from_millis(20);
/// Work that goes on for longer than this after a call's last event, beyond what goes on after the reference's, belongs to
/// the call: a share of its time, and microseconds.
const REST_SHARE: f64 = 0.05;
const REST_US: f64 = 5.0;
/// Calls of the first burst, which does not count.
const WARM: u64 = 3;
/// By so much a call that is waited for may be slower than one that is not: noise.
const SYNCED_SHARE: f64 = 0.01;
/// What is done before a call takes the candidate's process as long as the referee's, within this share.
const SPACER: f64 = 0.7;

/// What a measurement came to.
pub(super) enum Measured {
    Accepted(Timing),
    /// It ended while it was timed, or what it returned was wrong, or its time is not to be believed.
    Ended(Ending),
}

/// One try.
enum Try {
    Clean(Timed, Conditions),
    Disturbed(Vec<String>),
    /// By the host's clock the candidate's figures are not true.
    Unbelievable(String),
    Ended(Ending),
}

/// Times a candidate that has passed every check. It holds the device alone.
pub(super) async fn measure(
    evaluation: &Evaluation<'_>,
    child: &mut OnDevice<'_>,
    prepared: &Prepared,
) -> Result<Measured, Fault> {
    let device = evaluation.device;
    let limits = device.config.limits;
    let began = Instant::now();
    if let Err(ending) = child.ask(&json!({"op": "tune"}), "tuned", limits.warm_ms).await? {
        return Ok(Measured::Ended(ending));
    }
    spent(child, "tune", began);
    let mut refused = Vec::new();
    let mut unbelievable = 0;
    for _ in 0..device.config.tries.max(1) {
        let began = Instant::now();
        let baseline_us = evaluation.baseline().await?;
        spent(child, "baseline", began);
        match attempt(evaluation, child, prepared, baseline_us).await? {
            Try::Clean(timed, conditions) => {
                return Ok(accept(evaluation, prepared, timed, conditions, baseline_us, refused));
            }
            Try::Disturbed(why) => {
                // Which of the two figures was disturbed is not known.
                evaluation.forget_baseline();
                refused.push(why.join(", "));
            }
            Try::Unbelievable(why) => {
                unbelievable += 1;
                refused.push(why);
            }
            Try::Ended(ending) => return Ok(Measured::Ended(ending)),
        }
    }
    if unbelievable == refused.len() {
        let message = refused.pop().unwrap_or_default();
        return Ok(Measured::Ended(Ending::Outcome(Outcome::Implausible { message })));
    }
    Err(fault(DISTURBED, format!("a measurement of {} was disturbed: {}", evaluation.task.id, refused.join("; "))))
}

fn accept(
    evaluation: &Evaluation<'_>,
    prepared: &Prepared,
    timed: Timed,
    conditions: Conditions,
    baseline_us: f64,
    refused: Vec<String>,
) -> Measured {
    let device = evaluation.device;
    if let Some(message) = device
        .floor(&prepared.job["floor"])
        .and_then(|floor| floor.implausible(timed.candidate_us, timed.reference_us, device.empty_us()))
    {
        return Measured::Ended(Ending::Outcome(Outcome::Implausible { message }));
    }
    Measured::Accepted(Timing {
        device: device.name(),
        reference_us: timed.reference_us,
        candidate_us: timed.candidate_us,
        speedup: timed.speedup,
        low: timed.low,
        high: timed.high,
        samples: timed.samples as u32,
        converged: timed.converged,
        tie: timed.tie,
        baseline_us,
        refused,
        conditions,
    })
}

async fn attempt(
    evaluation: &Evaluation<'_>,
    child: &mut OnDevice<'_>,
    prepared: &Prepared,
    baseline_us: f64,
) -> Result<Try, Fault> {
    let device = evaluation.device;
    let began = Instant::now();
    let ours = Ours { pids: device.ours().await, memory_bytes: 0 };
    let before = device.reading();
    spent(child, "read", began);
    // Nothing is gained by measuring beside somebody else.
    let others: Vec<String> =
        before.iter().flat_map(|r| foreign(&device.config.free, r, &ours)).map(|why| why.to_string()).collect();
    if !others.is_empty() {
        tokio::time::sleep(OCCUPIED).await;
        return Ok(Try::Disturbed(others));
    }
    let watch = Watch::start(device);
    let mut sampler = Sampler::new(device.config.sampler.clone());
    let mut host = Host::default();
    // One burst of each to warm up, which is thrown away; then as many as it takes.
    let mut warm = true;
    let mut candidate_first = true;
    let mut late = 0;
    let mut synced_us = Vec::new();
    let sets = prepared.job["sets"].as_u64().unwrap_or(2);
    let timed = loop {
        let burst = match burst(evaluation, child, sets, candidate_first, warm).await? {
            Ok(burst) => burst,
            Err(ending) => return Ok(Try::Ended(ending)),
        };
        candidate_first = !candidate_first;
        if std::mem::take(&mut warm) {
            continue;
        }
        host.saw(&burst);
        late += burst.late;
        synced_us.extend(&burst.synced_us);
        match sampler.feed(&burst.reference_us, &burst.candidate_us) {
            Ok(Next::More) => {}
            Ok(Next::Done(timed)) => break timed,
            Err(e) => return Ok(Try::Ended(crashed(Phase::Run, format!("its times are no times: {e}")))),
        }
    };
    let began = Instant::now();
    let during = watch.stop();
    let after = device.reading();
    spent(child, "read", began);
    if let Some(why) = host.unbelievable(&device.config.disturbed) {
        return Ok(Try::Unbelievable(why));
    }
    let readings = Readings { before: before.as_ref(), during: &during, after: after.as_ref() };
    let limits = device.config.disturbed;
    let reasons = match device.gpu {
        None => Vec::new(),
        Some(_) => {
            contamination::reasons(&limits, &device.config.free, &readings, &ours, baseline_us, timed.reference_us)
        }
    };
    if !reasons.is_empty() {
        return Ok(Try::Disturbed(reasons.iter().map(Contamination::to_string).collect()));
    }
    // A call is never slower for being waited for, unless part of it went on where its events did not see it.
    let synced = median(&synced_us);
    let timed = if synced > timed.candidate_us * (1.0 + SYNCED_SHARE) { timed.charged(synced) } else { timed };
    tracing::debug!(task = %evaluation.task.id, late, synced, ?timed, "timed");
    Ok(Try::Clean(timed, contamination::conditions(&readings, &ours)))
}

/// One burst of each, the outputs checked.
struct Burst {
    /// Calls behind which others were queued, as in use.
    reference_us: Vec<f64>,
    candidate_us: Vec<f64>,
    /// The candidate's calls that were waited for, with all that they caused.
    synced_us: Vec<f64>,
    /// By the host's clock, per call, beyond the device time: reference, candidate.
    host_us: [f64; 2],
    /// The least that was done before a call: reference, candidate.
    spacer_us: [f64; 2],
    /// Calls of the candidate's for which the device waited.
    late: usize,
}

async fn burst(
    evaluation: &Evaluation<'_>,
    child: &mut OnDevice<'_>,
    sets: u64,
    candidate_first: bool,
    warm: bool,
) -> Result<Result<Burst, Ending>, Fault> {
    let limits = evaluation.device.config.limits;
    let began = Instant::now();
    let calls = if warm { sets.min(WARM) } else { sets };
    let calls = evaluation.ask(json!({"op": "burst", "calls": calls})).await?["calls"].take();
    spent(child, "draw", began);
    let count = calls.as_array().map_or(0, Vec::len);
    let order = json!({"op": "burst", "calls": calls});
    let mut theirs = None;
    let mut ours = None;
    let turns = if candidate_first { [true, false] } else { [false, true] };
    for candidate in turns {
        if candidate {
            let limit_ms = if warm { limits.warm_ms } else { limits.burst_ms };
            let began = Instant::now();
            if let Err(ending) = child.ask(&order, "ready", limit_ms).await? {
                return Ok(Err(ending));
            }
            spent(child, "ready", began);
            let began = Instant::now();
            let said = match child.wait("timed", limit_ms).await? {
                Ok(said) => said,
                Err(ending) => return Ok(Err(ending)),
            };
            let wall = began.elapsed();
            spent(child, "candidate", began);
            let copied = Instant::now();
            let outputs = match child.wait("outputs", limit_ms).await? {
                Ok(outputs) => outputs,
                Err(ending) => return Ok(Err(ending)),
            };
            spent(child, "outputs", copied);
            theirs = Some((said, outputs, wall));
        } else {
            let began = Instant::now();
            let said = evaluation.ask(json!({"op": "reference"})).await?;
            let wall = Duration::from_secs_f64(said["wall_us"].as_f64().unwrap_or(0.0).max(0.0) / 1e6);
            spent(child, "reference", began);
            ours = Some((said, wall));
        }
    }
    let (Some((theirs, outputs, their_wall)), Some((ours, our_wall))) = (theirs, ours) else {
        return Err(fault(PROTOCOL, "half a burst"));
    };
    let began = Instant::now();
    let verdict = evaluation.ask(json!({"op": "check", "said": outputs})).await?;
    spent(child, "check", began);
    if let Some(wrong) = verdict["wrong"].as_str().or(verdict["malformed"].as_str()) {
        return Ok(Err(Ending::Outcome(Outcome::WrongAnswer { message: wrong.to_owned() })));
    }
    let Some(reference) = calls_of(&ours["times"]).filter(|calls| calls.len() == count) else {
        return Err(fault(PROTOCOL, "the referee timed another number of calls"));
    };
    let Some(candidate) = calls_of(&theirs["times"]).filter(|calls| calls.len() == count) else {
        return Ok(Err(crashed(Phase::Run, "it timed another number of calls than it was told to")));
    };
    let beyond = |wall: Duration, calls: &[Call]| {
        (wall.as_secs_f64() * 1e6 - calls.iter().map(|c| c.us + c.spacer_us).sum::<f64>()) / count as f64
    };
    let host_us = [beyond(our_wall, &reference), beyond(their_wall, &candidate)];
    let least = |calls: &[Call]| calls.iter().map(|c| c.spacer_us).fold(f64::INFINITY, f64::min);
    let spacer_us = [least(&reference), least(&candidate)];
    let late = candidate.iter().filter(|c| c.late).count();
    let (queued, synced): (Vec<Call>, Vec<Call>) = candidate.into_iter().partition(|c| c.queued);
    let (ours, ours_synced): (Vec<Call>, Vec<Call>) = reference.into_iter().partition(|c| c.queued);
    if synced.len() != ours_synced.len() {
        return Ok(Err(crashed(Phase::Run, "it waited for another number of calls than it was told to")));
    }
    let quiet = median(&ours_synced.iter().map(|c| c.rest_us).collect::<Vec<_>>());
    // Where the device waited for the host the time is the host's. What it always waits for is launched too slowly.
    let kept = |calls: &[Call], quiet: f64| {
        let late = calls.iter().filter(|c| c.late).count();
        let all = 2 * late > calls.len();
        calls.iter().filter(|c| all || !c.late).map(|c| charged(c.us, c.rest_us - quiet)).collect::<Vec<f64>>()
    };
    let synced_us = kept(&synced, quiet);
    // A device that queues nothing has the others only.
    let (reference_us, candidate_us) = match queued.is_empty() || ours.is_empty() {
        true => (kept(&ours_synced, f64::INFINITY), synced_us.clone()),
        false => (kept(&ours, f64::INFINITY), kept(&queued, f64::INFINITY)),
    };
    Ok(Ok(Burst { reference_us, candidate_us, synced_us, host_us, spacer_us, late }))
}

/// Adds to the time that a step of measuring took.
fn spent(child: &mut OnDevice<'_>, step: &str, since: Instant) {
    *child.phase_ms.entry(format!("device_time_{step}")).or_default() += since.elapsed().as_secs_f64() * 1e3;
}

/// One call's times, microseconds.
struct Call {
    us: f64,
    rest_us: f64,
    /// What was done before it, so that the host is ahead of the device.
    spacer_us: f64,
    late: bool,
    /// Others were queued behind it.
    queued: bool,
}

fn calls_of(list: &Value) -> Option<Vec<Call>> {
    let one = |c: &Value| {
        let number = |key: &str| c[key].as_f64();
        Some(Call {
            us: number("us")?,
            rest_us: number("rest_us")?,
            spacer_us: number("spacer_us")?,
            late: c["late"].as_bool()?,
            queued: c["queued"].as_bool()?,
        })
    };
    list.as_array()?.iter().map(one).collect()
}

/// A call's time with what of it went on after its last event.
fn charged(us: f64, after: f64) -> f64 {
    if after > us * REST_SHARE + REST_US { us + after } else { us }
}

fn us_of(list: &Value) -> Vec<f64> {
    calls_of(list).unwrap_or_default().iter().map(|c| c.us).collect()
}

/// The host's clock over all bursts.
#[derive(Default)]
struct Host {
    reference: Vec<f64>,
    candidate: Vec<f64>,
    spacers: Vec<[f64; 2]>,
}

impl Host {
    fn saw(&mut self, burst: &Burst) {
        self.reference.push(burst.host_us[0]);
        self.candidate.push(burst.host_us[1]);
        self.spacers.push(burst.spacer_us);
    }

    fn unbelievable(&self, limits: &contamination::Limits) -> Option<String> {
        let least = |side: usize| self.spacers.iter().map(|s| s[side]).fold(f64::INFINITY, f64::min);
        if least(1) < SPACER * least(0) {
            return Some(format!(
                "the cache was cleared for {:.0} us before a call, which takes {:.0} us",
                least(1),
                least(0)
            ));
        }
        // The least over all bursts: a busy host makes some longer, work that is hidden makes all of them longer.
        let shortest = |us: &[f64]| us.iter().copied().fold(f64::INFINITY, f64::min);
        let (ours, theirs) = (shortest(&self.reference), shortest(&self.candidate));
        let shown = format!("{theirs:.0} us a call beyond the time of its events, the reference {ours:.0} us");
        if theirs > ours * limits.host_longer.0 + limits.host_longer.1 {
            return Some(format!("by the host's clock its calls take {shown}: its work goes on elsewhere"));
        }
        (theirs < ours * limits.host_shorter.0 - limits.host_shorter.1)
            .then(|| format!("by the host's clock its calls take {shown}: what is done before a call was left out"))
    }
}

/// Reads the device while something is timed.
struct Watch {
    seen: Arc<Mutex<Vec<Reading>>>,
    task: JoinHandle<()>,
}

impl Watch {
    fn start(device: &Arc<Device>) -> Watch {
        let seen: Arc<Mutex<Vec<Reading>>> = Arc::default();
        let task = tokio::spawn({
            let (device, seen) = (device.clone(), seen.clone());
            async move {
                while let Some(reading) = device.reading() {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(reading);
                    tokio::time::sleep(READ).await;
                }
            }
        });
        Watch { seen, task }
    }

    fn stop(self) -> Vec<Reading> {
        self.task.abort();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Evaluation<'_> {
    /// The reference's median when it was timed alone, measured where it is not known.
    async fn baseline(&self) -> Result<f64, Fault> {
        let known =
            self.device.baselines.lock().unwrap_or_else(PoisonError::into_inner).get(&self.task.source).copied();
        if let Some(us) = known {
            return Ok(us);
        }
        let us = us_of(&self.ask(json!({"op": "baseline"})).await?["times"]);
        if us.is_empty() {
            return Err(fault(PROTOCOL, "the referee timed no reference"));
        }
        let found = median(&us);
        let mut kept = self.device.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(self.task.source.clone(), found);
        Ok(found)
    }

    fn forget_baseline(&self) {
        self.device.baselines.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.task.source);
    }
}

impl Device {
    /// One reading, `None` where there is nothing to read.
    fn reading(&self) -> Option<Reading> {
        self.inventory.read(&self.gpu.as_ref()?.uuid).ok()
    }

    fn name(&self) -> String {
        self.gpu.as_ref().map_or_else(|| "processor".to_owned(), |gpu| format!("{} ({})", gpu.name, gpu.uuid))
    }

    /// What no candidate can be faster than; `None` for a device of which nothing is known.
    fn floor(&self, found: &Value) -> Option<Floor> {
        let bytes = |key: &str| found[key].as_u64().unwrap_or(0);
        let gpu = self.gpu.as_ref()?;
        let l2_bytes = self.facts.lock().unwrap_or_else(PoisonError::into_inner)["l2_bytes"].as_u64().unwrap_or(0);
        Some(Floor::new(
            gpu,
            bytes("bytes_in"),
            bytes("bytes_out"),
            l2_bytes,
            bytes("flops"),
            found["dtype"].as_str().unwrap_or(""),
        ))
    }

    /// The measured time of a call that does nothing.
    fn empty_us(&self) -> f64 {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)["empty_us"].as_f64().unwrap_or(0.0)
    }
}
