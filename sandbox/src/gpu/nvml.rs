//! The host's GPUs through NVML. What a device does not support is left out, never an error of the whole reading.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::{GpuLockedClocksSetting, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;

use super::inventory::{Device, Inventory, InventoryError, Process, Reading, Throttle};

/// NVML, loaded once.
pub struct NvmlInventory {
    nvml: Nvml,
}

impl NvmlInventory {
    /// Loads the driver's library.
    ///
    /// # Errors
    /// There is none, or no driver behind it.
    pub fn open() -> Result<NvmlInventory, InventoryError> {
        let nvml = Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
        nvml.map(|nvml| NvmlInventory { nvml }).map_err(|e| InventoryError::NoDriver(e.to_string()))
    }

    fn device(&self, uuid: &str) -> Result<nvml_wrapper::Device<'_>, InventoryError> {
        self.nvml.device_by_uuid(uuid).map_err(|e| match e {
            NvmlError::NotFound | NvmlError::InvalidArg => InventoryError::Unknown(uuid.to_owned()),
            e => failed(uuid, "cannot be opened")(e),
        })
    }
}

fn failed(uuid: &str, what: &'static str) -> impl Fn(NvmlError) -> InventoryError {
    let uuid = uuid.to_owned();
    move |e| InventoryError::Failed { uuid: uuid.clone(), what, message: e.to_string() }
}

impl Inventory for NvmlInventory {
    fn devices(&self) -> Result<Vec<Device>, InventoryError> {
        let count = self.nvml.device_count().map_err(|e| InventoryError::NoDriver(e.to_string()))?;
        let mut found = Vec::new();
        for index in 0..count {
            // One that is not ours to see (a container has some) is left out.
            let Ok(device) = self.nvml.device_by_index(index) else { continue };
            let Ok(uuid) = device.uuid() else { continue };
            let memory_bytes = device.memory_info().map_err(failed(&uuid, "its memory"))?.total;
            let capability = device.cuda_compute_capability().ok();
            let pci = device.pci_info().map(|p| p.bus_id).unwrap_or_default();
            let words = std::thread::available_parallelism().map_or(1, |n| n.get()).div_ceil(64).max(16);
            found.push(Device {
                index,
                minor: device.minor_number().unwrap_or(index),
                name: device.name().unwrap_or_else(|_| "unnamed GPU".into()),
                memory_bytes,
                capability: capability.map(|c| (c.major.unsigned_abs(), c.minor.unsigned_abs())),
                numa: numa_node(&pci),
                pci,
                cpus: device.cpu_affinity(words).map(|mask| bits(&mask)).unwrap_or_default(),
                mig: device.mig_mode().is_ok_and(|mode| mode.current == 1),
                sm_mhz_max: device.max_clock_info(Clock::SM).unwrap_or(0),
                memory_mhz_max: device.max_clock_info(Clock::Memory).unwrap_or(0),
                bus_bits: device.memory_bus_width().ok(),
                uuid,
            });
        }
        Ok(found)
    }

    fn read(&self, uuid: &str) -> Result<Reading, InventoryError> {
        let device = self.device(uuid)?;
        let processes = match (device.running_compute_processes(), device.running_graphics_processes()) {
            (Ok(compute), graphics) => {
                let graphics = graphics.unwrap_or_default();
                Some(list(&compute, false).chain(list(&graphics, true)).collect())
            }
            (Err(_), _) => None,
        };
        Ok(Reading {
            utilisation_percent: device.utilization_rates().map(|u| u.gpu).unwrap_or(0),
            memory_used_bytes: device.memory_info().map_err(failed(uuid, "its memory"))?.used,
            sm_mhz: device.clock_info(Clock::SM).unwrap_or(0),
            memory_mhz: device.clock_info(Clock::Memory).unwrap_or(0),
            power_mw: device.power_usage().unwrap_or(0),
            temperature_c: device.temperature(TemperatureSensor::Gpu).unwrap_or(0),
            throttle: Throttle(device.current_throttle_reasons().map(|r| r.bits()).unwrap_or(0)),
            processes,
        })
    }

    fn lock_clocks(&self, uuid: &str, sm_mhz: u32) -> Result<(), InventoryError> {
        let setting = GpuLockedClocksSetting::Numeric { min_clock_mhz: sm_mhz, max_clock_mhz: sm_mhz };
        let mut device = self.device(uuid)?;
        device.set_gpu_locked_clocks(setting).map_err(failed(uuid, "its clocks cannot be locked"))
    }

    fn unlock_clocks(&self, uuid: &str) -> Result<(), InventoryError> {
        let mut device = self.device(uuid)?;
        device.reset_gpu_locked_clocks().map_err(failed(uuid, "its clocks cannot be unlocked"))
    }
}

fn list(processes: &[ProcessInfo], graphics: bool) -> impl Iterator<Item = Process> {
    processes.iter().map(move |p| Process {
        pid: p.pid,
        memory_bytes: match p.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
        graphics,
    })
}

/// `-1` is a machine without NUMA.
fn numa_node(pci: &str) -> Option<u32> {
    // NVML has eight digits for the domain, the kernel four.
    let name = pci.to_lowercase();
    let name = name.get(name.len().checked_sub(12)?..)?;
    std::fs::read_to_string(format!("/sys/bus/pci/devices/{name}/numa_node")).ok()?.trim().parse().ok()
}

fn bits<T: Copy + Into<u64>>(mask: &[T]) -> Vec<u32> {
    let width = 8 * size_of::<T>() as u32;
    let bit = |word: T, n: u32| word.into() >> n & 1 == 1;
    (0u32..)
        .zip(mask)
        .flat_map(|(at, &word)| (0..width).filter(move |&n| bit(word, n)).map(move |n| at * width + n))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affinity_mask_names_processors() {
        assert_eq!(bits(&[0b101u64, 1]), [0, 2, 64]);
        assert_eq!(bits(&[u32::MAX; 2]).len(), 64);
    }

    #[test]
    fn without_a_driver_the_error_says_what_is_missing() {
        if let Err(e) = NvmlInventory::open() {
            assert!(e.to_string().contains("libnvidia-ml.so.1"), "{e}");
        }
    }
}
