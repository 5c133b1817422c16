//! A PEFT folder in. Which matrices have an adapter is read off the tensors; settings that change what they mean and that this
//! library does not have are refused, never ignored.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::backend::Backend;
use serde_json::{Map, Value};

use super::{CONFIG, WEIGHTS, tensor_name};
use crate::error::{ModelError, read_json};
use crate::lora::adapters::{Adapter, Adapters};
use crate::lora::config::{LoraConfig, Sizes, Target};
use crate::network::Transformer;
use crate::weights::Weights;

/// Keys that have to be missing, null, false, or empty.
const OFF: [&str; 17] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "exclude_modules",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// Ways to begin that leave the base as it is; the others (PiSSA, OLoRA, LoftQ, CorDA) belong to a changed one.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// Reads the adapters for `network`, on its device; f32, f16 and bf16 files.
pub fn read<B: Backend>(dir: &Path, network: &Transformer<B>) -> Result<(LoraConfig, Adapters<B>), ModelError> {
    let keys = Keys::open(dir)?;
    keys.refuse_what_is_not_built()?;
    let sizes = Sizes::of_network(network);
    let file = Weights::open_file(&dir.join(WEIGHTS), "an adapter folder holds it beside adapter_config.json")?;
    let layers = network.layers.len();
    let held = |layer, target| file.has(&tensor_name(layer, target, "lora_A"));
    let targets: Vec<Target> =
        Target::ALL.into_iter().filter(|target| (0..layers).any(|layer| held(layer, *target))).collect();
    let config = LoraConfig { rank: keys.rank()?, alpha: keys.alpha()?, targets, rslora: keys.flag("use_rslora") };
    keys.fits(&config, &sizes)?;
    let device = network.embed.val().device();
    let mut used = BTreeSet::new();
    let adapters = Adapters::build(&config, layers, |layer, target| {
        let [input, output] = sizes.of(target);
        let mut part = |part: &str, shape: [usize; 2]| {
            let name = tensor_name(layer, target, part);
            let values = file.tensor(&name, &shape)?;
            used.insert(name);
            Ok::<_, ModelError>(values)
        };
        let (a, b) = (part("lora_A", [config.rank, input])?, part("lora_B", [output, config.rank])?);
        Ok::<_, ModelError>(Adapter::new(a, b, config.rank, [input, output], &device))
    })?;
    if let Some(name) = file.names().filter(|name| !used.contains(*name)).min() {
        return Err(ModelError::BadTensor {
            path: dir.join(WEIGHTS),
            tensor: name.into(),
            what: "a place in",
            found: "no layer of this network".into(),
            expected: format!("names like {}", tensor_name(0, Target::QProj, "lora_A")).into(),
            hint: "only the seven matrices of the decoder layers can have an adapter; is it for another model?".into(),
        });
    }
    Ok((config, adapters))
}

/// `adapter_config.json`, with errors that name file and key.
struct Keys<'a> {
    dir: &'a Path,
    map: Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn open(dir: &'a Path) -> Result<Self, ModelError> {
        let root = read_json(
            &dir.join(CONFIG),
            "a PEFT adapter is a folder with adapter_config.json; is this the right one?",
        )?;
        match root {
            Value::Object(map) => Ok(Self { dir, map }),
            _ => {
                let empty = Self { dir, map: Map::new() };
                Err(empty.bad("(root)", "an object", "is the file complete?"))
            }
        }
    }

    fn bad(&self, key: &str, expected: &str, hint: &str) -> ModelError {
        ModelError::BadKey {
            path: self.dir.join(CONFIG),
            key: key.into(),
            found: self.map.get(key).map_or_else(|| "missing".to_string(), Value::to_string).into(),
            expected: expected.into(),
            hint: hint.into(),
        }
    }

    fn flag(&self, key: &str) -> bool {
        self.map.get(key) == Some(&Value::Bool(true))
    }

    fn refuse_what_is_not_built(&self) -> Result<(), ModelError> {
        if self.map.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(self.bad("peft_type", "\"LORA\"", "other kinds of adapters are not built"));
        }
        for key in OFF {
            let off = match self.map.get(key) {
                None | Some(Value::Null | Value::Bool(false)) => true,
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                Some(_) => false,
            };
            if !off {
                return Err(self.bad(
                    key,
                    "nothing",
                    "this variant of LoRA is not built; merge it with PEFT and load the model",
                ));
            }
        }
        if !matches!(self.map.get("bias").map(|bias| bias.as_str()), None | Some(Some("none"))) {
            return Err(self.bad(
                "bias",
                "\"none\"",
                "only A and B are trained; merge it with PEFT and load the model",
            ));
        }
        let plain = match self.map.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => true,
            Some(start) => start.as_str().is_some_and(|start| PLAIN_STARTS.contains(&start)),
        };
        if !plain {
            let hint = "such an adapter belongs to a changed base; convert it with PEFT's `save_pretrained` first";
            return Err(self.bad("init_lora_weights", "true, false or \"gaussian\"", hint));
        }
        Ok(())
    }

    fn rank(&self) -> Result<usize, ModelError> {
        let rank = self.map.get("r").and_then(Value::as_u64).filter(|r| *r > 0);
        rank.map(|r| r as usize).ok_or_else(|| self.bad("r", "a positive whole number", "is the file complete?"))
    }

    fn alpha(&self) -> Result<f64, ModelError> {
        let alpha = self.map.get("lora_alpha").and_then(Value::as_f64).filter(|a| *a > 0.0);
        alpha.ok_or_else(|| self.bad("lora_alpha", "a number above 0", "is the file complete?"))
    }

    fn fits(&self, config: &LoraConfig, sizes: &Sizes) -> Result<(), ModelError> {
        if config.targets.is_empty() {
            let hint = "the tensors' names have to be PEFT's, of a Llama, Qwen2 or Qwen3 model";
            return Err(self.bad(
                "target_modules",
                "matrices of the decoder layers, in adapter_model.safetensors",
                hint,
            ));
        }
        config.check(sizes).map_err(|error| self.bad("r", "a rank that fits this network", &error.to_string()))
    }
}
