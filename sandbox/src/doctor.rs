//! What `troupe doctor` asks of this room, and the candidate that must always pass.

use std::path::{Path, PathBuf};

use rollout::id::{Digest, TaskId};
use rollout::outcome::{Candidate, Fault};
use rollout::task::{Split, TaskSpec};
use rustix::fs::statvfs;
use sha2::{Digest as _, Sha256};

use crate::executor::{Executor, ExecutorConfig, Isolation, Limits};
use crate::gpu::free::{FreePolicy, Ours, foreign};
use crate::gpu::inventory::{Device, Inventory, InventoryError, Reading};
use crate::gpu::nvml::NvmlInventory;
use crate::isolation::{PARTS, Part};
use crate::pyenv::{self, PyEnvConfig, SPACE_BYTES, TORCH, TRITON};

/// Resident memory of one executor's two Python processes, bytes, as measured.
pub const EXECUTOR_BYTES: u64 = 1 << 30;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ok,
    /// Works, with less than there could be.
    Warn,
    /// Troupe will not work.
    Fail,
}

/// One line of `troupe doctor`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Check {
    pub name: String,
    pub status: Status,
    pub found: String,
    /// What to do about it; `None` when there is nothing to do.
    pub hint: Option<String>,
}

impl Check {
    fn new(name: &str, status: Status, found: impl Into<String>, hint: Option<&str>) -> Check {
        Check { name: name.into(), status, found: found.into(), hint: hint.map(str::to_owned) }
    }
}

/// What the checks look at.
#[derive(Clone, Debug)]
pub struct DoctorConfig {
    pub python: PyEnvConfig,
    pub scratch: PathBuf,
    /// Executors that a run starts.
    pub workers: u32,
    pub limits: Limits,
}

/// All checks that start no candidate: seconds at most, nothing is installed.
pub fn checks(config: &DoctorConfig) -> Vec<Check> {
    let mut all = vec![python(&config.python), memory(config), scratch(&config.scratch)];
    all.extend(gpus());
    all
}

fn python(config: &PyEnvConfig) -> Check {
    let name = "python environment";
    match pyenv::find(config) {
        Ok(Some(at)) => Check::new(name, Status::Ok, format!("torch {TORCH}, triton {TRITON}: {}", at.display()), None),
        Ok(None) => {
            let free = free_bytes(&config.cache_dir).unwrap_or(u64::MAX);
            if free < SPACE_BYTES {
                let hint = "free some space, or point TROUPE_CACHE at another disk";
                let found = format!("not made yet, and only {} GB are free for it", free >> 30);
                return Check::new(name, Status::Fail, found, Some(hint));
            }
            if let Err(e) = pyenv::can_make() {
                return unusable(name, &e);
            }
            let hint = "nothing to do: the first run makes it (about 5 GB from the package index)";
            Check::new(name, Status::Warn, "not made yet", Some(hint))
        }
        Err(e) => unusable(name, &e),
    }
}

fn unusable(name: &str, error: &pyenv::PyEnvError) -> Check {
    let text = error.to_string();
    let (found, hint) = text.split_once("\n  hint: ").unwrap_or((&text, "see above"));
    // What Python itself said, where the error quotes it, is on the lines after the hint.
    let (hint, detail) = hint.split_once('\n').unwrap_or((hint, ""));
    let found = found.trim_end_matches('.');
    let found = if detail.is_empty() { found.to_owned() } else { format!("{found} ({})", detail.trim()) };
    Check::new(name, Status::Fail, found, Some(hint))
}

