//! The timing of one candidate, alone on the device: bursts of candidate and reference in turn, on inputs and at addresses
//! that neither has met, until the interval of the ratio is narrow; then, whether anything disturbed it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rollout::outcome::{Fault, Outcome, Phase};
use rollout::task::TaskSpec;
use rollout::timing::{Conditions, Timing};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::baseline::{self, Looks};
use super::burst::{Host, burst, calls_in, most};
use super::evaluate::Evaluation;
use super::trial::{OnDevice, Step};
use super::{CONTROL, Device, Places, waited};
use crate::fault::{DEVICE, DISTURBED, fault};
use crate::gpu::contamination::{self, Contamination, Readings};
use crate::gpu::floor::{Floor, MARGIN};
use crate::gpu::free::{Ours, foreign};
use crate::gpu::inventory::Reading;
use crate::gpu::timing::{Next, Sampler, Timed, median};
use crate::trial::{Ending, crashed};

/// Until somebody else's process is looked for again.
pub(super) const OCCUPIED: Duration = Duration::from_millis(250);
/// How often the device is read while something is timed.
const READ: Duration = Duration::from_millis(20);
/// Calls of the first burst, which does not count.
const WARM: u64 = 3;

/// What a measurement came to.
#[derive(Debug)]
pub(super) enum Measured {
    Accepted(Timing),
    /// It ended while it was timed, or what it returned was wrong, or its time is not to be believed.
    Ended(Ending),
}

/// The two that are timed: the referee, which is ours, and the candidate's process, which is not.
pub(super) trait Sides: Send {
    /// A question to the referee.
    async fn referee(&mut self, question: Value) -> Result<Value, Fault>;
    /// Tells the candidate's process to do something and waits for its answer.
    async fn order(&mut self, order: &Value, event: &str, limit_ms: u64) -> Result<Step, Fault>;
    /// Waits for another answer to the last order.
    async fn wait(&mut self, event: &str, limit_ms: u64) -> Result<Step, Fault>;
    /// Stops the candidate's processes, or lets them go on.
    async fn freeze(&mut self, frozen: bool) -> Result<(), Fault>;
    /// Adds to the time that a step of measuring took.
    fn spent(&mut self, step: &str, since: Instant);
    /// What was seen of a candidate's call after timed ones.
    fn saw(&mut self, _evidence: &Value) {}
    /// What was spent waiting for the candidate, milliseconds.
    fn waited_ms(&self) -> f64;
    /// What a checked call took, milliseconds.
    fn call_ms(&self) -> f64;
}

/// The real ones.
pub(super) struct Pair<'a, 'e, 'z> {
    pub evaluation: &'a Evaluation<'e>,
    pub child: &'a mut OnDevice<'z>,
}

const STEP: &str = "device_time_";

impl Sides for Pair<'_, '_, '_> {
    async fn referee(&mut self, question: Value) -> Result<Value, Fault> {
        self.evaluation.ask(question).await
    }

    async fn order(&mut self, order: &Value, event: &str, limit_ms: u64) -> Result<Step, Fault> {
        self.child.ask(order, event, limit_ms).await
    }

    async fn wait(&mut self, event: &str, limit_ms: u64) -> Result<Step, Fault> {
        self.child.wait(event, limit_ms).await
    }

    async fn freeze(&mut self, frozen: bool) -> Result<(), Fault> {
        self.child.freeze(frozen).await
    }

    fn spent(&mut self, step: &str, since: Instant) {
        let ms = since.elapsed().as_secs_f64() * 1e3;
        *self.child.phase_ms.entry(format!("{STEP}{step}")).or_default() += ms;
    }

    fn saw(&mut self, evidence: &Value) {
        if evidence["computed"].as_array().is_some_and(|some| !some.is_empty()) {
            self.child.computed.get_or_insert_with(|| evidence.clone());
        }
    }

    fn waited_ms(&self) -> f64 {
        let steps = ["tune", "ready", "candidate", "outputs"];
        steps.iter().filter_map(|step| self.child.phase_ms.get(&format!("{STEP}{step}"))).sum()
    }

    fn call_ms(&self) -> f64 {
        self.child.call_ms
    }
}

