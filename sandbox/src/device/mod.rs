//! Candidates on a device: checked at their task's own size, several at a time, then timed, one at a time and alone.
//!
//! A device is a CUDA GPU, or this machine's own processor in its place, on which everything but the figures is the same:
//! that is how it is tested without a GPU. Stages: compile (processors; the child's own process), check (the device,
//! shared), time (the device, alone). A candidate stays one process throughout, and is frozen while it waits.

mod baseline;
#[cfg(test)]
mod baseline_tests;
mod burst;
mod cache;
mod evaluate;
mod gate;
mod lease;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod neighbour_tests;
mod own;
mod referee;
mod session;
mod slot;
mod tenant;
mod trial;
mod waited;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use rollout::outcome::Fault;
use rollout::slots::{LeaseId, Slots};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use self::baseline::Baseline;
use self::cache::Cache;
pub(crate) use self::evaluate::evaluate;
use self::gate::{Gate, GateConfig};
use self::referee::DeviceReferee;
use self::session::Session;
pub use self::tenant::{Tenant, Work};
use crate::fault::{DEVICE, SCRATCH, fault};
use crate::frames::Frame;
use crate::gpu::contamination;
use crate::gpu::free::FreePolicy;
use crate::gpu::inventory::{Device as Gpu, Inventory};
use crate::gpu::timing::SamplerConfig;
use crate::harness;

/// What candidates run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The GPU with this UUID.
    Cuda(String),
    /// Kernels are interpreted; the clock is the processor's. For tests, which may have an inventory tell of a GPU that the
    /// processor stands for.
    Processor(Option<String>),
}

impl Kind {
    fn uuid(&self) -> Option<&String> {
        match self {
            Kind::Cuda(uuid) => Some(uuid),
            Kind::Processor(uuid) => uuid.as_ref(),
        }
    }

    /// As the harness calls it.
    fn name(&self) -> &'static str {
        match self {
            Kind::Cuda(_) => "cuda",
            Kind::Processor(_) => "cpu",
        }
    }
}

/// Limits of one step on the device, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Making a context and building the model.
    pub up_ms: u64,
    /// One checked forward.
    pub call_ms: u64,
    /// One burst of timed calls: as many as fit by what a checked one took.
    pub burst_ms: u64,
    /// Choosing among configurations anew, and the first burst.
    pub warm_ms: u64,
    /// After so long the figures that there are have to do.
    pub time_ms: u64,
}

impl Default for DeviceLimits {
    fn default() -> Self {
        DeviceLimits { up_ms: 20_000, call_ms: 5_000, burst_ms: 10_000, warm_ms: 20_000, time_ms: 20_000 }
    }
}

impl DeviceLimits {
    /// Longest time that the device adds to an evaluation with each step within its limit, waits for the device apart: the
    /// import and the compilation once more, the checks twice where the first time was not alone, one lease.
    pub fn evaluation_ms(&self, limits: &crate::executor::Limits) -> u64 {
        const CALLS: u64 = 8;
        limits.import_ms + limits.compile_ms + 2 * (self.up_ms + CALLS * self.call_ms) + self.lease_ms()
    }

    /// Longest lease: choosing among configurations, the first burst, the bursts that count, and the one in which their time ends.
    pub fn lease_ms(&self) -> u64 {
        2 * self.warm_ms + self.time_ms + self.burst_ms
    }
}

/// What a device needs to start.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    pub kind: Kind,
    /// An interpreter with torch and Triton (`pyenv::ensure`).
    pub python: PathBuf,
    pub scratch: PathBuf,
    /// Inputs are drawn from it. It never reaches a candidate's process.
    pub secret: [u8; 32],
    /// Candidates that are checked at once; 0: as many as fit into the memory that is free.
    pub checks: usize,
    /// Memory for one candidate's inputs and outputs, bytes.
    pub box_bytes: u64,
    pub limits: DeviceLimits,
    pub sampler: SamplerConfig,
    /// Whether correct candidates are timed.
    pub timed: bool,
    /// Measurements of one candidate until one is not disturbed.
    pub tries: u32,
    /// What disturbs one.
    pub disturbed: contamination::Limits,
    /// When the GPU is free to begin with.
    pub free: FreePolicy,
    /// Nominal clock to lock the GPU to, where that is permitted; 0: left alone.
    pub lock_sm_mhz: u32,
    /// The run's own model, where it works on this GPU.
    pub tenant: Option<Tenant>,
    /// Where the inputs of timed calls are. No setting of a run's: a control of the bench's equivalence makes it `One`.
    pub places: Places,
}

