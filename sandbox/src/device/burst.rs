//! One burst of timed calls of each side, the outputs checked, and what the host's clock says about all of them.

use std::iter::repeat_n;
use std::time::{Duration, Instant};

use rollout::outcome::{Fault, Outcome, Phase};
use serde_json::{Value, json};

use super::lease::Sides;
use crate::fault::{PROTOCOL, fault};
use crate::gpu::contamination;
use crate::gpu::timing::median;
use crate::trial::{Ending, crashed};

/// Work that goes on for longer than this after a call's last event, beyond what goes on after the reference's, belongs to
/// the call: a share of its time, and microseconds.
const REST_SHARE: f64 = 0.05;
const REST_US: f64 = 5.0;
/// What is done before a call takes the candidate's process as long as the referee's, within this share.
const SPACER: f64 = 0.7;
/// By so much of the reference's call the host's clock may be off for a long one.
const LONG: f64 = 0.01;
/// Of a burst's limit, what its calls may take by what a checked one took: some are slower, and some warm up.
const LIMIT_SHARE: f64 = 1.0 / 3.0;
/// Where a candidate's calls are uneven, those of the reference are too when they are by this share of it: slices hit both, by chance.
const SLICES: f64 = 0.25;
/// Calls of a burst, until it is known that more are wanted.
const FEW: u64 = 16;

/// How many calls fit into a burst, of `most`.
pub(super) fn calls_in(limit_ms: u64, call_ms: f64, most: u64) -> u64 {
    let fit = limit_ms as f64 * LIMIT_SHARE / call_ms.max(1e-3);
    (fit as u64).min(most).max(1)
}

/// The most calls of the next burst, of `sets` that there may be. Few until it is known that they do not tell enough: each costs both
/// sides a call and a comparison. Then long ones, `left` being the samples that are still wanted: there are fewer of them to wait for.
pub(super) fn most(sets: u64, left: Option<usize>, dropped: usize) -> u64 {
    let few = sets.min(FEW);
    // Of four calls three are samples (`SYNCED_SHARE` in device.py), and `dropped` of those are not.
    left.map_or(few, |left| (4 * (left + dropped) as u64).div_ceil(3).clamp(few, sets))
}

/// One burst of each.
pub(super) struct Burst {
    /// Calls behind which others were queued, as in use.
    pub reference_us: Vec<f64>,
    pub candidate_us: Vec<f64>,
    /// The candidate's calls that were waited for, with all that they caused.
    pub synced_us: Vec<f64>,
    /// By the host's clock, per call, beyond the device time: reference, candidate.
    pub host_us: [f64; 2],
    /// The least that was done before a call of the candidate's, and what has to be done at least.
    pub spacer_us: [f64; 2],
    /// Of the candidate's calls: the mean, the median.
    pub even_us: [f64; 2],
    /// Of the reference's calls: by how much the mean is above the median.
    pub uneven_us: f64,
    /// Calls of the candidate's for which the device waited.
    pub late: usize,
    /// Of each side.
    pub calls: usize,
}

