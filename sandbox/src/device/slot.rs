//! The device as a slot (`rollout::slots`): leased by one measurement, free again only after the device itself is empty and
//! has computed what is known.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rollout::id::{RolloutId, WorkerId};
use rollout::outcome::Fault;
use rollout::slots::{LeaseId, Proof, Slot, SlotCommand, SlotEvent, Slots, SlotsConfig};
use serde_json::json;

use super::Device;
use super::own::CONTEXT_LEAST;
use crate::fault::{DEVICE, fault};

const SLOT: WorkerId = WorkerId(0);
/// How often a device that is to become empty is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A quarantined device gets another chance after this long, twice as long after each that it did not use.
const QUARANTINE: Duration = Duration::from_secs(5);
const LONGEST_QUARANTINE: Duration = Duration::from_secs(60);
/// Processes that are asked for one proof: one that dies, or cannot be started, proves nothing either way.
const PROVERS: usize = 3;
/// Where processes are hidden, memory that does not shrink for so long is not that of a process of ours any more.
const SETTLED: Duration = Duration::from_secs(2);

/// What was on the device when it was leased: the candidate, its processes stopped, and the referee.
#[derive(Debug, Default)]
pub(super) struct Leased {
    pids: BTreeSet<u32>,
    /// Where processes are hidden: memory in use, and what of it the referee keeps.
    memory: Option<(u64, u64)>,
}

/// A lease that is not lost where the evaluation that holds it fails half way or is given up: the next one settles it first.
pub(super) struct Held {
    device: Arc<Device>,
    lease: Option<LeaseId>,
}

impl Held {
    /// Ends a lease whose processes are gone. `suspect`: what happened could be the device's fault. Who stops waiting for this does
    /// not stop it.
    pub async fn release(mut self, suspect: bool) -> Result<(), Fault> {
        match self.lease.take() {
            Some(lease) => self.device.settle(self.device.ended(lease, suspect)).await,
            None => Ok(()),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let given_up = self.device.given_up.lock();
        given_up.unwrap_or_else(PoisonError::into_inner).extend(self.lease.take());
    }
}

pub(super) fn slots() -> Slots {
    Slots::new(SlotsConfig { lease_ms: 300_000, drain_ms: 10_000, prove_ms: 60_000 })
}

impl Device {
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn on(&self, event: SlotEvent) -> Vec<SlotCommand> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.on(self.now_ms(), event)
    }

    /// Where the slot is, in words.
    pub fn state(&self) -> String {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(SLOT).map_or_else(|| "absent".to_owned(), |slot| format!("{slot:?}"))
    }

    /// Brings the device in: it is drained and proved before its first lease, as after a quarantine.
    pub(super) async fn join(&self) -> Result<(), Fault> {
        let commands = self.on(SlotEvent::Added { slot: SLOT });
        self.carry_out(commands).await
    }

