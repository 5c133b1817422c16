//! The journal's format: what a run's events look like at rest, and how they are run through the machine again.
//!
//! The shell appends one `Record` per event before it carries the commands out, and now and then a `Snapshot`. State is
//! never journalled, only events: the machine is deterministic, so a snapshot and the records after it give the
//! machine and, through `CommandDigest`, the proof that it decided the same. `troupe resume` replays and then sends
//! `Event::Started` with the next epoch; a later command can compare the digests.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use crate::event::{Command, Event};
use crate::id::TaskId;
use crate::machine::{Machine, MachineConfig};

/// One event as journalled. `seq` counts from 0 without gaps over the whole run, epochs included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub seq: u64,
    pub now_ms: u64,
    pub event: Event,
}

/// The machine after the records before `next_seq`, and the digest of all commands up to there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub next_seq: u64,
    pub machine: Machine,
    pub digest: CommandDigest,
}

/// Why a journal cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("the journal has a gap: expected event {expected}, found event {found}")]
    Gap { expected: u64, found: u64 },
}

impl Snapshot {
    /// The start of a run: no event yet.
    pub fn start(config: MachineConfig, tasks: Vec<TaskId>) -> Snapshot {
        Snapshot { next_seq: 0, machine: Machine::new(config, tasks), digest: CommandDigest::default() }
    }

    /// Takes a new event in: the record to journal and the commands to carry out once it is durable enough.
    pub fn on(&mut self, now_ms: u64, event: Event) -> (Record, Vec<Command>) {
        let record = Record { seq: self.next_seq, now_ms, event };
        let commands = self.machine.on(now_ms, record.event.clone());
        self.digest.add(&commands);
        self.next_seq += 1;
        (record, commands)
    }

    /// Takes a journalled event in. Records before the snapshot are passed over, so a journal may be replayed from an
    /// earlier point.
    pub fn apply(&mut self, record: &Record) -> Result<Vec<Command>, JournalError> {
        if record.seq < self.next_seq {
            return Ok(Vec::new());
        }
        if record.seq > self.next_seq {
            return Err(JournalError::Gap { expected: self.next_seq, found: record.seq });
        }
        Ok(self.on(record.now_ms, record.event.clone()).1)
    }
}

/// Replays `records`, in order, on top of `snapshot`.
pub fn replay(mut snapshot: Snapshot, records: impl IntoIterator<Item = Record>) -> Result<Snapshot, JournalError> {
    for record in records {
        snapshot.apply(&record)?;
    }
    Ok(snapshot)
}

/// A running digest of commands: 128-bit FNV-1a over their debug text, one line each, and their number. It detects
/// a different decision; it is no protection against forgery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandDigest {
    pub commands: u64,
    state: u128,
}

impl Default for CommandDigest {
    fn default() -> CommandDigest {
        CommandDigest { commands: 0, state: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d }
    }
}

impl CommandDigest {
    pub fn add(&mut self, commands: &[Command]) {
        for command in commands {
            self.commands += 1;
            // Writing into the digest cannot fail; `fmt` only forwards what the writer returns.
            let _ = writeln!(Fnv(&mut self.state), "{command:?}");
        }
    }
}

impl fmt::Display for CommandDigest {
    /// For example `1204 commands, 0f3c..` (32 hex digits).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands, {:032x}", self.commands, self.state)
    }
}

struct Fnv<'a>(&'a mut u128);

impl fmt::Write for Fnv<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            *self.0 = (*self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        Ok(())
    }
}