pub(super) async fn burst<S: Sides>(
    sides: &mut S,
    calls: u64,
    candidate_first: bool,
    limit_ms: u64,
) -> Result<Result<Burst, Ending>, Fault> {
    let began = Instant::now();
    let mut order = sides.referee(json!({"op": "burst", "calls": calls})).await?;
    sides.spent("draw", began);
    let count = order["calls"].as_array().map_or(0, Vec::len);
    let order = json!({
        "op": "burst", "heat": order["heat"].take(), "calls": order["calls"].take(), "one_place": order["one_place"].take(),
    });
    let mut theirs = None;
    let mut ours = None;
    let turns = if candidate_first { [true, false] } else { [false, true] };
    for candidate in turns {
        if candidate {
            theirs = match candidates(sides, &order, limit_ms).await? {
                Ok(theirs) => Some(theirs),
                Err(ending) => return Ok(Err(ending)),
            };
        } else {
            let began = Instant::now();
            let said = sides.referee(json!({"op": "reference"})).await?;
            let wall = Duration::from_secs_f64(said["wall_us"].as_f64().unwrap_or(0.0).max(0.0) / 1e6);
            sides.spent("reference", began);
            ours = Some((said, wall));
        }
    }
    let (Some((theirs, outputs, their_wall)), Some((ours, our_wall))) = (theirs, ours) else {
        return Err(fault(PROTOCOL, "half a burst"));
    };
    let began = Instant::now();
    let verdict = sides.referee(json!({"op": "check", "said": outputs})).await?;
    sides.spent("check", began);
    if let Some(wrong) = verdict["wrong"].as_str().or(verdict["malformed"].as_str()) {
        return Ok(Err(Ending::Outcome(Outcome::WrongAnswer { message: wrong.to_owned() })));
    }
    let Some(reference) = calls_of(&ours["times"]).filter(|calls| calls.len() == count) else {
        return Err(fault(PROTOCOL, "the referee timed another number of calls"));
    };
    let Some(candidate) = calls_of(&theirs["times"]).filter(|calls| calls.len() == count) else {
        return Ok(Err(crashed(Phase::Run, "it timed another number of calls than it was told to")));
    };
    let flushed_us = ours["flushed_us"].as_f64().unwrap_or(0.0);
    Ok(of_calls(reference, candidate, [our_wall, their_wall], flushed_us))
}

/// The candidate's half: it warms up on something else, then its inputs are put where it was told that they would be, and from then on
/// the host's clock runs. What it said of its calls, of their outputs, and how long it took.
async fn candidates<S: Sides>(
    sides: &mut S,
    order: &Value,
    limit_ms: u64,
) -> Result<Result<(Value, Value, Duration), Ending>, Fault> {
    let began = Instant::now();
    let ready = sides.order(order, "ready", limit_ms).await?;
    sides.spent("ready", began);
    if let Err(ending) = ready {
        return Ok(Err(ending));
    }
    let began = Instant::now();
    sides.referee(json!({"op": "fill"})).await?;
    sides.spent("fill", began);
    let began = Instant::now();
    let said = sides.order(&json!({"op": "go"}), "timed", limit_ms).await?;
    let wall = began.elapsed();
    sides.spent("candidate", began);
    let said = match said {
        Ok(said) => said,
        Err(ending) => return Ok(Err(ending)),
    };
    let began = Instant::now();
    let outputs = sides.wait("outputs", limit_ms).await?;
    sides.spent("outputs", began);
    if let Ok(outputs) = &outputs {
        sides.saw(&outputs["evidence"]);
    }
    Ok(outputs.map(|outputs| (said, outputs, wall)))
}

