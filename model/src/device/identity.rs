//! Which GPU is which: CUDA counts those that a process may see, NVML has names for all.

use cudarc::driver::CudaContext;

use super::{Result, driver};

/// NVML's name of CUDA's device `ordinal`, `GPU-..`.
pub fn uuid(ordinal: usize) -> Result<String> {
    crate::kernels::cuda::available()?;
    let context = CudaContext::new(ordinal).map_err(driver("open the GPU"))?;
    let bytes = context.uuid().map_err(driver("ask for the GPU's name"))?.bytes;
    Ok(named(bytes.map(|b| b as u8)))
}

/// The usual grouping: 8, 4, 4, 4 and 12 digits.
fn named(bytes: [u8; 16]) -> String {
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let [a, b, c, d, e] = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)].map(|(from, to)| &digits[from..to]);
    format!("GPU-{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_is_grouped_as_nvml_groups_it() {
        let bytes = [0x66, 0x31, 0x4e, 0x0e, 0xa4, 0xf4, 0xba, 0xd8, 0x07, 0x32, 0x72, 0x32, 0x0a, 0x09, 0xde, 0xa5];
        assert_eq!(super::named(bytes), "GPU-66314e0e-a4f4-bad8-0732-72320a09dea5");
    }
}