/// Where the inputs of a burst's calls are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Places {
    /// Contents and places that neither side has met.
    #[default]
    Fresh,
    /// All calls of a burst are the same one, as with `do_bench`. What is measured so is told by its device's name and is worth nothing:
    /// who remembers an answer is fastest.
    One,
}

/// Is in the name of a device whose `places` are one.
pub const CONTROL: &str = "CONTROL";

/// A context of the driver's and what a candidate's own allocations may take, bytes.
const CONTEXT_BYTES: u64 = 1 << 30;
/// What stays free of candidates, for the referee: contexts, what it keeps between evaluations and what a comparison takes.
fn reserve(memory_bytes: u64) -> u64 {
    2 * CONTEXT_BYTES + (8 << 30).min(memory_bytes / 8)
}

/// More are no faster: contexts are made one after the other.
const MAX_CHECKS: usize = 16;
const BATCH: usize = 4;
/// Timed for so much of the time a device is at its limit.
const FULL: f64 = 0.9;
/// Compiled kernels kept, bytes. A kernel takes some ten thousand.
const COMPILED_BYTES: usize = 256 << 20;
/// Referees of a GPU that stand by. Each holds some 500 MB, most of it shared with the others.
const SPARES: usize = 3;

/// One device and its referee. Shared by the executors that use it.
pub struct Device {
    config: DeviceConfig,
    inventory: Arc<dyn Inventory>,
    gpu: Option<Gpu>,
    harness: tempfile::TempDir,
    referee: Mutex<Option<DeviceReferee>>,
    /// Those that have imported everything, or are about to, and have no context yet; the oldest first.
    spares: StdMutex<VecDeque<DeviceReferee>>,
    pub(crate) gate: Gate,
    checks: usize,
    next_session: AtomicU64,
    /// Referees that there have been. Each knows its own sessions only.
    referees: AtomicU64,
    /// Sessions whose evaluation ended: closed before the next question.
    closed: StdMutex<Vec<u64>>,
    /// By task and versions (`key_of`).
    baselines: StdMutex<HashMap<String, Baseline>>,
    /// The zygotes whose children are ours.
    zygotes: StdMutex<BTreeSet<u32>>,
    /// What the referee found when it started.
    facts: StdMutex<Value>,
    compiled: StdMutex<Cache>,
    slots: StdMutex<Slots>,
    began: Instant,
    /// Since when it is quarantined, and for the how manieth time in a row.
    quarantined: StdMutex<Option<(Instant, u32)>>,
    /// Leases that nobody holds any more and nobody has ended.
    given_up: StdMutex<Vec<LeaseId>>,
    /// What was on it when the slot was leased.
    leased: StdMutex<slot::Leased>,
    /// NVML's numbers of processes are not this machine's.
    hidden: AtomicBool,
}

impl Device {
    /// Starts the referee and waits until it has a context.
    ///
    /// # Errors
    /// No such GPU, no driver, no memory; the referee's own faults.
    pub async fn start(config: DeviceConfig, inventory: Arc<dyn Inventory>) -> Result<Device, Fault> {
        let gpu = match config.kind.uuid() {
            None => None,
            Some(uuid) => {
                let devices = inventory.devices().map_err(|e| fault(DEVICE, e))?;
                let found = devices.iter().find(|d| d.uuid == *uuid).cloned();
                let known = || devices.iter().map(|d| d.uuid.as_str()).collect::<Vec<_>>().join(", ");
                Some(found.ok_or_else(|| fault(DEVICE, format!("no GPU {uuid}, found: {}", known())))?)
            }
        };
        if let Some(gpu) = &gpu {
            own::free(&config, gpu, &*inventory).await?;
        }
        let before = gpu.as_ref().and_then(|gpu| inventory.read(&gpu.uuid).ok());
        let device = Device::of(config, inventory, gpu)?;
        drop(device.referee().await?);
        device.compare_numbers(before).await;
        device.join().await?;
        Ok(device)
    }

