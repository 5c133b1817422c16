//! The GPUs of this host that executors check and time on: found through NVML, each started when it is first needed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rollout::outcome::Fault;
use sandbox::device::{Device, DeviceConfig, DeviceLimits, Kind, Places, Tenant};
use sandbox::gpu::contamination::Limits;
use sandbox::gpu::fake::FakeInventory;
use sandbox::gpu::free::FreePolicy;
use sandbox::gpu::inventory::Inventory;
use sandbox::gpu::nvml::NvmlInventory;
use sandbox::gpu::timing::SamplerConfig;
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::crew::Saturated;
use crate::errors::UserError;
use crate::logbook::{GpuSource, Logbook, Sampler};
use crate::store::StoreHandle;

/// How often the GPUs are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Devices shared by executors, by turns.
pub struct Gpus {
    inventory: Arc<dyn Inventory>,
    configs: Vec<DeviceConfig>,
    started: Vec<OnceCell<Arc<Device>>>,
}

impl Gpus {
    /// The GPUs that `gpu.devices` names; `None` where it names none. `processor` is this machine's, in a GPU's place: all
    /// stages, kernels interpreted at small sizes, times that say nothing.
    ///
    /// # Errors
    /// No driver, or no such GPU.
    pub fn find(
        config: &Config,
        python: &Path,
        scratch: &Path,
        secret: [u8; 32],
    ) -> Result<Option<Arc<Gpus>>, UserError> {
        let wanted = config.gpu.devices.trim();
        if wanted == "none" {
            return Ok(None);
        }
        if wanted == "processor" {
            // Of times that say nothing a few will do.
            let sampler = SamplerConfig { min_samples: 2, max_samples: 4, ..SamplerConfig::default() };
            let disturbed = Limits { host_longer: (1e6, 1e9), uneven: (1e6, 1e9), ..Limits::default() };
            let config = device_config(config, Kind::Processor(None), python, scratch, secret);
            let config = DeviceConfig { sampler, disturbed, ..config };
            return Ok(Some(Arc::new(Gpus::of(Arc::new(FakeInventory::default()), vec![config]))));
        }
        let complain = |found: String| {
            UserError::new("the GPUs that candidates are timed on cannot be used")
                .at(format!("gpu.devices = {wanted:?}"))
                .found(found)
                .expected("\"none\", \"all\", \"processor\" (for tests), or UUIDs of GPUs of this machine, with commas between them")
                .hint("`troupe doctor` lists the GPUs that NVML sees")
        };
        let inventory = NvmlInventory::open().map_err(|e| complain(e.to_string()))?;
        let known = inventory.devices().map_err(|e| complain(e.to_string()))?;
        let uuids: Vec<String> = match wanted {
            "all" => {
                let (sliced, whole): (Vec<_>, Vec<_>) = known.iter().partition(|d| d.mig);
                for gpu in &sliced {
                    tracing::warn!(
                        "{} ({}) is not used: MIG is on, and its slices are not used one by one",
                        gpu.name,
                        gpu.uuid
                    );
                }
                whole.into_iter().map(|d| d.uuid.clone()).collect()
            }
            list => list.split(',').map(|u| u.trim().to_owned()).collect(),
        };
        if uuids.is_empty() {
            return Err(complain(match known.len() {
                0 => "no GPU".into(),
                n => format!("{n} GPUs, all of them in MIG mode: slices are not used one by one"),
            }));
        }
        if let Some(sliced) = known.iter().find(|d| d.mig && uuids.contains(&d.uuid)) {
            return Err(complain(format!("{} is in MIG mode: its slices are not used one by one", sliced.uuid)));
        }
        if let Some(unknown) = uuids.iter().find(|u| known.iter().all(|d| d.uuid != **u)) {
            let names: Vec<&str> = known.iter().map(|d| d.uuid.as_str()).collect();
            return Err(complain(format!("no GPU {unknown:?}; there are {}", names.join(", "))));
        }
        let configs = uuids.into_iter().map(|uuid| device_config(config, Kind::Cuda(uuid), python, scratch, secret));
        Ok(Some(Arc::new(Gpus::of(Arc::new(inventory), configs.collect()))))
    }

    /// The same before any of them has started, `tenant` at home on those that `lives_on` says.
    pub fn beside(mut self: Arc<Self>, tenant: &Tenant, lives_on: impl Fn(&Kind) -> bool) -> Arc<Self> {
        if let Some(gpus) = Arc::get_mut(&mut self) {
            gpus.configs.iter_mut().filter(|c| lives_on(&c.kind)).for_each(|c| c.tenant = Some(tenant.clone()));
        }
        self
    }

    /// The same.
    pub fn as_they_are(self: Arc<Self>) -> Arc<Self> {
        self
    }