fn of_calls(
    reference: Vec<Call>,
    candidate: Vec<Call>,
    [our_wall, their_wall]: [Duration; 2],
    flushed_us: f64,
) -> Result<Burst, Ending> {
    let beyond = |wall: Duration, calls: &[Call]| {
        let events: f64 = calls.iter().map(|c| c.us + c.spacer_us).sum();
        (wall.as_secs_f64() * 1e6 - events) / calls.len() as f64
    };
    let host_us = [beyond(our_wall, &reference), beyond(their_wall, &candidate)];
    let spacer_us = [candidate.iter().map(|c| c.spacer_us).fold(f64::INFINITY, f64::min), flushed_us];
    let (late, calls) = (candidate.iter().filter(|c| c.late).count(), candidate.len());
    let even = |calls: &[Call]| {
        let in_time: Vec<f64> = calls.iter().filter(|c| !c.late).map(|c| c.us).collect();
        [in_time.iter().sum::<f64>() / in_time.len().max(1) as f64, median(&in_time)]
    };
    let (even_us, [mean, middle]) = (even(&candidate), even(&reference));
    let uneven_us = (mean - middle).max(0.0);
    let (queued, synced): (Vec<Call>, Vec<Call>) = candidate.into_iter().partition(|c| c.queued);
    let (ours, ours_synced): (Vec<Call>, Vec<Call>) = reference.into_iter().partition(|c| c.queued);
    if synced.len() != ours_synced.len() {
        return Err(crashed(Phase::Run, "it waited for another number of calls than it was told to"));
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
    Ok(Burst { reference_us, candidate_us, synced_us, host_us, spacer_us, even_us, uneven_us, late, calls })
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

pub(super) fn us_of(list: &Value) -> Vec<f64> {
    calls_of(list).unwrap_or_default().iter().map(|c| c.us).collect()
}

/// The host's clock over all bursts. A burst has an entry for each of its calls: who is honest in short ones has nothing of it in long
/// ones, of which most samples are.
#[derive(Default)]
pub(super) struct Host {
    reference: Vec<f64>,
    candidate: Vec<f64>,
    call_us: Vec<f64>,
    spacers: Vec<[f64; 2]>,
    even: Vec<[f64; 2]>,
    uneven: Vec<f64>,
    /// The call in the middle of each burst, and how many calls that has: the reference's, the candidate's.
    pub bursts: [Vec<(f64, usize)>; 2],
}

impl Host {
    pub fn saw(&mut self, burst: &Burst) {
        let (call_us, calls) = (median(&burst.reference_us), burst.calls);
        self.reference.extend(repeat_n(burst.host_us[0], calls));
        self.candidate.extend(repeat_n(burst.host_us[1], calls));
        self.call_us.extend(repeat_n(call_us, calls));
        self.spacers.extend(repeat_n(burst.spacer_us, calls));
        self.even.extend(repeat_n(burst.even_us, calls));
        self.uneven.extend(repeat_n(burst.uneven_us, calls));
        self.bursts[0].push((call_us, calls));
        self.bursts[1].push((median(&burst.candidate_us), calls));
    }

    /// What the referee's own calls share with the candidate's is somebody else's doing: slices of the device's time that others had.
    pub fn unbelievable(&self, limits: &contamination::Limits) -> Option<Doubt> {
        // A process that launches slowly does it more often than another: only what has to be done at least is compared.
        let middle = |side: usize| median(&self.spacers.iter().map(|s| s[side]).collect::<Vec<_>>());
        let (least, needed) = (self.spacers.iter().map(|s| s[0]).fold(f64::INFINITY, f64::min), middle(1));
        if least < SPACER * needed {
            return Some(Doubt::of(format!(
                "the cache was cleared for {least:.0} us before a call, which takes {needed:.0} us at least"
            )));
        }
        // The burst in the middle: a busy host makes some longer, and one honest burst makes no honest candidate.
        let (ours, theirs) = (median(&self.reference), median(&self.candidate));
        let shown = format!("{theirs:.0} us a call beyond the time of its events, the reference {ours:.0} us");
        // Telling a process to go takes the host longer than asking for the time, which few long calls do not share among many.
        let longer = limits.host_longer.1.max(LONG * median(&self.call_us));
        if theirs > ours * limits.host_longer.0 + longer {
            return Some(Doubt::of(format!("by the host's clock its calls take {shown}: its work goes on elsewhere")));
        }
        if theirs < ours * limits.host_shorter.0 - limits.host_shorter.1 {
            return Some(Doubt::of(format!(
                "by the host's clock its calls take {shown}: what is done before a call was left out"
            )));
        }
        let [mean, middle] = [0, 1].map(|n| median(&self.even.iter().map(|e| e[n]).collect::<Vec<_>>()));
        if mean <= limits.uneven.0 * middle + limits.uneven.1 {
            return None;
        }
        let shown = format!("a call takes {mean:.1} us on average and {middle:.1} us in the middle");
        let theirs = self.uneven.iter().sum::<f64>() / self.uneven.len().max(1) as f64;
        Some(match theirs > SLICES * (mean - middle) {
            true => Doubt { why: format!("{shown}, the reference's by {theirs:.1} us apart too"), shared: true },
            false => Doubt::of(format!("{shown}: some do the work of others")),
        })
    }
}

/// Why a candidate's figures are not to be believed.
pub(super) struct Doubt {
    pub why: String,
    /// The reference's are no better: nobody is blamed.
    pub shared: bool,
}

impl Doubt {
    fn of(why: String) -> Doubt {
        Doubt { why, shared: false }
    }
}
