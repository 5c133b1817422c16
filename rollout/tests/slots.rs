//! S-1 and S-2 over thousands of random histories of GPU slots. The world keeps the devices' true occupancy; news of
//! them comes late, twice and out of order.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use rollout::id::{RolloutId, WorkerId};
use rollout::slots::{LeaseId, Proof, Quarantine, Slot, SlotCommand, SlotEvent, Slots, SlotsConfig};
use support::Rng;

const HISTORIES: u64 = 3_000;

/// A device as it really is.
#[derive(Default)]
struct Device {
    /// Leases whose processes still live on it.
    occupants: BTreeSet<LeaseId>,
    /// The device was seen empty and proved, after this lease.
    empty_after: Option<LeaseId>,
    proved_after: Option<LeaseId>,
    last: Option<LeaseId>,
}

#[derive(Default)]
struct Report {
    s1: Option<String>,
    s2: Option<String>,
    stale: Option<String>,
    stuck: Option<String>,
    leases: u64,
    quarantines: u64,
    ghosts: u64,
}

fn history(seed: u64, report: &mut Report) {
    let mut rng = Rng::new(seed);
    let config =
        SlotsConfig { lease_ms: rng.range(20, 200), drain_ms: rng.range(20, 200), prove_ms: rng.range(20, 200) };
    let mut slots = Slots::new(config);
    let mut devices: BTreeMap<WorkerId, Device> = BTreeMap::new();
    // Leases the trusted side believes to time right now.
    let mut timing: BTreeMap<WorkerId, LeaseId> = BTreeMap::new();
    let mut inbox: Vec<SlotEvent> = Vec::new();
    let mut ghosts: Vec<SlotEvent> = Vec::new();
    let mut numbers = BTreeSet::new();
    let mut now = 0;
    for n in 0..400 {
        now += rng.range(0, 4);
        let slot = WorkerId(rng.range(0, 2) as u32);
        let event = match rng.below(14) {
            0 => Some(SlotEvent::Added { slot }),
            1 if rng.chance(0.1) => Some(SlotEvent::Removed { slot }),
            2 => Some(SlotEvent::Tick),
            3 if !ghosts.is_empty() => {
                report.ghosts += 1;
                Some(ghosts[rng.below(ghosts.len())].clone())
            }
            4 | 5 => {
                if let Some((slot, lease)) = slots.lease(now, RolloutId(n)) {
                    report.leases += 1;
                    let device = devices.entry(slot).or_default();
                    if let Some(other) = timing.insert(slot, lease) {
                        report.s1.get_or_insert(format!("history {seed}: {slot} leased to {lease:?} and {other:?}"));
                    }
                    if !numbers.insert(lease) {
                        report.s1.get_or_insert(format!("history {seed}: {lease:?} was given twice"));
                    }
                    let clean = device.occupants.is_empty() && device.empty_after == device.last;
                    if !clean || device.last.is_none() {
                        report.s2.get_or_insert(format!("history {seed}: {slot} leased while {:?}", device.occupants));
                    }
                    if device.proved_after != device.last {
                        report.s2.get_or_insert(format!("history {seed}: {slot} leased unproved"));
                    }
                    device.last = Some(lease);
                    device.occupants.insert(lease);
                }
                None
            }
            6 => timing.iter().next().map(|(&slot, &lease)| {
                if rng.chance(0.5) { SlotEvent::Released { slot, lease } } else { SlotEvent::Crashed { slot, lease } }
            }),
            _ if !inbox.is_empty() => Some(inbox.swap_remove(rng.below(inbox.len()))),
            _ => None,
        };
        // Processes that are being drained die at some time, and only then the device reports empty.
        for (&slot, device) in &mut devices {
            let leased = timing.get(&slot).copied();
            let dying: Vec<LeaseId> = device.occupants.iter().copied().filter(|l| Some(*l) != leased).collect();
            for lease in dying {
                if rng.chance(0.2) {
                    device.occupants.remove(&lease);
                }
            }
            if device.occupants.is_empty()
                && let Some(Slot::Draining { lease, .. }) = slots.get(slot)
                && rng.chance(0.5)
            {
                inbox.push(SlotEvent::DeviceEmpty { slot, lease: *lease });
            }
        }
        let Some(event) = event else { continue };
        if rng.chance(0.4) && ghosts.len() < 50 {
            ghosts.push(event.clone());
        }
        let before = slots.clone();
        let commands = slots.on(now, event.clone());
        judge_event(seed, &event, &before, &slots, &commands, &mut devices, report);
        for command in commands {
            match command {
                SlotCommand::Drain { slot, lease } => {
                    timing.remove(&slot);
                    devices.entry(slot).or_default().last = Some(lease);
                }
                SlotCommand::Prove { slot, lease, .. } => {
                    if rng.chance(0.8) {
                        inbox.push(SlotEvent::Proved { slot, lease });
                    } else if rng.chance(0.5) {
                        inbox.push(SlotEvent::ProofFailed { slot, lease });
                    }
                }
                SlotCommand::Quarantine { .. } => report.quarantines += 1,
            }
        }
        if let SlotEvent::Removed { slot } = event {
            timing.remove(&slot);
        }
    }
    // Calm: every slot that is not out of use becomes free again, or is put out of use; none stays in between.
    for _ in 0..3 {
        now += 1_000;
        slots.on(now, SlotEvent::Tick);
    }
    for (slot, state) in slots.iter() {
        if !matches!(state, Slot::Free | Slot::Quarantined { .. }) {
            report.stuck.get_or_insert(format!("history {seed}: {slot} stays {state:?}"));
        }
    }
}