/// What is measured, and on what.
pub(super) struct Subject<'a> {
    pub device: &'a Arc<Device>,
    pub task: &'a TaskSpec,
    /// As the referee described it to the child.
    pub job: &'a Value,
}

/// One try.
enum Try {
    /// And what its interval does not say.
    Clean(Timed, Conditions, Option<String>),
    /// Why, and what the reference took if it was not what it takes alone.
    Disturbed(Vec<String>, Option<f64>),
    /// By the host's clock the candidate's figures are not true.
    Unbelievable(String),
    Ended(Ending),
}

/// Times a candidate that has passed every check and is frozen. It holds the device alone, for a limited time.
pub(super) async fn measure<S: Sides>(subject: &Subject<'_>, sides: &mut S) -> Result<Measured, Fault> {
    let limit_ms = subject.device.config.limits.lease_ms();
    let began = Instant::now();
    match timeout(Duration::from_millis(limit_ms), measured(subject, sides)).await {
        Ok(done) => done,
        // Its own doing where most of that was spent waiting for it.
        Err(_) if 2.0 * sides.waited_ms() > 1e3 * began.elapsed().as_secs_f64() => {
            Ok(Measured::Ended(Ending::Outcome(Outcome::TimedOut { phase: Phase::Run, limit_ms })))
        }
        Err(_) => Err(fault(DEVICE, format!("a lease of the device took longer than {limit_ms} ms"))),
    }
}

async fn measured<S: Sides>(subject: &Subject<'_>, sides: &mut S) -> Result<Measured, Fault> {
    let (device, task) = (subject.device, subject.task);
    let limits = device.config.limits;
    // While nothing of the candidate runs.
    let began = Instant::now();
    let ours = match device.ours_at_rest(subject.job["box"]["size"].as_u64().unwrap_or(0)).await {
        Ok(ours) => ours,
        Err(why) => return Err(disturbed(task, &[why])),
    };
    let mut alone_us = match device.baseline(task) {
        Some(us) => us,
        None => {
            let looks = Looks::begin(device, &ours).await;
            let said = sides.referee(json!({"op": "baseline"})).await?;
            match looks.end() {
                None => baseline::accept(device, task, &said)?,
                Some(why) => return Err(disturbed(task, &[format!("the reference alone: {why}")])),
            }
        }
    };
    sides.spent("baseline", began);
    sides.freeze(false).await?;
    let began = Instant::now();
    let tuned = sides.order(&json!({"op": "tune"}), "tuned", limits.warm_ms).await?;
    sides.spent("tune", began);
    if let Err(ending) = tuned {
        return Ok(Measured::Ended(ending));
    }
    let until = Instant::now() + Duration::from_millis(limits.time_ms);
    let mut refused = Vec::new();
    let (mut unbelievable, mut drifted) = (0, false);
    for _ in 0..device.config.tries.max(1) {
        match attempt(subject, sides, &ours, alone_us, until).await? {
            Try::Clean(timed, conditions, note) => {
                device.confirm_baseline(task);
                refused.extend(note);
                return Ok(accept(subject, timed, conditions, alone_us, refused));
            }
            Try::Disturbed(why, drift_us) => {
                // What the reference takes alone is what it took when it was fastest. A slower one now is no reason to believe that
                // it takes longer: who left something running would only have to wait for the second try.
                if let Some(now_us) = drift_us {
                    drifted |= now_us > alone_us;
                    alone_us = device.keep_lower(task, now_us);
                }
                refused.push(why.join(", "));
            }
            Try::Unbelievable(why) => {
                unbelievable += 1;
                refused.push(why);
            }
            Try::Ended(ending) => return Ok(Measured::Ended(ending)),
        }
        if Instant::now() >= until {
            break;
        }
    }
    if unbelievable == refused.len() {
        let message = refused.pop().unwrap_or_default();
        return Ok(Measured::Ended(Ending::Outcome(Outcome::Implausible { message })));
    }
    if drifted {
        // The device is drained and proved after this, and the next evaluation takes it once more before it has a context. A neighbour that
        // is not seen may still be there then: one slower time alone replaces nothing.
        device.doubt_baseline(task);
    }
    Err(disturbed(task, &refused))
}

