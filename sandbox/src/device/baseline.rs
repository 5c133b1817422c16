//! What references take alone: taken before a task's first candidate has a context, nobody else let onto the device, with looks at it
//! before, while and after; kept in memory, and replaced by a lower one, or by one that was found twice.

use std::future::Future;
use std::sync::{Arc, PoisonError};

use rollout::outcome::Fault;
use rollout::task::TaskSpec;
use serde_json::Value;

use super::Device;
use super::burst::us_of;
use super::gate::{Pass, Use};
use super::lease::{OCCUPIED, Watch, disturbed};
use crate::fault::{PROTOCOL, fault};
use crate::gpu::free::{Ours, foreign};
use crate::gpu::inventory::Reading;
use crate::gpu::timing::median;

/// What is known of one reference, microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Baseline {
    us: f64,
    /// Leases found it slower on every try since: it is to be taken once more.
    wanted: bool,
    /// Taken since then, and slower: a neighbour that stays, or what it takes now.
    slower: Option<f64>,
}

/// Lets an evaluation onto the device, alone where it is to take what the task's reference takes alone; and whether it is. Lanes of one
/// group come at once: whoever waited while another took it does not take it again, or the lowest of several would be kept.
pub(super) async fn let_in(device: &Arc<Device>, task: &TaskSpec) -> Result<(Pass, bool), Fault> {
    let wanted = || device.config.timed && device.baseline_wanted(task);
    let first = wanted();
    let pass = device.enter(if first { Use::Alone } else { Use::Shared }).await?;
    Ok((pass, first && wanted()))
}

/// Takes it by asking a referee, as often as it takes until nobody else is seen meanwhile: one that was taken beside a neighbour would lower
/// or raise what the task's candidates are paid. `box_bytes`: see `Device::ours_at_rest`.
pub(super) async fn take<F>(
    device: &Arc<Device>,
    task: &TaskSpec,
    box_bytes: u64,
    mut ask: impl FnMut() -> F,
) -> Result<f64, Fault>
where
    F: Future<Output = Result<Value, Fault>>,
{
    let ours = device.ours_at_rest(box_bytes).await.map_err(|why| disturbed(task, &[why]))?;
    let mut refused = Vec::new();
    for _ in 0..device.config.tries.max(1) {
        let looks = Looks::begin(device, &ours).await;
        let said = ask().await?;
        match looks.end() {
            None => return accept(device, task, &said),
            Some(why) => refused.push(format!("the reference alone: {why}")),
        }
        tokio::time::sleep(OCCUPIED).await;
    }
    Err(disturbed(task, &refused))
}

/// A referee's answer.
pub(super) fn accept(device: &Device, task: &TaskSpec, said: &Value) -> Result<f64, Fault> {
    let us = us_of(&said["times"]);
    if us.is_empty() {
        return Err(fault(PROTOCOL, "the referee timed no reference"));
    }
    Ok(device.found_alone(task, median(&us)))
}

/// Looks at the device while a reference is timed alone.
pub(super) struct Looks<'a> {
    device: &'a Device,
    ours: Ours,
    before: Option<Reading>,
    watch: Watch,
}

impl<'a> Looks<'a> {
    pub async fn begin(device: &'a Arc<Device>, ours: &Ours) -> Looks<'a> {
        let ours = Ours { pids: device.ours().await, memory_bytes: ours.memory_bytes };
        Looks { device, ours, before: device.reading(), watch: Watch::start(device) }
    }

    /// What speaks against it.
    pub fn end(self) -> Option<String> {
        self.device.gpu.as_ref()?;
        let (during, blind) = self.watch.stop();
        let (Some(before), Some(after), false) = (self.before, self.device.reading(), blind) else {
            return Some("the device could not be read".into());
        };
        let all = [before].into_iter().chain(during).chain([after]);
        let why: Option<Vec<_>> =
            all.map(|reading| foreign(&self.device.config.free, &reading, &self.ours)).find(|why| !why.is_empty());
        why.map(|why| why.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }
}

impl Device {
    /// The reference's median when it was timed alone, if it is known.
    pub(super) fn baseline(&self, task: &TaskSpec) -> Option<f64> {
        self.baselines.lock().unwrap_or_else(PoisonError::into_inner).get(&self.key_of(task)).map(|held| held.us)
    }

    /// Whether it is not known, or doubted.
    pub(super) fn baseline_wanted(&self, task: &TaskSpec) -> bool {
        let kept = self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&self.key_of(task)).is_none_or(|held| held.wanted)
    }

    /// What a reference's time holds for: this GPU (each has its own store), its model and the library that computes, which may be another
    /// one where a new referee has taken the place of a dead one. Shapes, types and values' range are in the task's source.
    fn key_of(&self, task: &TaskSpec) -> String {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{} {} {}", facts["torch"], facts["name"], task.source)
    }

    /// Calls `change` on what is known.
    fn known<T>(&self, task: &TaskSpec, change: impl FnOnce(&mut Baseline) -> T) -> Option<T> {
        let key = self.key_of(task);
        self.baselines.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&key).map(change)
    }

    /// It took `us` alone. The first is kept, and a lower one; a slower one only where it is the second of two that agree, each taken in an
    /// evaluation of its own after leases that found it slower. What is kept.
    fn found_alone(&self, task: &TaskSpec, us: f64) -> f64 {
        let (limits, key) = (self.config.disturbed, self.key_of(task));
        let mut kept = self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        let held = kept.entry(key).or_insert(Baseline { us, wanted: false, slower: None });
        let near = |us: f64, of: f64| (us - of).abs() <= limits.drift_of(of);
        *held = match held.slower {
            _ if us <= held.us || near(us, held.us) => Baseline { us: held.us.min(us), wanted: false, slower: None },
            Some(slower) if near(us, slower) => Baseline { us: us.min(slower), wanted: false, slower: None },
            _ => Baseline { us: held.us, wanted: false, slower: Some(us) },
        };
        held.us
    }

    /// A lease found it as fast, or faster: keeps the lowest, which it returns.
    pub(super) fn keep_lower(&self, task: &TaskSpec, us: f64) -> f64 {
        self.known(task, |held| {
            if us < held.us {
                *held = Baseline { us, wanted: false, slower: None };
            }
            held.us
        })
        .unwrap_or(us)
    }

    /// A lease found it what it is alone.
    pub(super) fn confirm_baseline(&self, task: &TaskSpec) {
        self.known(task, |held| *held = Baseline { us: held.us, wanted: false, slower: None });
    }

    /// A lease found it slower on every try. It is kept: what slows it down may stay, and would be in the next one.
    pub(super) fn doubt_baseline(&self, task: &TaskSpec) {
        self.known(task, |held| held.wanted = true);
    }
}
