//! Looks at each GPU about once a second, on a thread of its own: a driver that hangs holds up nobody else.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use sandbox::gpu::inventory::Inventory;
use serde_json::{Value, json};

use super::Logbook;

/// Rollouts on a device: checked or timed now, waiting to be checked, waiting to be timed.
type Load = Box<dyn Fn() -> Option<(usize, usize, usize)> + Send>;

/// One GPU that is looked at. Executor `n` of this host works on the GPU at position `n % of`.
pub struct GpuSource {
    pub uuid: String,
    pub position: usize,
    pub of: usize,
    pub load: Load,
}

/// Owns the thread; dropping it ends it (one that hangs in the driver is left alone).
pub struct Sampler {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Looks at `gpus` every `period` and notes what it sees as `gpu N`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(
        inventory: Arc<dyn Inventory>,
        gpus: Vec<GpuSource>,
        book: Logbook,
        period: Duration,
    ) -> std::io::Result<Sampler> {
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::Builder::new().name("gpu-sampler".into()).spawn(move || {
            let known = inventory.devices().unwrap_or_default();
            loop {
                for gpu in &gpus {
                    let device = known.iter().find(|device| device.uuid == gpu.uuid);
                    let mut value = match inventory.read(&gpu.uuid) {
                        Ok(reading) => json!({
                            "sm_mhz": reading.sm_mhz, "memory_mhz": reading.memory_mhz,
                            "power_w": f64::from(reading.power_mw) / 1000.0, "temperature_c": reading.temperature_c,
                            "utilisation_percent": reading.utilisation_percent,
                            "memory_used_bytes": reading.memory_used_bytes, "throttle": reading.throttle.reasons(),
                        }),
                        Err(error) => json!({ "error": error.to_string() }),
                    };
                    value["uuid"] = json!(gpu.uuid);
                    value["position"] = json!(gpu.position);
                    value["of"] = json!(gpu.of);
                    if let Some(device) = device {
                        value["name"] = json!(device.name);
                        value["memory_bytes"] = json!(device.memory_bytes);
                    }
                    if let Some((inside, to_check, to_time)) = (gpu.load)() {
                        value["inside"] = json!(inside);
                        value["waiting_to_check"] = json!(to_check);
                        value["waiting_to_time"] = json!(to_time);
                    }
                    let number: Value = device.map_or(json!(gpu.position), |device| json!(device.index));
                    book.sample(format!("gpu {number}"), value);
                }
                match stopped.recv_timeout(period) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Sampler { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Between two looks it ends at once.
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
