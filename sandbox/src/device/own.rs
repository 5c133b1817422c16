//! What on a GPU is ours: its processes, its memory where processes are hidden, and whether it is free of everybody else.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rollout::outcome::Fault;

use super::{Device, DeviceConfig};
use crate::fault::{DEVICE, fault};
use crate::gpu::free::{Ours, Watch, Why};
use crate::gpu::inventory::{Device as Gpu, Inventory, Reading};

/// How often a GPU that is to be free is looked at, and how long beyond the window in which it has to be idle.
const LOOK: Duration = Duration::from_millis(100);
const FREE_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take until NVML's utilisation, an average over up to a second, says that everything of ours is at rest.
const REST_WITHIN: Duration = Duration::from_secs(2);
/// A context takes more than this.
pub(super) const CONTEXT_LEAST: u64 = 64 << 20;

impl Device {
    /// A zygote whose children are not foreign, or another child of this process's that is to pass for one: the bench's hidden neighbour.
    pub fn adopt(&self, zygote: u32) {
        self.zygotes.lock().unwrap_or_else(PoisonError::into_inner).insert(zygote);
    }

    /// Our processes on this machine: the referee, and everything below our zygotes.
    pub(crate) async fn ours(&self) -> BTreeSet<u32> {
        let mut zygotes: Vec<u32> = {
            let mut known = self.zygotes.lock().unwrap_or_else(PoisonError::into_inner);
            // The number of one that is gone may be somebody else's by now.
            known.retain(|&pid| parent(pid) == Some(std::process::id()));
            known.iter().copied().collect()
        };
        let mut found: BTreeSet<u32> = self.referee_pid().await.into_iter().collect();
        found.insert(std::process::id());
        while let Some(pid) = zygotes.pop() {
            if !found.insert(pid) {
                continue;
            }
            let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for thread in threads.flatten() {
                let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                zygotes.extend(children.split_whitespace().filter_map(|n| n.parse::<u32>().ok()));
            }
        }
        found
    }

    /// One look; `None` where there is nothing to look at, or nobody answers.
    pub(super) fn reading(&self) -> Option<Reading> {
        let reading = self.inventory.read(&self.gpu.as_ref()?.uuid).ok()?;
        Some(match self.hidden.load(Ordering::Relaxed) {
            true => Reading { processes: None, ..reading },
            false => reading,
        })
    }

    /// What is ours while nobody of ours is at work. Where processes are hidden that is all memory in use now, and what the two that
    /// are timed may allocate beside it, `box_bytes` each; that somebody else is at work shows in the utilisation.
    pub(super) async fn ours_at_rest(&self, box_bytes: u64) -> Result<Ours, String> {
        let began = Instant::now();
        loop {
            let Some(reading) = self.reading().filter(|r| r.processes.is_none()) else { return Ok(Ours::default()) };
            let (percent, limit) = (reading.utilisation_percent, self.config.free.utilisation_percent);
            if percent <= limit {
                let memory_bytes = reading.memory_used_bytes.saturating_add(2 * box_bytes);
                return Ok(Ours { memory_bytes, ..Ours::default() });
            }
            if began.elapsed() > REST_WITHIN {
                return Err(format!("while nothing of ours ran, {}", Why::Utilisation { percent, limit }));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Notes whether NVML's numbers of processes are this machine's own: in some containers they are another's, or there are none.
    /// `before`: without the referee, which has a context now.
    pub(super) async fn compare_numbers(&self, before: Option<Reading>) {
        let (Some(before), Some(after), Some(pid)) = (before, self.reading(), self.referee_pid().await) else { return };
        if foreign_numbers(&before, &after, pid) {
            tracing::warn!(
                "NVML does not list our own process {pid} among those on the GPU: its memory decides what is ours"
            );
            self.hidden.store(true, Ordering::Relaxed);
        }
    }
}

/// Memory was taken by a process of ours that is not among those listed.
fn foreign_numbers(before: &Reading, after: &Reading, ours: u32) -> bool {
    let listed = after.processes.as_ref().is_none_or(|all| all.iter().any(|p| p.pid == ours));
    !listed && after.memory_used_bytes >= before.memory_used_bytes.saturating_add(CONTEXT_LEAST)
}

/// The parent of a process.
fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Waits until the GPU is free: nothing of ours is on it yet.
pub(super) async fn free(config: &DeviceConfig, gpu: &Gpu, inventory: &dyn Inventory) -> Result<(), Fault> {
    let (policy, began, mut watch) = (&config.free, Instant::now(), Watch::default());
    // A model of this process may be at work; otherwise nothing of ours is there yet.
    let at_work = config.tenant.is_some();
    let ours = Ours { pids: at_work.then(std::process::id).into_iter().collect(), memory_bytes: 0 };
    let limit = Duration::from_millis(policy.window_ms) + FREE_WITHIN;
    loop {
        let reading = inventory.read(&gpu.uuid).map_err(|e| e.to_string());
        let why = watch.look(policy, began.elapsed().as_millis() as u64, &reading, &ours, at_work);
        if why.is_empty() {
            return Ok(());
        }
        if began.elapsed() > limit {
            let why: Vec<String> = why.iter().map(ToString::to_string).collect();
            return Err(fault(DEVICE, format!("{} ({}) is not free: {}", gpu.name, gpu.uuid, why.join("; "))));
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::inventory::Process;

    #[test]
    fn numbers_of_another_namespace_are_told_from_ours() {
        let of = |pids: Option<&[u32]>, mb: u64| Reading {
            processes: pids
                .map(|pids| pids.iter().map(|&pid| Process { pid, memory_bytes: None, graphics: false }).collect()),
            memory_used_bytes: mb << 20,
            ..Reading::default()
        };
        let before = of(Some(&[]), 500);
        assert!(!foreign_numbers(&before, &of(Some(&[7]), 1500), 7));
        assert!(foreign_numbers(&before, &of(Some(&[70001]), 1500), 7), "the host's number of it");
        assert!(foreign_numbers(&before, &of(Some(&[]), 1500), 7), "nobody is listed");
        assert!(!foreign_numbers(&before, &of(None, 1500), 7), "hidden anyhow");
        assert!(!foreign_numbers(&before, &of(Some(&[]), 500), 7), "it stands in for a GPU");
    }
}