/// What one event may do: an event about another lease than the slot's does nothing; `Free` comes from a proof only.
fn judge_event(
    seed: u64,
    event: &SlotEvent,
    before: &Slots,
    after: &Slots,
    commands: &[SlotCommand],
    devices: &mut BTreeMap<WorkerId, Device>,
    report: &mut Report,
) {
    let about = match event {
        SlotEvent::Released { slot, lease }
        | SlotEvent::Crashed { slot, lease }
        | SlotEvent::DeviceEmpty { slot, lease }
        | SlotEvent::Proved { slot, lease }
        | SlotEvent::ProofFailed { slot, lease } => Some((*slot, *lease)),
        _ => None,
    };
    if let Some((slot, lease)) = about {
        let current = before.get(slot).and_then(Slot::lease);
        if current != Some(lease) && (before != after || !commands.is_empty()) {
            report.stale.get_or_insert(format!("history {seed}: {event:?} changed {current:?}"));
        }
    }
    if let SlotEvent::Added { slot } = event
        && !matches!(before.get(*slot), None | Some(Slot::Quarantined { .. }))
        && before != after
    {
        report.stale.get_or_insert(format!("history {seed}: {event:?} changed {:?}", before.get(*slot)));
    }
    for (slot, state) in after.iter() {
        let was = before.get(slot);
        if *state == Slot::Free && was != Some(&Slot::Free) {
            let proved = matches!((was, event), (Some(Slot::Proving { .. }), SlotEvent::Proved { .. }));
            if !proved {
                report.s2.get_or_insert(format!("history {seed}: {slot} became free out of {was:?} by {event:?}"));
            }
            let device = devices.entry(slot).or_default();
            device.proved_after = device.last;
        }
        if let (Some(Slot::Draining { .. }), Slot::Proving { .. }) = (was, state) {
            let said = matches!(event, SlotEvent::DeviceEmpty { .. });
            let device = devices.entry(slot).or_default();
            if !said || !device.occupants.is_empty() {
                report.s2.get_or_insert(format!("history {seed}: {slot} proved with {:?}", device.occupants));
            }
            device.empty_after = device.last;
        }
    }
}

fn report() -> &'static Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    REPORT.get_or_init(|| {
        let mut report = Report::default();
        for seed in 0..HISTORIES {
            history(seed, &mut report);
        }
        report
    })
}

/// Planted: `lease` also takes a slot that is leased. Seen: "history 0: 0 leased to LeaseId(2) and LeaseId(1)".
#[test]
fn s1_a_slot_has_at_most_one_lease() {
    assert_eq!(report().s1, None);
    assert!(report().leases > 20_000 && report().ghosts > 20_000, "the histories do lease");
}

