//! How fast the GPU's memory is: by its data sheet and by a copy.

use std::time::Instant;

use cudarc::driver::sys::CUdevice_attribute as Attribute;

use crate::device::{Result, Runtime, driver};

/// Bytes per second.
#[derive(Clone, Copy, Debug)]
pub struct Bandwidth {
    /// Clock times width of the bus, twice (double data rate).
    pub nominal: f64,
    /// Read and written by a large copy.
    pub copied: f64,
}

const BYTES: usize = 1 << 30;
const COPIES: usize = 10;

impl Bandwidth {
    /// Takes 2 GiB for some milliseconds.
    pub fn measure(runtime: &Runtime) -> Result<Self> {
        let attribute =
            |which| runtime.context().attribute(which).map(f64::from).map_err(driver("ask for the memory's speed"));
        let khz = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let bits = attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        let (from, mut to) = (runtime.alloc("a copy", BYTES)?, runtime.alloc("a copy", BYTES)?);
        runtime.zero(runtime.whole(&from))?;
        let mut copy = || runtime.stream().memcpy_dtod(&from, &mut to).map_err(driver("copy on the GPU"));
        copy()?;
        runtime.synchronize()?;
        let began = Instant::now();
        for _ in 0..COPIES {
            copy()?;
        }
        runtime.synchronize()?;
        let seconds = began.elapsed().as_secs_f64();
        Ok(Self { nominal: khz * 1e3 * 2.0 * bits / 8.0, copied: (2 * BYTES * COPIES) as f64 / seconds })
    }
}
