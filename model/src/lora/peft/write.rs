//! Adapters as a folder that PEFT loads. The folder appears whole or not at all.

use std::path::Path;

use burn::tensor::backend::Backend;
use serde_json::{Value, json};

use super::{CONFIG, WEIGHTS, tensor_name};
use crate::error::ModelError;
use crate::lora::adapters::Adapters;
use crate::lora::config::{LoraConfig, Target};
use crate::lora::values;
use crate::save::{Staging, write_json};
use crate::weights::{self, Named};

/// Writes the folder `dir`; one that is already there is replaced. `base`: the model's folder or name, from which PEFT loads
/// what the adapter belongs to.
pub fn write<B: Backend>(
    dir: &Path,
    config: &LoraConfig,
    adapters: &Adapters<B>,
    base: &str,
) -> Result<(), ModelError> {
    let staging = Staging::new(dir)?;
    weights::write(&staging.path().join(WEIGHTS), named_tensors(adapters))?;
    write_json(&staging.path().join(CONFIG), &adapter_config(config, base))?;
    staging.finish(dir)
}

/// Every tensor under PEFT's name.
fn named_tensors<B: Backend>(adapters: &Adapters<B>) -> Vec<Named> {
    let mut out = Vec::new();
    for (layer, of_layer) in adapters.layers.iter().enumerate() {
        for target in Target::ALL {
            let Some(adapter) = of_layer.get(target) else { continue };
            let (a, b) = values(adapter);
            let named = |part, shape: [usize; 2], values| Named {
                name: tensor_name(layer, target, part),
                shape: shape.to_vec(),
                values,
            };
            out.push(named("lora_A", adapter.lora_a.dims(), a));
            out.push(named("lora_B", adapter.lora_b.dims(), b));
        }
    }
    out
}

fn adapter_config(config: &LoraConfig, base: &str) -> Value {
    // PEFT's type is a whole number, where it can be one.
    let alpha = if config.alpha.fract() == 0.0 && config.alpha < 1e15 {
        json!(config.alpha as u64)
    } else {
        json!(config.alpha)
    };
    let targets: Vec<&str> = config.targets.iter().map(|t| t.name()).collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": null,
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": alpha,
        "use_rslora": config.rslora,
        "use_dora": false,
        "lora_dropout": 0.0,
        "lora_bias": false,
        "bias": "none",
        "target_modules": targets,
        "exclude_modules": null,
        "modules_to_save": null,
        "layers_to_transform": null,
        "layers_pattern": null,
        "rank_pattern": {},
        "alpha_pattern": {},
        "fan_in_fan_out": false,
        "init_lora_weights": true,
    })
}