fn memory(config: &DoctorConfig) -> Check {
    let name = "memory";
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kb: Option<u64> = available.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok());
    let Some(kb) = kb else { return Check::new(name, Status::Warn, "unknown", None) };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let (free, need) = (kb << 10, u64::from(config.workers) * (EXECUTOR_BYTES + config.limits.memory_bytes));
    let gb = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let found = format!(
        "{:.1} GB available, {cores} cores; {} executors may take {:.1} GB",
        gb(free),
        config.workers,
        gb(need)
    );
    if free < need {
        let hint = "lower `executor.workers` or `executor.memory_mb`";
        return Check::new(name, Status::Warn, found, Some(hint));
    }
    Check::new(name, Status::Ok, found, None)
}

fn scratch(dir: &Path) -> Check {
    let name = "scratch directory";
    let made = std::fs::create_dir_all(dir).and_then(|()| tempfile::Builder::new().prefix("doctor-").tempdir_in(dir));
    match made {
        Ok(_) => Check::new(name, Status::Ok, dir.display().to_string(), None),
        Err(e) => Check::new(
            name,
            Status::Fail,
            format!("{}: {e}", dir.display()),
            Some("check its permissions and the disk"),
        ),
    }
}

/// Free bytes of the file system that `dir` is on, or would be on.
fn free_bytes(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|d| d.exists())?;
    let space = statvfs(there).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// One check per GPU, through NVML; one that says so where there is none.
fn gpus() -> Vec<Check> {
    let none = |found: String| {
        let hint = "nothing to do: without one, candidates run in Triton's interpreter and nothing is timed";
        vec![Check::new("gpu", Status::Warn, found, Some(hint))]
    };
    let inventory = match NvmlInventory::open() {
        Ok(inventory) => inventory,
        Err(e) => return none(format!("none: {e}")),
    };
    match inventory.devices() {
        Err(e) => none(e.to_string()),
        Ok(devices) if devices.is_empty() => none("none".into()),
        Ok(devices) => devices.iter().map(|device| gpu(device, inventory.read(&device.uuid))).collect(),
    }
}

/// What a GPU is, and what speaks against timing on it now.
fn gpu(device: &Device, reading: Result<Reading, InventoryError>) -> Check {
    let label = format!("gpu {}", device.index);
    let about = match device.capability {
        Some((major, minor)) => format!("{}, sm_{major}{minor}, {}", device.name, device.uuid),
        None => format!("{}, {}", device.name, device.uuid),
    };
    let reading = match reading {
        Ok(reading) => reading,
        Err(e) => return Check::new(&label, Status::Warn, format!("{about}: {e}"), Some("check it with `nvidia-smi`")),
    };
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let free = device.memory_bytes.saturating_sub(reading.memory_used_bytes);
    let hidden = if reading.processes.is_none() { ", its processes are hidden: memory decides" } else { "" };
    let found = format!(
        "{about}, {:.0} of {:.0} GB free, {} MHz, {} C{hidden}",
        gb(free),
        gb(device.memory_bytes),
        reading.sm_mhz,
        reading.temperature_c
    );
    let mut why: Vec<String> =
        foreign(&FreePolicy::default(), &reading, &Ours::default()).iter().map(ToString::to_string).collect();
    if device.mig {
        why.push("MIG is on: its slices are not used one by one".into());
    }
    if why.is_empty() {
        return Check::new(&label, Status::Ok, found, None);
    }
    let hint = "`gpu.devices` has to name a GPU that nothing else uses, or measurements are refused (F014)";
    Check::new(&label, Status::Warn, format!("{found}; not free: {}", why.join("; ")), Some(hint))
}

