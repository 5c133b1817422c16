//! GPU slots: who may time on which device, and when a device may be used again (S-1, S-2).
//!
//! ```text
//! Free --lease--> Leased --Released, Crashed or deadline--> Draining --DeviceEmpty--> Proving --Proved--> Free
//!                                                              |                         |
//!                                                              +------- deadline --------+--ProofFailed--> Quarantined
//! ```
//!
//! The same shape as the machine: pure, `on(now_ms, SlotEvent) -> Vec<SlotCommand>`, and an event that does not fit changes
//! nothing. Every lease has a number that is never used again and every later event carries it, so that news of an
//! earlier lease cannot free a slot. That the candidate's process is gone is no proof: only `DeviceEmpty`, which the shell
//! sends when the device itself reports no process and no memory in use, moves a slot on from `Draining`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{RolloutId, WorkerId};

/// Number of one lease of one slot, unique in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub u64);

/// Limits of each state, milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsConfig {
    pub lease_ms: u64,
    /// From the end of a lease until the device must be empty.
    pub drain_ms: u64,
    pub prove_ms: u64,
}

/// Where a slot is. Only a `Free` one can be leased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    Free,
    /// One rollout times on it, alone.
    Leased {
        lease: LeaseId,
        rollout: RolloutId,
        deadline_ms: u64,
    },
    /// The lease ended; its processes are being killed. `suspect`: it ended in a way that could be the device's fault.
    Draining {
        lease: LeaseId,
        suspect: bool,
        deadline_ms: u64,
    },
    /// The device is empty; a run of ours shows whether it works.
    Proving {
        lease: LeaseId,
        deadline_ms: u64,
    },
    /// Not used again until an operator adds it anew.
    Quarantined {
        why: Quarantine,
    },
}

/// Why a slot is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quarantine {
    /// The device did not become empty in time.
    NeverEmpty,
    /// The proof failed.
    ProofFailed,
    /// The proof did not end in time.
    ProofOverdue,
}

/// What can happen to slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotEvent {
    /// A device joined, or an operator gives a quarantined one another chance. It is drained and proved before its first
    /// lease.
    Added {
        slot: WorkerId,
    },
    /// A device leaves. A lease on it is lost (the rollout's own deadline or fault reports that).
    Removed {
        slot: WorkerId,
    },
    /// The lease's work ended in an orderly way.
    Released {
        slot: WorkerId,
        lease: LeaseId,
    },
    /// The lease's work ended in a way that could be the device's fault.
    Crashed {
        slot: WorkerId,
        lease: LeaseId,
    },
    /// The device itself reports no process and no memory in use, after the lease's processes were killed.
    DeviceEmpty {
        slot: WorkerId,
        lease: LeaseId,
    },
    Proved {
        slot: WorkerId,
        lease: LeaseId,
    },
    ProofFailed {
        slot: WorkerId,
        lease: LeaseId,
    },
    /// Time passed.
    Tick,
}

/// What may be done with slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotCommand {
    /// Kill what is left of the lease and watch the device until it is empty.
    Drain { slot: WorkerId, lease: LeaseId },
    /// Show that the device works: quickly, or after a suspect end with a reference run.
    Prove { slot: WorkerId, lease: LeaseId, proof: Proof },
    /// Tell people; the slot is out of use.
    Quarantine { slot: WorkerId, why: Quarantine },
}

/// How thoroughly a slot is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    Quick,
    Reference,
}

/// All slots of one executor host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    config: SlotsConfig,
    next_lease: u64,
    slots: BTreeMap<WorkerId, Slot>,
}

impl Slots {
    pub fn new(config: SlotsConfig) -> Slots {
        Slots { config, next_lease: 0, slots: BTreeMap::new() }
    }

    /// Leases the free slot with the lowest number to `rollout`, alone (S-1); `None` when none is free.
    pub fn lease(&mut self, now_ms: u64, rollout: RolloutId) -> Option<(WorkerId, LeaseId)> {
        let lease = LeaseId(self.next_lease);
        let deadline_ms = now_ms.saturating_add(self.config.lease_ms);
        let (&id, slot) = self.slots.iter_mut().find(|(_, slot)| **slot == Slot::Free)?;
        *slot = Slot::Leased { lease, rollout, deadline_ms };
        self.next_lease += 1;
        Some((id, lease))
    }