    /// UUIDs, or what stands in for one.
    pub fn names(&self) -> Vec<&str> {
        fn name(config: &DeviceConfig) -> &str {
            match &config.kind {
                Kind::Cuda(uuid) => uuid,
                Kind::Processor(_) => "this machine's processor in a GPU's place (for tests)",
            }
        }
        self.configs.iter().map(name).collect()
    }

    /// The same before any of them has started: candidates are checked on them and not timed.
    pub fn untimed(mut self: Arc<Self>) -> Arc<Self> {
        if let Some(gpus) = Arc::get_mut(&mut self) {
            gpus.configs.iter_mut().for_each(|c| c.timed = false);
        }
        self
    }

    /// The same before any of them has started, for a control of the bench: the calls of a burst are all the same one.
    pub fn in_one_place(mut self: Arc<Self>) -> Arc<Self> {
        if let Some(gpus) = Arc::get_mut(&mut self) {
            gpus.configs.iter_mut().for_each(|c| c.places = Places::One);
        }
        self
    }

    /// These devices.
    pub fn of(inventory: Arc<dyn Inventory>, configs: Vec<DeviceConfig>) -> Gpus {
        let started = configs.iter().map(|_| OnceCell::new()).collect();
        Gpus { inventory, configs, started }
    }

    /// Looks at the GPUs among them about once a second; `None` where there is none, or no thread for it.
    pub fn watched(self: &Arc<Self>, store: &StoreHandle) -> Option<Sampler> {
        let of = self.configs.len();
        let source = |(position, config): (usize, &DeviceConfig)| {
            let Kind::Cuda(uuid) = &config.kind else { return None };
            let gpus = Arc::downgrade(self);
            let load = Box::new(move || Some(gpus.upgrade()?.started[position].get()?.load()));
            Some(GpuSource { uuid: uuid.clone(), position, of, load })
        };
        let sources: Vec<GpuSource> = self.configs.iter().enumerate().filter_map(source).collect();
        if sources.is_empty() {
            return None;
        }
        let complain = |error: &dyn std::fmt::Display| {
            tracing::warn!("the GPUs' clocks and temperatures are not noted: {error}");
        };
        let book = Logbook::start(store.clone()).inspect_err(|e| complain(e)).ok()?;
        Sampler::start(self.inventory.clone(), sources, book, LOOK).inspect_err(|e| complain(e)).ok()
    }

    /// Says whether every device that has started is at its limit in timing: more executors would wait there.
    pub fn saturation(self: Arc<Self>) -> Saturated {
        let before = Mutex::new(HashMap::new());
        Arc::new(move || {
            let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
            let mut started = self.started.iter().enumerate().filter_map(|(n, cell)| Some((n, cell.get()?))).peekable();
            let any = started.peek().is_some();
            // Each is asked, whatever the others say: it tells of the time since it was last asked.
            let free = started.filter(|(n, device)| !device.saturated(before.entry(*n).or_default())).count();
            any && free == 0
        })
    }

    pub fn count(&self) -> usize {
        self.configs.len()
    }

    /// The device of executor `number`, started where it is not yet.
    pub async fn of_executor(&self, number: usize) -> Result<Arc<Device>, Fault> {
        let n = number % self.configs.len();
        let start = || async { Ok(Arc::new(Device::start(self.configs[n].clone(), self.inventory.clone()).await?)) };
        self.started[n].get_or_try_init(start).await.cloned()
    }

    /// Ends the devices' own processes.
    pub async fn shutdown(&self) {
        for device in self.started.iter().filter_map(OnceCell::get) {
            device.shutdown().await;
        }
    }
}

/// The run file's limits on a candidate's steps on a device.
pub fn device_limits(config: &Config) -> DeviceLimits {
    DeviceLimits { call_ms: config.gpu.call_timeout_ms, ..DeviceLimits::default() }
}

/// The run file's settings for one device.
pub fn device_config(config: &Config, kind: Kind, python: &Path, scratch: &Path, secret: [u8; 32]) -> DeviceConfig {
    DeviceConfig {
        kind,
        python: python.to_owned(),
        scratch: scratch.join("devices"),
        secret,
        checks: config.gpu.checks,
        box_bytes: config.gpu.box_mb << 20,
        limits: device_limits(config),
        sampler: SamplerConfig::default(),
        timed: true,
        tries: config.gpu.timing_tries,
        disturbed: Default::default(),
        free: FreePolicy {
            memory_bytes: config.gpu.foreign_mb << 20,
            utilisation_percent: config.gpu.idle_percent,
            window_ms: config.gpu.idle_ms,
        },
        lock_sm_mhz: config.gpu.lock_sm_mhz,
        tenant: None,
        places: Places::Fresh,
    }
}