pub(super) fn disturbed(task: &TaskSpec, why: &[String]) -> Fault {
    fault(DISTURBED, format!("a measurement of {} was disturbed: {}", task.id, why.join("; ")))
}

fn accept(
    subject: &Subject<'_>,
    timed: Timed,
    conditions: Conditions,
    baseline_us: f64,
    mut refused: Vec<String>,
) -> Measured {
    let device = subject.device;
    let floor = device.floor(&subject.job["floor"]);
    if let Some(message) =
        floor.and_then(|floor| floor.implausible(timed.candidate_us, timed.reference_us, device.empty_us()))
    {
        return Measured::Ended(Ending::Outcome(Outcome::Implausible { message }));
    }
    // Another algorithm may do with less than the reference's operations and bytes; that it does is not paid for.
    let least_us = floor.map_or(0.0, |floor| MARGIN * floor.as_the_reference_us());
    let timed = match timed.candidate_us < least_us {
        true => {
            let measured = timed.candidate_us;
            refused.push(format!(
                "accepted, {measured:.2} us counted as {least_us:.2} us: what the reference's bytes and operations take here"
            ));
            timed.charged(least_us)
        }
        false => timed,
    };
    let timed = timed.paid_at_most(device.config.disturbed.paid_us(baseline_us));
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

async fn attempt<S: Sides>(
    subject: &Subject<'_>,
    sides: &mut S,
    ours: &Ours,
    alone_us: f64,
    until: Instant,
) -> Result<Try, Fault> {
    let device = subject.device;
    let limits = device.config.limits;
    let began = Instant::now();
    let ours = Ours { pids: device.ours().await, memory_bytes: ours.memory_bytes };
    let before = device.reading();
    sides.spent("read", began);
    // Nothing is gained by measuring beside somebody else.
    let others: Vec<String> =
        before.iter().flat_map(|r| foreign(&device.config.free, r, &ours)).map(|why| why.to_string()).collect();
    if !others.is_empty() {
        tokio::time::sleep(OCCUPIED).await;
        return Ok(Try::Disturbed(others, None));
    }
    let watch = Watch::start(device);
    let mut sampler = Sampler::new(device.config.sampler.clone());
    let mut host = Host::default();
    // One burst of each to warm up, which is thrown away; then as many as it takes, or as there is time for.
    let mut warm = true;
    let mut candidate_first = true;
    let mut late = 0;
    let mut synced_us = Vec::new();
    let sets = subject.job["sets"].as_u64().unwrap_or(2);
    let call_ms = sides.call_ms().max(alone_us / 1e3);
    let timed = loop {
        let limit_ms = if warm { limits.warm_ms } else { limits.burst_ms };
        let wanted = most(sets, sampler.left(), device.config.sampler.dropped);
        let calls = calls_in(limit_ms, call_ms, if warm { sets.min(WARM) } else { wanted });
        let burst = match burst(sides, calls, candidate_first, limit_ms).await? {
            Ok(burst) => burst,
            Err(ending) => return Ok(Try::Ended(ending)),
        };
        candidate_first = !candidate_first;
        if std::mem::take(&mut warm) {
            continue;
        }
        if let Some(us) = burst.synced_us.iter().find(|us| !us.is_finite() || **us <= 0.0) {
            return Ok(Try::Ended(crashed(Phase::Run, format!("its times are no times: a call that took {us} us"))));
        }
        host.saw(&burst);
        late += burst.late;
        synced_us.extend(&burst.synced_us);
        match sampler.feed(&burst.reference_us, &burst.candidate_us) {
            Ok(Next::Done(timed)) => break timed,
            Ok(Next::More) => {
                if let (true, Some(timed)) = (Instant::now() >= until, sampler.so_far()) {
                    break timed;
                }
            }
            Err(e) => return Ok(Try::Ended(crashed(Phase::Run, format!("its times are no times: {e}")))),
        }
    };
    let began = Instant::now();
    let (during, blind) = watch.stop();
    let after = device.reading();
    sides.spent("read", began);
    let readings = Readings { before: before.as_ref(), during: &during, after: after.as_ref(), blind };
    let limits = device.config.disturbed;
    let [reference, candidate] = &host.bursts;
    let measured = contamination::Measured { alone_us, now_us: timed.reference_us, reference, candidate };
    let reasons = match device.gpu {
        None => Vec::new(),
        Some(_) => contamination::reasons(&limits, &device.config.free, &readings, &ours, &measured),
    };
    // Who is disturbed may look like one that lies: nobody is blamed then, and nobody gets a number for it either.
    let doubt = host.unbelievable(&limits);
    if !reasons.is_empty() || doubt.as_ref().is_some_and(|doubt| doubt.shared) {
        let drift = reasons.iter().any(|r| matches!(r, Contamination::Drift { .. }));
        let why = reasons.iter().map(Contamination::to_string).chain(doubt.map(|doubt| doubt.why)).collect();
        return Ok(Try::Disturbed(why, drift.then_some(timed.reference_us)));
    }
    if let Some(doubt) = doubt {
        return Ok(Try::Unbelievable(doubt.why));
    }
    // The reference had its peace: it is the candidate's own time that depends on what it is given, and a median of it says little.
    let note = contamination::candidate_fits(&limits, candidate).filter(|_| device.gpu.is_some());
    let note = note.map(|fits| format!("accepted, not converged: {fits}"));
    let timed = Timed { converged: timed.converged && note.is_none(), ..timed };
    let charged = waited::charged(timed.candidate_us, &synced_us, device.config.sampler.relative_width);
    let (timed, note) = match charged {
        // There are a third as many: what a neighbour does to some of them says nothing of the others.
        Some((us, steady)) => {
            let own = format!("accepted, {:.2} us counted as {us:.2} us: what waited calls take", timed.candidate_us);
            let both = note.map_or_else(|| own.clone(), |note| format!("{note}; {own}"));
            (Timed { converged: timed.converged && steady, ..timed.charged(us) }, Some(both))
        }
        None => (timed, note),
    };
    let synced = median(&synced_us);
    tracing::debug!(task = %subject.task.id, late, synced, ?timed, "timed");
    Ok(Try::Clean(timed, contamination::conditions(&readings, &ours), note))
}

/// Reads the device while something is timed.
pub(super) struct Watch {
    seen: Arc<Mutex<(Vec<Reading>, bool)>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub fn start(device: &Arc<Device>) -> Watch {
        let seen: Arc<Mutex<(Vec<Reading>, bool)>> = Arc::default();
        let task = tokio::spawn({
            let (device, seen) = (device.clone(), seen.clone());
            async move {
                while device.gpu.is_some() {
                    let reading = device.reading();
                    {
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        match reading {
                            Some(reading) => seen.0.push(reading),
                            None => seen.1 = true,
                        }
                    }
                    tokio::time::sleep(READ).await;
                }
            }
        });
        Watch { seen, task }
    }

    /// What was seen, and whether the driver did not answer once.
    pub fn stop(self) -> (Vec<Reading>, bool) {
        self.task.abort();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Device {
    fn name(&self) -> String {
        let name =
            self.gpu.as_ref().map_or_else(|| "processor".to_owned(), |gpu| format!("{} ({})", gpu.name, gpu.uuid));
        match self.config.places {
            Places::Fresh => name,
            Places::One => format!("{name}, {CONTROL}: the same call again and again"),
        }
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