    /// One whose referee has not been started.
    fn of(mut config: DeviceConfig, inventory: Arc<dyn Inventory>, gpu: Option<Gpu>) -> Result<Device, Fault> {
        config.scratch = std::path::absolute(&config.scratch).map_err(|e| fault(SCRATCH, e))?;
        std::fs::create_dir_all(&config.scratch).map_err(|e| fault(SCRATCH, e))?;
        let harness = tempfile::Builder::new().prefix("device-").tempdir_in(&config.scratch);
        let harness = harness.map_err(|e| fault(SCRATCH, e))?;
        harness::unpack(harness.path()).map_err(|e| fault(SCRATCH, e))?;
        if let (Some(gpu), 1..) = (&gpu, config.lock_sm_mhz)
            && let Err(e) = inventory.lock_clocks(&gpu.uuid, config.lock_sm_mhz)
        {
            tracing::warn!("clocks stay as they are: {e}");
        }
        let checks = match (&gpu, config.checks) {
            (_, n @ 1..) => n,
            (None, 0) => 1,
            (Some(gpu), 0) => {
                let used = inventory.read(&gpu.uuid).map_err(|e| fault(DEVICE, e))?.memory_used_bytes;
                let free = gpu.memory_bytes.saturating_sub(used).saturating_sub(reserve(gpu.memory_bytes));
                let free = if config.tenant.is_some() { free / 2 } else { free };
                ((free / (CONTEXT_BYTES + 2 * config.box_bytes)) as usize).clamp(1, MAX_CHECKS)
            }
        };
        let gate = Gate::new(GateConfig { shared: checks, batch: BATCH, patience: 2 * checks }, config.tenant.clone());
        Ok(Device {
            config,
            inventory,
            gpu,
            harness,
            referee: Mutex::new(None),
            spares: StdMutex::default(),
            gate,
            checks,
            next_session: AtomicU64::new(0),
            referees: AtomicU64::new(0),
            closed: StdMutex::default(),
            baselines: StdMutex::default(),
            zygotes: StdMutex::default(),
            facts: StdMutex::default(),
            compiled: StdMutex::new(Cache::new(COMPILED_BYTES)),
            slots: StdMutex::new(slot::slots()),
            began: Instant::now(),
            quarantined: StdMutex::default(),
            given_up: StdMutex::default(),
            leased: StdMutex::default(),
            hidden: AtomicBool::new(false),
        })
    }

    /// What a zygote is told, so that its children can use this device.
    pub(crate) fn wire(&self) -> Value {
        match (&self.gpu, &self.config.kind) {
            (None, _) | (_, Kind::Processor(_)) => json!({"nodes": [], "environment": {}, "cpus": []}),
            (Some(gpu), _) => {
                let node = format!("/dev/nvidia{}", gpu.minor);
                json!({
                    "nodes": [node, "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"],
                    "environment": self.environment(),
                    "cpus": gpu.cpus,
                })
            }
        }
    }

    fn environment(&self) -> HashMap<&str, &str> {
        let pinned = |gpu| [("CUDA_VISIBLE_DEVICES", gpu), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")];
        self.gpu.as_ref().map(|gpu| pinned(gpu.uuid.as_str())).into_iter().flatten().collect()
    }

    /// Memory that a candidate may allocate by itself, bytes: beside others a quarter of what there is, alone nearly all. One that
    /// takes everything would have the others' evaluations, and the referee, fail.
    pub(crate) fn own_bytes(&self, wanted: gate::Use) -> Option<u64> {
        let gpu = self.gpu.as_ref()?;
        // Beside a model a quarter of the memory is all that there is: the model must not run out of it.
        let there = if self.config.tenant.is_some() { gpu.memory_bytes / 4 } else { gpu.memory_bytes };
        let (box_bytes, all) = (self.config.box_bytes, there.saturating_sub(reserve(gpu.memory_bytes)));
        let share = match wanted {
            gate::Use::Shared => all / 4,
            gate::Use::Alone => all.saturating_sub(box_bytes),
        };
        Some(share.max(box_bytes))
    }

    /// The GPU's; `None` where the processor stands in.
    pub fn uuid(&self) -> Option<&str> {
        self.gpu.as_ref().map(|gpu| gpu.uuid.as_str())
    }

    /// Checks at once.
    pub fn checks(&self) -> usize {
        self.checks
    }

    /// Inside, waiting for a check, waiting to be timed.
    pub fn load(&self) -> (usize, usize, usize) {
        self.gate.load()
    }

    /// How long it was checked or timed on so far, and how long timed alone.
    pub fn busy(&self) -> (Duration, Duration) {
        self.gate.busy()
    }

    /// Whether its timing stage has been at its limit since `before`, which is moved on: candidates wait to be timed, or somebody was
    /// timed nearly all the time.
    pub fn saturated(&self, before: &mut Option<(Instant, Duration)>) -> bool {
        let (now, (_, alone)) = (Instant::now(), self.gate.busy());
        let share = before.replace((now, alone)).map_or(0.0, |(then, was)| {
            (alone.saturating_sub(was)).as_secs_f64() / now.duration_since(then).as_secs_f64().max(1e-3)
        });
        self.gate.load().2 >= BATCH || share > FULL
    }

    /// NVML's utilisation now; `None` where there is none.
    pub fn utilisation_percent(&self) -> Option<u32> {
        self.reading().map(|reading| reading.utilisation_percent)
    }

    /// Candidates whose compiled kernels are kept, and how often one of them came again.
    pub fn compiled(&self) -> (usize, u64) {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).counts()
    }