/// Starts an executor, runs the known good candidate, and says which parts of the isolation hold here.
pub async fn prove(mut config: ExecutorConfig) -> Vec<Check> {
    let name = "known good candidate";
    // Started without one that is required, so that the list below can say which.
    let require = std::mem::take(&mut config.require);
    let executor = match Executor::start(config).await {
        Ok(executor) => executor,
        Err(fault) => return vec![failed(name, &fault)],
    };
    let (task, good) = known_good();
    let proof = match executor.evaluate(&task, &good).await {
        Ok(report) if report.outcome.is_correct() => {
            let total = report.phase_ms.get("total").copied().unwrap_or(0.0);
            Check::new(name, Status::Ok, format!("compiled for sm_90, ran, and was right, in {total:.0} ms"), None)
        }
        Ok(report) => {
            let hint = "the environment or the machine is at fault: compare versions, look at the message";
            Check::new(name, Status::Fail, format!("{:?}", report.outcome), Some(hint))
        }
        Err(fault) => failed(name, &fault),
    };
    let mut checks = executor.isolation().await.map_or_else(Vec::new, |i| isolation(&i, &require));
    executor.shutdown().await;
    checks.push(proof);
    checks
}

fn failed(name: &str, fault: &Fault) -> Check {
    let hint = format!("`troupe explain {}`", fault.code);
    Check { name: name.into(), status: Status::Fail, found: fault.to_string(), hint: Some(hint) }
}

/// A check for every part of the isolation, and one for what cannot be lost.
fn isolation(is: &Isolation, require: &[String]) -> Vec<Check> {
    let one = |part: &Part| {
        let (name, required) = (format!("isolation: {}", part.name), require.iter().any(|r| r == part.name));
        let landlock = if part.name == "landlock" { format!(" {}", is.landlock) } else { String::new() };
        if is.holds(part) {
            return Check::new(&name, Status::Ok, format!("holds: {}{landlock}", part.shown), None);
        }
        if !Isolation::concerns(part) && !required {
            let found = format!("not needed: {} is for the superuser's candidates", part.shown);
            return Check::new(&name, Status::Ok, found, None);
        }
        let (status, word) = if required { (Status::Fail, ", and is required") } else { (Status::Warn, "") };
        Check::new(&name, status, format!("does not hold{word}: {}", part.shown), Some(part.hint))
    };
    let mut all: Vec<Check> = PARTS.iter().map(one).collect();
    let hint = "nothing to do: the zygote counts the processes and the memory of a candidate itself, every 50 ms";
    all.push(Check::new("isolation: cgroup", Status::Warn, "not used", Some(hint)));
    all
}

const TASK: &str = "\
import torch


class Model(torch.nn.Module):
    def forward(self, x, y):
        return x + 2 * y


def get_inputs():
    return [torch.randn(256), torch.randn(256)]


def get_init_inputs():
    return []
";

const GOOD: &str = "\
import torch
import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out + at, tl.load(x + at, mask=mask) + 2 * tl.load(y + at, mask=mask), mask=mask)


class ModelNew(torch.nn.Module):
    def forward(self, x, y):
        out = torch.empty_like(x)
        add_kernel[(triton.cdiv(x.numel(), 128),)](x, y, out, x.numel(), BLOCK=128)
        return out
";

/// A task and a candidate that passes it on every working machine.
pub fn known_good() -> (TaskSpec, Candidate) {
    let task = TaskSpec {
        id: TaskId("troupe_known_good".into()),
        level: 1,
        split: Split::Validation,
        tags: Vec::new(),
        source: TASK.into(),
    };
    let digest = Digest(crate::harness::hex(&Sha256::digest(GOOD)));
    (task, Candidate { source: GOOD.into(), digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_line_and_what_is_required_and_missing_fails() {
        let is = Isolation { landlock: 7, ..Isolation::default() };
        let checks = isolation(&is, &["seccomp".to_owned(), "landlock".to_owned()]);
        assert_eq!(checks.len(), PARTS.len() + 1);
        let of = |name: &str| checks.iter().find(|c| c.name == format!("isolation: {name}")).unwrap();
        assert_eq!((of("landlock").status, of("landlock").found.as_str()), (Status::Ok, "holds: Landlock 7"));
        assert_eq!(of("seccomp").status, Status::Fail);
        assert_eq!(of("pid").status, Status::Warn);
        assert!(of("pid").hint.is_some() && of("pid").found.starts_with("does not hold"));
    }
}