    pub fn on(&mut self, now_ms: u64, event: SlotEvent) -> Vec<SlotCommand> {
        match event {
            SlotEvent::Added { slot } => self.added(now_ms, slot),
            SlotEvent::Removed { slot } => {
                self.slots.remove(&slot);
                Vec::new()
            }
            SlotEvent::Released { slot, lease } => self.lease_ended(now_ms, slot, lease, false),
            SlotEvent::Crashed { slot, lease } => self.lease_ended(now_ms, slot, lease, true),
            SlotEvent::DeviceEmpty { slot, lease } => self.device_empty(now_ms, slot, lease),
            SlotEvent::Proved { slot, lease } => self.proof_ended(slot, lease, None),
            SlotEvent::ProofFailed { slot, lease } => self.proof_ended(slot, lease, Some(Quarantine::ProofFailed)),
            SlotEvent::Tick => self.tick(now_ms),
        }
    }

    pub fn get(&self, slot: WorkerId) -> Option<&Slot> {
        self.slots.get(&slot)
    }

    pub fn iter(&self) -> impl Iterator<Item = (WorkerId, &Slot)> {
        self.slots.iter().map(|(&id, slot)| (id, slot))
    }

    fn added(&mut self, now_ms: u64, id: WorkerId) -> Vec<SlotCommand> {
        if !matches!(self.slots.get(&id), None | Some(Slot::Quarantined { .. })) {
            return Vec::new();
        }
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let deadline_ms = now_ms.saturating_add(self.config.drain_ms);
        self.slots.insert(id, Slot::Draining { lease, suspect: true, deadline_ms });
        vec![SlotCommand::Drain { slot: id, lease }]
    }

    fn lease_ended(&mut self, now_ms: u64, id: WorkerId, ended: LeaseId, suspect: bool) -> Vec<SlotCommand> {
        match self.slots.get_mut(&id) {
            Some(slot @ Slot::Leased { .. }) if slot.lease() == Some(ended) => {
                let deadline_ms = now_ms.saturating_add(self.config.drain_ms);
                *slot = Slot::Draining { lease: ended, suspect, deadline_ms };
                vec![SlotCommand::Drain { slot: id, lease: ended }]
            }
            _ => Vec::new(),
        }
    }

    fn device_empty(&mut self, now_ms: u64, id: WorkerId, ended: LeaseId) -> Vec<SlotCommand> {
        match self.slots.get_mut(&id) {
            Some(slot) => match *slot {
                Slot::Draining { lease, suspect, .. } if lease == ended => {
                    let deadline_ms = now_ms.saturating_add(self.config.prove_ms);
                    *slot = Slot::Proving { lease, deadline_ms };
                    let proof = if suspect { Proof::Reference } else { Proof::Quick };
                    vec![SlotCommand::Prove { slot: id, lease, proof }]
                }
                _ => Vec::new(),
            },
            None => Vec::new(),
        }
    }

    fn proof_ended(&mut self, id: WorkerId, ended: LeaseId, failure: Option<Quarantine>) -> Vec<SlotCommand> {
        match self.slots.get_mut(&id) {
            Some(slot @ Slot::Proving { .. }) if slot.lease() == Some(ended) => match failure {
                None => {
                    *slot = Slot::Free;
                    Vec::new()
                }
                Some(why) => {
                    *slot = Slot::Quarantined { why };
                    vec![SlotCommand::Quarantine { slot: id, why }]
                }
            },
            _ => Vec::new(),
        }
    }

    fn tick(&mut self, now_ms: u64) -> Vec<SlotCommand> {
        let drain_ms = self.config.drain_ms;
        let mut out = Vec::new();
        for (&id, slot) in &mut self.slots {
            match *slot {
                Slot::Leased { lease, deadline_ms, .. } if deadline_ms <= now_ms => {
                    let deadline_ms = now_ms.saturating_add(drain_ms);
                    *slot = Slot::Draining { lease, suspect: true, deadline_ms };
                    out.push(SlotCommand::Drain { slot: id, lease });
                }
                Slot::Draining { deadline_ms, .. } if deadline_ms <= now_ms => {
                    let why = Quarantine::NeverEmpty;
                    *slot = Slot::Quarantined { why };
                    out.push(SlotCommand::Quarantine { slot: id, why });
                }
                Slot::Proving { deadline_ms, .. } if deadline_ms <= now_ms => {
                    let why = Quarantine::ProofOverdue;
                    *slot = Slot::Quarantined { why };
                    out.push(SlotCommand::Quarantine { slot: id, why });
                }
                _ => {}
            }
        }
        out
    }
}

impl Slot {
    /// The lease this slot is under or recovers from.
    pub fn lease(&self) -> Option<LeaseId> {
        match *self {
            Slot::Leased { lease, .. } | Slot::Draining { lease, .. } | Slot::Proving { lease, .. } => Some(lease),
            Slot::Free | Slot::Quarantined { .. } => None,
        }
    }
}