    /// The referee as it was last started, for drills: it may be gone already.
    pub fn running_referee(&self) -> Option<u32> {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }

    /// The referee's process, for tests that kill it.
    pub async fn referee_pid(&self) -> Option<u32> {
        self.referee.lock().await.as_ref().and_then(DeviceReferee::pid)
    }

    /// The referee, started where it is missing or dead.
    async fn referee(&self) -> Result<MutexGuard<'_, Option<DeviceReferee>>, Fault> {
        let mut held = self.referee.lock().await;
        if held.as_mut().is_some_and(|r| !r.is_alive()) {
            *held = None;
        }
        if held.is_none() {
            // Its sessions went with it.
            self.closed.lock().unwrap_or_else(PoisonError::into_inner).clear();
            let referee = {
                // It measures what an empty call takes.
                let _quiet = self.quiet().await?;
                self.new_referee().await?
            };
            *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = referee.facts.clone();
            self.referees.fetch_add(1, Ordering::Relaxed);
            *held = Some(referee);
        }
        Ok(held)
    }

    /// Where a candidate can bring a process down, several may go in a row: each suspicion takes one to prove the device.
    fn spares_wanted(&self) -> usize {
        if self.gpu.is_some() && matches!(self.config.kind, Kind::Cuda(_)) { SPARES } else { 1 }
    }

    async fn new_referee(&self) -> Result<DeviceReferee, Fault> {
        let kind = self.config.kind.name();
        let environment: Vec<_> = self.environment().into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let spawn = || DeviceReferee::spawn(&self.config.python, self.harness.path(), &environment);
        let alive = {
            let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
            spares.retain_mut(DeviceReferee::is_alive);
            spares.pop_front()
        };
        let next = match alive {
            Some(spare) => spare,
            None => spawn()?,
        };
        let cpus = self.gpu.as_ref().map_or(&[][..], |gpu| &gpu.cpus);
        let one_place = self.config.places == Places::One;
        let begun = next.begin(&self.config.secret, kind, cpus, one_place).await?;
        // Importing takes seconds, in which nobody is on the device: the next ones do it before they are needed.
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        while spares.len() < self.spares_wanted() {
            spares.push_back(spawn()?);
        }
        Ok(begun)
    }

    /// One question to the referee.
    pub(crate) async fn ask(&self, question: &Value) -> Result<Frame, Fault> {
        let mut held = self.referee().await?;
        self.asked(held.as_mut(), question).await?.ask(question).await
    }

    /// One whose answer is announced by a descriptor; and the how manieth referee it was that gave it.
    pub(crate) async fn ask_for_a_box(&self, question: &Value) -> Result<(Frame, OwnedFd, u64), Fault> {
        let mut held = self.referee().await?;
        let number = self.referees.load(Ordering::Relaxed);
        let referee = self.asked(held.as_mut(), question).await?;
        let frame = referee.ask(question).await?;
        Ok((frame, referee.receive_descriptor().await?, number))
    }

    /// The referee, rid of what nobody needs any more.
    async fn asked<'a>(
        &self,
        referee: Option<&'a mut DeviceReferee>,
        question: &Value,
    ) -> Result<&'a mut DeviceReferee, Fault> {
        let Some(referee) = referee else { return Err(fault(DEVICE, format!("no referee to ask {question}"))) };
        let closed = std::mem::take(&mut *self.closed.lock().unwrap_or_else(PoisonError::into_inner));
        for session in closed {
            referee.ask(&json!({"op": "close", "session": session})).await?;
        }
        Ok(referee)
    }

    /// Ends the referee; what it made on disk goes with the last owner.
    pub async fn shutdown(&self) {
        let spares = std::mem::take(&mut *self.spares.lock().unwrap_or_else(PoisonError::into_inner));
        for referee in self.referee.lock().await.take().into_iter().chain(spares) {
            referee.stop().await;
        }
        if let (Some(gpu), 1..) = (&self.gpu, self.config.lock_sm_mhz) {
            let _ = self.inventory.unlock_clocks(&gpu.uuid);
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({:?})", self.config.kind)
    }
}