    /// Leases the slot for one measurement. The gate has made sure that nobody else is on the device.
    pub(super) async fn lease(self: &Arc<Self>, session: u64) -> Result<Held, Fault> {
        let given_up = std::mem::take(&mut *self.given_up.lock().unwrap_or_else(PoisonError::into_inner));
        let commands = given_up.into_iter().flat_map(|lease| self.ended(lease, true)).collect();
        self.settle(commands).await?;
        self.settled().await?;
        self.rejoin().await?;
        let pids = self.ours().await;
        let memory = match self.reading() {
            Some(reading) if reading.processes.is_none() => {
                Some((reading.memory_used_bytes, self.referees_bytes().await?))
            }
            _ => None,
        };
        *self.leased.lock().unwrap_or_else(PoisonError::into_inner) = Leased { pids, memory };
        let leased = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.lease(self.now_ms(), RolloutId(session))
        };
        match leased {
            Some((_, lease)) => Ok(Held { device: self.clone(), lease: Some(lease) }),
            None => Err(fault(DEVICE, format!("the device is not free: {}", self.state()))),
        }
    }

    /// Waits until what an earlier lease left behind has been seen to, by whoever does that. The slot's own limits end the wait.
    async fn settled(self: &Arc<Self>) -> Result<(), Fault> {
        loop {
            let overdue = self.on(SlotEvent::Tick);
            if !overdue.is_empty() {
                return self.settle(overdue).await;
            }
            let at_it = {
                let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
                matches!(slots.get(SLOT), Some(Slot::Draining { .. } | Slot::Proving { .. }))
            };
            if !at_it {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A quarantined device is waited for: who comes next would find it no better.
    async fn rejoin(self: &Arc<Self>) -> Result<(), Fault> {
        let quarantined = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            matches!(slots.get(SLOT), Some(Slot::Quarantined { .. }))
        };
        if !quarantined {
            return Ok(());
        }
        let found = *self.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, times)) = found {
            let long = (QUARANTINE * 2u32.saturating_pow(times.saturating_sub(1))).min(LONGEST_QUARANTINE);
            tokio::time::sleep(long.saturating_sub(since.elapsed())).await;
        }
        self.settle(self.on(SlotEvent::Added { slot: SLOT })).await?;
        *self.quarantined.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn ended(&self, lease: LeaseId, suspect: bool) -> Vec<SlotCommand> {
        self.on(match suspect {
            true => SlotEvent::Crashed { slot: SLOT, lease },
            false => SlotEvent::Released { slot: SLOT, lease },
        })
    }

    /// Carries out what the slot asks for, to its end: a slot that is half drained is nobody's.
    async fn settle(self: &Arc<Self>, commands: Vec<SlotCommand>) -> Result<(), Fault> {
        if commands.is_empty() {
            return Ok(());
        }
        let device = self.clone();
        let task = tokio::spawn(async move { device.carry_out(commands).await });
        task.await.map_err(|e| fault(DEVICE, format!("what drains the device: {e}")))?
    }

    async fn carry_out(&self, mut commands: Vec<SlotCommand>) -> Result<(), Fault> {
        while let Some(command) = commands.pop() {
            commands.extend(match command {
                SlotCommand::Drain { lease, .. } => self.drain(lease).await,
                SlotCommand::Prove { lease, proof, .. } => {
                    let proved = self.proved(proof).await;
                    self.on(match proved {
                        true => SlotEvent::Proved { slot: SLOT, lease },
                        false => SlotEvent::ProofFailed { slot: SLOT, lease },
                    })
                }
                SlotCommand::Quarantine { why, .. } => {
                    let mut found = self.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
                    *found = Some((Instant::now(), found.map_or(1, |(_, times)| times + 1)));
                    return Err(fault(DEVICE, format!("the device is not used any more: {why:?}")));
                }
            });
        }
        Ok(())
    }

    /// Waits until the device lists no process of ours that is dead. Other people's are another matter.
    async fn drain(&self, lease: LeaseId) -> Vec<SlotCommand> {
        let before = std::mem::take(&mut *self.leased.lock().unwrap_or_else(PoisonError::into_inner));
        let began = Instant::now();
        let kept = match before.memory {
            // One that is gone keeps nothing.
            Some((_, kept)) => self.referees_bytes().await.unwrap_or(0).saturating_sub(kept),
            None => 0,
        };
        loop {
            let empty = match (self.gpu.is_some(), self.reading()) {
                (false, _) => true,
                (true, None) => false,
                (true, Some(reading)) => match reading.processes {
                    Some(listed) => {
                        let ours = self.ours().await;
                        listed.iter().all(|p| ours.contains(&p.pid) || !before.pids.contains(&p.pid))
                    }
                    None => came_back(before.memory, kept, reading.memory_used_bytes, began.elapsed()),
                },
            };
            if empty {
                return self.on(SlotEvent::DeviceEmpty { slot: SLOT, lease });
            }
            let commands = self.on(SlotEvent::Tick);
            // Who waits for this may have been told that it is overdue.
            if !commands.is_empty() || !self.state().starts_with("Draining") {
                return commands;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What the referee keeps of the device's memory.
    async fn referees_bytes(&self) -> Result<u64, Fault> {
        Ok(self.ask(&json!({"op": "memory"})).await?.header["bytes"].as_u64().unwrap_or(0))
    }

    async fn proved(&self, proof: Proof) -> bool {
        for _ in 0..PROVERS {
            match self.prove(proof).await {
                Ok(proved) => return proved,
                Err(e) => tracing::warn!("a proof of the device came to nothing: {e}"),
            }
        }
        false
    }

    /// A suspected device is proved by a process that has not been there before.
    async fn prove(&self, proof: Proof) -> Result<bool, Fault> {
        if proof == Proof::Reference && self.next_session.load(Ordering::Relaxed) > 0 {
            let mut fresh = self.new_referee().await?;
            let proved = fresh.ask(&json!({"op": "prove"})).await;
            fresh.stop().await;
            return Ok(proved?.header["proved"] == true);
        }
        Ok(self.ask(&json!({"op": "prove"})).await?.header["proved"] == true)
    }
}

/// Whether memory says that a candidate's process is gone: `before` is what was in use when the device was leased and what the referee
/// kept of it, which has grown by `grown`. A context less is in use, or, where there may have been none any more, not more than before.
fn came_back(before: Option<(u64, u64)>, grown: u64, used: u64, since: Duration) -> bool {
    let Some((had, _)) = before else { return true };
    let had = had.saturating_add(grown);
    used.saturating_add(CONTEXT_LEAST) <= had || (since >= SETTLED && used <= had)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_processes_are_hidden_memory_has_to_come_back() {
        let (mb, now) = (1 << 20, Duration::ZERO);
        let before = Some((3000 * mb, 500 * mb));
        assert!(came_back(before, 0, 2500 * mb, now));
        assert!(!came_back(before, 0, 3000 * mb, now), "its context is still there");
        assert!(came_back(before, 1000 * mb, 3500 * mb, now), "the referee took some");
        assert!(came_back(before, 0, 3000 * mb, SETTLED), "it was dead before");
        assert!(!came_back(before, 0, 3100 * mb, SETTLED), "more than before");
        assert!(came_back(None, 0, 3100 * mb, now), "nothing was leased");
    }
}
