//! What no candidate can be faster than, and what none that does as the reference does can be: bytes over the memory's bandwidth,
//! operations over the arithmetic's peak.

use super::inventory::Device;

/// Below this share of the floor a time is not to be believed: bandwidths and peaks are rounded.
pub const MARGIN: f64 = 0.9;
/// Beyond this many times the reference somebody has to look first.
const AUDIT: f64 = 100.0;
/// A kernel takes longer than nothing, microseconds.
const KERNEL_US: f64 = 0.3;

/// Peak of dense matrix products, TFLOP/s, by compute capability and dtype (NVIDIA's datasheets and architecture papers: A100,
/// A40, L40S, H100 SXM, B200). float32 counts as TF32: a candidate may use it where the tolerance lets it.
const PEAKS: [(u32, u32, f64, f64, f64); 5] = [
    // major, minor, float32, float16 and bfloat16, float64
    (8, 0, 156.0, 312.0, 19.5),
    (8, 6, 75.0, 150.0, 1.2),
    (8, 9, 183.0, 366.0, 1.5),
    (9, 0, 494.7, 989.4, 67.0),
    (10, 0, 1125.0, 2250.0, 40.0),
];

/// A task's least time on a device, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Floor {
    /// For what is returned, as far as the cache does not hold it: everybody has to write that.
    pub out_us: f64,
    /// For the reference's inputs and weights too, each read once. Another algorithm may do without some.
    pub memory_us: f64,
    /// For the reference's products. Another algorithm may do without some.
    pub arithmetic_us: f64,
}

impl Floor {
    /// Of `bytes_out` as much as the cache holds may never reach memory.
    pub fn new(device: &Device, bytes_in: u64, bytes_out: u64, l2_bytes: u64, flops: u64, dtype: &str) -> Floor {
        // Two transfers a clock.
        let bandwidth = f64::from(device.memory_mhz_max) * 1e6 * 2.0 * f64::from(device.bus_bits.unwrap_or(0)) / 8.0;
        let us = |bytes: u64| if bandwidth > 0.0 { bytes as f64 / bandwidth * 1e6 } else { 0.0 };
        let written = bytes_out.saturating_sub(l2_bytes);
        let (out_us, memory_us) = (us(written), us(bytes_in.saturating_add(written)));
        let peak = device.capability.and_then(|(major, minor)| {
            let row = PEAKS.iter().rev().find(|p| p.0 == major && p.1 <= minor)?;
            Some(match dtype.trim_start_matches("torch.") {
                "float32" => row.2,
                "float16" | "bfloat16" => row.3,
                "float64" => row.4,
                // float8 and integers are faster than anything in the table.
                _ => row.3 * 4.0,
            })
        });
        let arithmetic_us = peak.map_or(0.0, |tflops| flops as f64 / (tflops * 1e12) * 1e6);
        Floor { out_us, memory_us, arithmetic_us }
    }

    /// What nobody can be faster than who does the reference's work.
    pub fn as_the_reference_us(&self) -> f64 {
        self.memory_us.max(self.arithmetic_us)
    }

    /// Why `candidate_us` is not to be believed, if it is not. `empty_us` is what a call that does nothing takes.
    pub fn implausible(&self, candidate_us: f64, reference_us: f64, empty_us: f64) -> Option<String> {
        if candidate_us < MARGIN * self.out_us {
            return Some(format!(
                "{candidate_us:.2} us where what it returns takes {:.2} us to write on this device",
                self.out_us
            ));
        }
        if candidate_us < empty_us + KERNEL_US {
            return Some(format!("{candidate_us:.2} us, a call that does nothing takes {empty_us:.2} us"));
        }
        (candidate_us * AUDIT < reference_us)
            .then(|| format!("{:.0} times as fast as the reference", reference_us / candidate_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100() -> Device {
        Device { capability: Some((9, 0)), memory_mhz_max: 2619, bus_bits: Some(5120), ..Device::default() }
    }

    #[test]
    fn bytes_over_bandwidth_and_operations_over_peak() {
        // 3.352 TB/s: an add of 16 Mi float32 reads 128 MiB.
        let add = Floor::new(&h100(), 2 << 26, 1 << 26, 50 << 20, 0, "torch.float32");
        assert!((add.memory_us - (134_217_728.0 + 67_108_864.0 - 52_428_800.0) / 3.35232e6).abs() < 0.01, "{add:?}");
        let product = Floor::new(&h100(), 0, 0, 0, 2 * 4096 * 4096 * 4096, "torch.bfloat16");
        assert!((product.arithmetic_us - 138.9).abs() < 0.2, "{product:?}");
    }

    #[test]
    fn only_what_cannot_be_is_implausible() {
        let floor = Floor { out_us: 40.0, memory_us: 80.0, arithmetic_us: 900.0 };
        assert_eq!(floor.as_the_reference_us(), 900.0);
        assert_eq!(floor.implausible(36.1, 100.0, 2.0), None);
        assert!(floor.implausible(35.9, 100.0, 2.0).unwrap().contains("40.00"));
        let none = Floor::default();
        assert_eq!(none.implausible(2.4, 100.0, 2.0), None);
        assert!(none.implausible(2.2, 100.0, 2.0).is_some());
        assert!(none.implausible(5.0, 501.0, 2.0).unwrap().contains("100 times"));
    }

    #[test]
    fn an_unknown_device_has_no_floor() {
        let floor = Floor::new(&Device::default(), 1 << 30, 0, 0, 1 << 50, "torch.float32");
        assert_eq!(floor, Floor::default());
    }
}