/// Planted: a slot whose draining takes too long becomes free. Seen: "history 16: 2 became free out of Some(Draining { .. }) by
/// Tick". Planted: `DeviceEmpty` of an earlier lease is believed. Seen: "history 2: 1 proved with {LeaseId(16)}".
#[test]
fn s2_a_slot_is_free_only_after_the_device_is_empty_and_proved() {
    assert_eq!(report().s2, None);
    assert!(report().quarantines > 1_000, "the histories do quarantine");
}

#[test]
fn news_of_another_lease_changes_nothing() {
    assert_eq!(report().stale, None);
}

#[test]
fn no_slot_stays_between_states() {
    assert_eq!(report().stuck, None);
}

fn config() -> SlotsConfig {
    SlotsConfig { lease_ms: 100, drain_ms: 10, prove_ms: 20 }
}

/// Takes slot 0 from wherever it drains to free.
fn recover(slots: &mut Slots, now_ms: u64) -> Proof {
    let slot = WorkerId(0);
    let Some(Slot::Draining { lease, .. }) = slots.get(slot).cloned() else { panic!("{slots:?}") };
    let commands = slots.on(now_ms, SlotEvent::DeviceEmpty { slot, lease });
    let [SlotCommand::Prove { proof, .. }] = commands[..] else { panic!("{commands:?}") };
    slots.on(now_ms, SlotEvent::Proved { slot, lease });
    assert_eq!(slots.get(slot), Some(&Slot::Free));
    proof
}

#[test]
fn the_proof_is_thorough_after_a_suspect_end() {
    let slot = WorkerId(0);
    let mut slots = Slots::new(config());
    slots.on(0, SlotEvent::Added { slot });
    assert_eq!(slots.lease(0, RolloutId(0)), None, "a new device is not free before it is proved");
    assert_eq!(recover(&mut slots, 0), Proof::Reference);
    let (_, lease) = slots.lease(0, RolloutId(1)).expect("free");
    assert_eq!(slots.lease(0, RolloutId(2)), None);
    assert_eq!(slots.on(1, SlotEvent::Released { slot, lease }), [SlotCommand::Drain { slot, lease }]);
    assert_eq!(recover(&mut slots, 2), Proof::Quick);
    let (_, lease) = slots.lease(3, RolloutId(3)).expect("free");
    slots.on(4, SlotEvent::Crashed { slot, lease });
    assert_eq!(recover(&mut slots, 5), Proof::Reference);
    let (_, lease) = slots.lease(10, RolloutId(4)).expect("free");
    assert_eq!(slots.on(109, SlotEvent::Tick), []);
    assert_eq!(slots.on(110, SlotEvent::Tick), [SlotCommand::Drain { slot, lease }]);
    assert_eq!(recover(&mut slots, 111), Proof::Reference);
}

#[test]
fn what_does_not_recover_is_quarantined_until_added_again() {
    let slot = WorkerId(0);
    let drained = |slots: &mut Slots| {
        slots.on(0, SlotEvent::Added { slot });
        let Some(Slot::Draining { lease, .. }) = slots.get(slot).cloned() else { panic!("{slots:?}") };
        lease
    };
    let mut slots = Slots::new(config());
    drained(&mut slots);
    let why = Quarantine::NeverEmpty;
    assert_eq!(slots.on(10, SlotEvent::Tick), [SlotCommand::Quarantine { slot, why }]);

    let lease = drained(&mut slots);
    slots.on(1, SlotEvent::DeviceEmpty { slot, lease });
    let why = Quarantine::ProofOverdue;
    assert_eq!(slots.on(20, SlotEvent::Tick), []);
    assert_eq!(slots.on(21, SlotEvent::Tick), [SlotCommand::Quarantine { slot, why }]);
    assert_eq!(slots.on(22, SlotEvent::Proved { slot, lease }), []);
    assert_eq!(slots.get(slot), Some(&Slot::Quarantined { why }));

    let lease = drained(&mut slots);
    slots.on(1, SlotEvent::DeviceEmpty { slot, lease });
    let why = Quarantine::ProofFailed;
    assert_eq!(slots.on(2, SlotEvent::ProofFailed { slot, lease }), [SlotCommand::Quarantine { slot, why }]);
    assert_eq!(slots.lease(3, RolloutId(0)), None);
}
