//! What there is to know of a host's GPUs, behind one trait.

use serde::{Deserialize, Serialize};

/// One GPU. What a driver does not tell is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `GPU-..`, what `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
    pub index: u32,
    /// `N` of `/dev/nvidiaN`.
    pub minor: u32,
    pub name: String,
    pub memory_bytes: u64,
    /// Compute capability.
    pub capability: Option<(u32, u32)>,
    pub pci: String,
    pub numa: Option<u32>,
    /// Processors beside it.
    pub cpus: Vec<u32>,
    pub mig: bool,
    pub sm_mhz_max: u32,
    pub memory_mhz_max: u32,
    /// Width of the memory bus, bits.
    pub bus_bits: Option<u32>,
}

/// A process on a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub memory_bytes: Option<u64>,
    pub graphics: bool,
}

/// Why clocks are below their highest, as NVML's bit mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle(pub u64);

/// Reasons that slow kernels down; idle clocks, application clocks, display and sync boost do not count.
const SLOWING: [(u64, &str); 5] = [
    (0x4, "software power cap"),
    (0x8, "hardware slowdown"),
    (0x20, "software thermal slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "hardware power brake"),
];

impl Throttle {
    /// The active ones that slow kernels down, in words.
    pub fn reasons(self) -> Vec<&'static str> {
        SLOWING.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| *name).collect()
    }
}

/// One look at a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub utilisation_percent: u32,
    pub memory_used_bytes: u64,
    pub sm_mhz: u32,
    pub memory_mhz: u32,
    pub power_mw: u32,
    pub temperature_c: u32,
    pub throttle: Throttle,
    /// `None` where NVML tells none: some containers, MIG.
    pub processes: Option<Vec<Process>>,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    #[error("no NVIDIA driver answers: {0} (expected libnvidia-ml.so.1 and a loaded driver)")]
    NoDriver(String),
    #[error("there is no GPU {0}")]
    Unknown(String),
    #[error("GPU {uuid}: {what}: {message}")]
    Failed { uuid: String, what: &'static str, message: String },
}

/// The GPUs of one host.
pub trait Inventory: Send + Sync {
    /// All of them, by index.
    ///
    /// # Errors
    /// The driver does not answer.
    fn devices(&self) -> Result<Vec<Device>, InventoryError>;

    /// One look at the GPU with this UUID.
    ///
    /// # Errors
    /// No such GPU, or the driver does not answer.
    fn read(&self, uuid: &str) -> Result<Reading, InventoryError>;

    /// Locks the clock of its multiprocessors. Needs root; nobody calls it unless it was asked for.
    ///
    /// # Errors
    /// Not permitted, or not supported.
    fn lock_clocks(&self, uuid: &str, sm_mhz: u32) -> Result<(), InventoryError>;

    /// Takes that back.
    ///
    /// # Errors
    /// As `lock_clocks`.
    fn unlock_clocks(&self, uuid: &str) -> Result<(), InventoryError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted bug: a GPU that idles is called throttled, because "idle" is a reason too.
    #[test]
    fn an_idle_gpu_is_not_throttled() {
        assert_eq!(Throttle(0x1 | 0x2 | 0x10 | 0x100).reasons(), Vec::<&str>::new());
        assert_eq!(Throttle(0x44).reasons(), ["software power cap", "hardware thermal slowdown"]);
    }
}
