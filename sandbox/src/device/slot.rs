//! The device as a slot (`rollout::slots`): leased by one measurement, free again only after the device itself is empty and
//! has computed what is known.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rollout::id::{RolloutId, WorkerId};
use rollout::outcome::Fault;
use rollout::slots::{LeaseId, Proof, Slot, SlotCommand, SlotEvent, Slots, SlotsConfig};
use serde_json::json;

use super::Device;
use crate::fault::{DEVICE, fault};

const SLOT: WorkerId = WorkerId(0);
/// How often a device that is to become empty is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// A quarantined device gets another chance after this long, twice as long after each that it did not use.
const QUARANTINE: Duration = Duration::from_secs(5);
const LONGEST_QUARANTINE: Duration = Duration::from_secs(60);
/// Processes that are asked for one proof: one that dies, or cannot be started, proves nothing either way.
const PROVERS: usize = 3;

/// A lease that is not lost where the evaluation that holds it fails half way or is given up: the next one settles it first.
pub(super) struct Held {
    device: Arc<Device>,
    lease: Option<LeaseId>,
}

impl Held {
    /// Ends a lease whose processes are gone. `suspect`: what happened could be the device's fault.
    pub async fn release(mut self, suspect: bool) -> Result<(), Fault> {
        match self.lease.take() {
            Some(lease) => self.device.release(lease, suspect).await,
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

    /// Brings the device in: it is drained and proved before its first lease, and after a quarantine.
    pub(super) async fn join(&self) -> Result<(), Fault> {
        let commands = self.on(SlotEvent::Added { slot: SLOT });
        self.carry_out(commands).await
    }

    /// Leases the slot for one measurement. The gate has made sure that nobody else is on the device.
    pub(super) async fn lease(self: &Arc<Self>, session: u64) -> Result<Held, Fault> {
        let given_up = std::mem::take(&mut *self.given_up.lock().unwrap_or_else(PoisonError::into_inner));
        for lease in given_up {
            self.release(lease, true).await?;
        }
        self.rejoin().await?;
        let ours = self.ours().await;
        *self.leased.lock().unwrap_or_else(PoisonError::into_inner) = ours;
        let leased = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let now_ms = self.now_ms();
            slots.on(now_ms, SlotEvent::Tick);
            slots.lease(now_ms, RolloutId(session))
        };
        match leased {
            Some((_, lease)) => Ok(Held { device: self.clone(), lease: Some(lease) }),
            None => Err(fault(DEVICE, format!("the device is not free: {}", self.state()))),
        }
    }

    /// A quarantined device is waited for: who comes next would find it no better.
    async fn rejoin(&self) -> Result<(), Fault> {
        let quarantined = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            matches!(slots.get(SLOT), Some(Slot::Quarantined { .. }))
        };
        if !quarantined {
            return Ok(());
        }
        let found = *self.quarantined.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((since, times)) = found else { return self.join().await };
        let long = (QUARANTINE * 2u32.saturating_pow(times.saturating_sub(1))).min(LONGEST_QUARANTINE);
        tokio::time::sleep(long.saturating_sub(since.elapsed())).await;
        self.join().await?;
        *self.quarantined.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Ends a lease whose processes are gone. `suspect`: what happened could be the device's fault.
    async fn release(&self, lease: LeaseId, suspect: bool) -> Result<(), Fault> {
        let commands = self.on(match suspect {
            true => SlotEvent::Crashed { slot: SLOT, lease },
            false => SlotEvent::Released { slot: SLOT, lease },
        });
        self.carry_out(commands).await
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
        loop {
            let listed: Option<Vec<u32>> = match &self.gpu {
                None => Some(Vec::new()),
                Some(gpu) => match self.inventory.read(&gpu.uuid) {
                    Ok(reading) => Some(reading.processes.unwrap_or_default().iter().map(|p| p.pid).collect()),
                    Err(_) => None,
                },
            };
            let ours = self.ours().await;
            if listed.is_some_and(|pids| pids.iter().all(|pid| ours.contains(pid) || !before.contains(pid))) {
                return self.on(SlotEvent::DeviceEmpty { slot: SLOT, lease });
            }
            let commands = self.on(SlotEvent::Tick);
            if !commands.is_empty() {
                return commands;
            }
            tokio::time::sleep(LOOK).await;
        }
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
