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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use sandbox::gpu::fake::FakeInventory;
    use sandbox::gpu::inventory::{Device, Reading};

    use super::*;
    use crate::store::{Reader, StoreConfig, Writer};

    #[test]
    fn each_gpu_is_noted_with_what_it_reads_and_one_that_cannot_be_read_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
        let device = |n: u32| Device { uuid: format!("GPU-{n}"), index: n, name: "H200".into(), ..Device::default() };
        let inventory = FakeInventory::with([device(0), device(3)]);
        let reading = |sm_mhz| Reading { sm_mhz, power_mw: 350_500, temperature_c: 61, ..Reading::default() };
        inventory.script("GPU-0", [Ok(reading(1980)), Ok(reading(1500))]);
        inventory.script("GPU-3", [Err("lost".to_string())]);
        let source = |uuid: &str, position| GpuSource {
            uuid: uuid.into(),
            position,
            of: 2,
            load: Box::new(move || (position == 0).then_some((1, 2, 3))),
        };
        let gpus = vec![source("GPU-0", 0), source("GPU-3", 1)];
        let book = Logbook::start(writer.handle()).unwrap();
        let sampler = Sampler::start(Arc::new(inventory), gpus, book, Duration::from_millis(20)).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let seen = loop {
            let seen = Reader::open(dir.path()).unwrap().samples_after(0, 100).unwrap();
            if seen.len() >= 4 {
                break seen;
            }
            assert!(Instant::now() < until, "the GPUs were never noted");
            std::thread::sleep(Duration::from_millis(10));
        };
        drop(sampler);
        let said: Vec<(&str, &Value)> = seen.iter().map(|s| (s.row.source.as_str(), &s.row.value)).collect();
        assert_eq!((said[0].0, said[1].0, said[2].0), ("gpu 0", "gpu 3", "gpu 0"));
        assert_eq!((&said[0].1["sm_mhz"], &said[2].1["sm_mhz"]), (&json!(1980), &json!(1500)));
        assert_eq!((&said[0].1["power_w"], &said[0].1["waiting_to_time"]), (&json!(350.5), &json!(3)));
        assert!(said[1].1["error"].as_str().unwrap().contains("lost"), "{:?}", said[1]);
        writer.stop().unwrap();
    }
}
