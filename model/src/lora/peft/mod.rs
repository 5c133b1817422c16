//! PEFT's adapter folder, out and in: `adapter_config.json` and `adapter_model.safetensors`.

mod read;
mod write;

pub use read::read;
pub use write::write;

use super::config::Target;

pub const CONFIG: &str = "adapter_config.json";
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// The name of one tensor; `part` is `lora_A` or `lora_B`.
fn tensor_name(layer: usize, target: Target, part: &str) -> String {
    format!("base_model.model.model.layers.{layer}.{}.{}.{part}.weight", target.block(), target.name())
}
