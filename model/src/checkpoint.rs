//! A learner on disk: weights, AdamW's moments, counters and the guard's memory, whole or not at all, and bit for bit the same after loading.
//!
//! A checkpoint is a folder with `state.safetensors` (`param/..`, `adam_m/..`, `adam_v/..`, f32) and `manifest.json` (format,
//! counters, SHA-256 of the other file and of all else it says). It is written beside its place, flushed to the disk, and renamed. With LoRA it holds the
//! adapters alone, and the digest of the base that they belong to.

mod lora;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use burn::module::{ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::{AdamWState, AdaptiveMomentumState};
use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend};
use rollout::id::Digest as HexDigest;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::ModelError;
use crate::host::weights::to_vec;
use crate::kernels::Kernels;
use crate::kernels::lasting;
use crate::learner::{Counters, Learner, hex};
use crate::optim::Optimizer;
use crate::weights::{self, Lazy, Weights};
pub use lora::LoraManifest;

const FORMAT: u32 = 1;
/// Of adapters: readers that know only whole networks refuse it by its number.
const LORA_FORMAT: u32 = 2;
const STATE: &str = "state.safetensors";
const MANIFEST: &str = "manifest.json";

/// What `manifest.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    pub format: u32,
    pub counters: Counters,
    /// What the numerical guard remembers.
    #[serde(default)]
    pub guard: crate::guard::Memory,
    /// Updates AdamW has counted, for its bias correction; 0 before the first.
    pub adam_time: u64,
    /// SHA-256 of `state.safetensors`.
    pub digest: HexDigest,
    /// Present where the state is that of adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraManifest>,
    /// SHA-256 of this manifest as compact JSON, without this entry. Older ones have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<HexDigest>,
}

impl CheckpointManifest {
    fn own_digest(&self) -> serde_json::Result<HexDigest> {
        let bare = serde_json::to_vec(&Self { whole: None, ..self.clone() })?;
        Ok(HexDigest(hex(&Sha256::digest(bare))))
    }
}

/// A checkpoint that could not be written or is not what it says. The learner is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} is not a checkpoint manifest: {source}")]
    Manifest { path: PathBuf, source: serde_json::Error },
    #[error("{path} has format {found}, this version reads {FORMAT} and {LORA_FORMAT}")]
    Format { path: PathBuf, found: u32 },
    #[error("{path} is damaged: its SHA-256 is {found}, the manifest says {expected}")]
    Digest { path: PathBuf, found: HexDigest, expected: HexDigest },
    #[error("{path}: {reason}")]
    Tensors { path: PathBuf, reason: String },
    #[error(
        "{path} holds {found}, this learner trains {expected}\n  hint: [lora] has to be what it was when the checkpoint was made"
    )]
    Trained { path: PathBuf, found: String, expected: String },
    #[error(
        "{path} belongs to a base with the SHA-256 {found}, expected {expected}, which is this learner's\n  hint: adapters are nothing without their own base: give the model that training began with (a run keeps it in `warm-start`)"
    )]
    Base { path: PathBuf, found: HexDigest, expected: HexDigest },
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    move |source| CheckpointError::Io { action, path, source }
}

impl<AB: AutodiffBackend + Kernels> Learner<AB> {
    /// Writes the checkpoint `dir`; one that is already there is replaced.
    pub fn save_checkpoint(&self, dir: &Path) -> Result<CheckpointManifest, CheckpointError> {
        self.save_in_turns(dir, || ())
    }

    /// [`Learner::save_checkpoint`], holding what `turn` returns while a tensor is read from the device and not while it is written: who
    /// shares the device with others has it for milliseconds at a time.
    ///
    /// # Errors
    /// The same.
    pub fn save_in_turns<T>(
        &self,
        dir: &Path,
        turn: impl Fn() -> T + Clone + 'static,
    ) -> Result<CheckpointManifest, CheckpointError> {
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(io("create", parent))?;
        let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let staging = parent.join(format!(".{name}.new-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&staging);
        std::fs::create_dir(&staging).map_err(io("create", &staging))?;
        let written = self.write_files(&staging, turn).and_then(|manifest| {
            publish(&staging, dir)?;
            sync(parent)?;
            Ok(manifest)
        });
        if written.is_err() {
            let _ = std::fs::remove_dir_all(&staging);
        }
        written
    }

    fn write_files<T>(
        &self,
        staging: &Path,
        turn: impl Fn() -> T + Clone + 'static,
    ) -> Result<CheckpointManifest, CheckpointError> {
        let (tensors, adam_time) = self.tensors();
        let tensors = tensors.into_iter().map(|tensor| tensor.in_turn(turn.clone())).collect();
        let path = staging.join(STATE);
        weights::write_each(&path, tensors).map_err(bad(&path))?;
        File::open(&path).and_then(|file| file.sync_all()).map_err(io("flush", &path))?;
        let digest = digest(&path)?;
        let lora = self.lora_manifest();
        let mut manifest = CheckpointManifest {
            format: if lora.is_some() { LORA_FORMAT } else { FORMAT },
            lora,
            counters: self.counters,
            guard: self.memory.clone(),
            adam_time,
            digest,
            whole: None,
        };
        let path = staging.join(MANIFEST);
        let bad = |source| CheckpointError::Manifest { path: path.clone(), source };
        manifest.whole = Some(manifest.own_digest().map_err(bad)?);
        let text = serde_json::to_vec_pretty(&manifest).map_err(bad)?;
        write(&path, &text)?;
        sync(staging)?;
        Ok(manifest)
    }

    /// Replaces weights, moments, counters and the guard's memory by those of `dir`. The network must have the same shape, or with LoRA
    /// be the same base.
    pub fn load_checkpoint(&mut self, dir: &Path) -> Result<CheckpointManifest, CheckpointError> {
        let path = dir.join(MANIFEST);
        let text = std::fs::read(&path).map_err(io("read", &path))?;
        let manifest: CheckpointManifest =
            serde_json::from_slice(&text).map_err(|source| CheckpointError::Manifest { path: path.clone(), source })?;
        if ![FORMAT, LORA_FORMAT].contains(&manifest.format) {
            return Err(CheckpointError::Format { path, found: manifest.format });
        }
        if let Some(expected) = &manifest.whole {
            let bad = |source| CheckpointError::Manifest { path: path.clone(), source };
            let found = manifest.own_digest().map_err(bad)?;
            if found != *expected {
                return Err(CheckpointError::Digest { path, found, expected: expected.clone() });
            }
        }
        self.check_trained(&path, manifest.lora.as_ref())?;
        let path = dir.join(STATE);
        let found = digest(&path)?;
        if found != manifest.digest {
            return Err(CheckpointError::Digest { path, found, expected: manifest.digest });
        }
        let stored = Weights::open_file(&path, "the checkpoint is not whole").map_err(bad(&path))?;
        let left = stored.names().map(str::to_owned).collect();
        let mut load =
            Load::<AB> { path: Vec::new(), stored, left, time: manifest.adam_time, state: HashMap::new(), error: None };
        let loaded = self.load_trained(&mut load);
        if let Some(error) = load.error {
            return Err(bad(&path)(error));
        }
        if let Some(name) = load.left.first() {
            let reason = format!("tensor `{name}` has no place in what this learner trains");
            return Err(CheckpointError::Tensors { path, reason });
        }
        self.set_trained(loaded);
        self.optimizer.state = load.state;
        self.counters = manifest.counters;
        self.memory = manifest.guard.clone();
        Ok(manifest)
    }

    /// Everything that is saved, each read when it is written, and AdamW's time.
    fn tensors(&self) -> (Vec<Lazy<'static>>, u64) {
        let mut save = Save { optimizer: &self.optimizer, path: Vec::new(), out: Vec::new(), time: 0 };
        self.visit_trained(&mut save);
        (save.out, save.time)
    }
}

struct Save<'a, AB: AutodiffBackend> {
    optimizer: &'a Optimizer<AB>,
    path: Vec<String>,
    out: Vec<Lazy<'static>>,
    time: u64,
}

impl<AB: AutodiffBackend> Save<'_, AB> {
    fn push(&mut self, kind: &str, shape: Vec<usize>, read: impl Fn() -> TensorData + 'static) {
        let name = format!("{kind}/{}", self.path.join("."));
        self.out.push(Lazy { name, shape, read: Box::new(move || to_vec(read())) });
    }
}

impl<AB: AutodiffBackend> ModuleVisitor<AB> for Save<'_, AB> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<AB, D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        self.push("param", shape.clone(), move || tensor.to_data());
        if let Some(state) = self.optimizer.state.get(&param.id) {
            self.time = state.momentum.time as u64;
            let (m, v) = (state.momentum.moment_1.clone(), state.momentum.moment_2.clone());
            self.push("adam_m", shape.clone(), move || m.to_data());
            self.push("adam_v", shape, move || v.to_data());
        }
    }
}

struct Load<AB: AutodiffBackend> {
    path: Vec<String>,
    stored: Weights,
    /// Names of what has not been taken yet.
    left: BTreeSet<String>,
    time: u64,
    state: HashMap<ParamId, AdamWState<AB::InnerBackend, 1>>,
    error: Option<ModelError>,
}

impl<AB: AutodiffBackend> Load<AB> {
    /// The stored tensor of this kind at this path, if there is one; its shape has to fit.
    fn take(&mut self, kind: &str, expected: &[usize]) -> Option<Vec<f32>> {
        let name = format!("{kind}/{}", self.path.join("."));
        if !self.left.remove(&name) {
            return None;
        }
        match self.stored.tensor(&name, expected) {
            Ok(values) => Some(values),
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }
}

impl<AB: AutodiffBackend> ModuleMapper<AB> for Load<AB> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<AB, D>>) -> Param<Tensor<AB, D>> {
        let (id, tensor, mapper) = param.consume();
        let (shape, device) = (tensor.dims(), tensor.device());
        let size: usize = shape.iter().product();
        let Some(values) = self.take("param", &shape) else {
            let (file, name) = (PathBuf::from(STATE), format!("param/{}", self.path.join(".")));
            let hint = "the checkpoint is of another network".to_string();
            self.error.get_or_insert(ModelError::MissingTensor { path: file, tensor: name, hint });
            return Param::from_mapped_value(id, tensor, mapper);
        };
        if let (Some(m), Some(v)) = (self.take("adam_m", &shape), self.take("adam_v", &shape)) {
            let flat = |values: Vec<f32>| lasting(TensorData::new(values, [size]), &device);
            let momentum = AdaptiveMomentumState {
                time: self.time as usize,
                moment_1: flat(m),
                moment_2: flat(v),
                max_moment_2: None,
            };
            self.state.insert(id, AdamWState::new(momentum));
        }
        let loaded = lasting::<AB::InnerBackend, D>(TensorData::new(values, shape), &device);
        Param::from_mapped_value(id, Tensor::from_inner(loaded).require_grad(), mapper)
    }
}

fn bad(path: &Path) -> impl FnOnce(ModelError) -> CheckpointError {
    let path = path.to_path_buf();
    move |source| CheckpointError::Tensors { path, reason: source.to_string() }
}

/// SHA-256 of a file, which need not fit into memory.
fn digest(path: &Path) -> Result<HexDigest, CheckpointError> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(io("read", path))?;
    let mut piece = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(io("read", path))? {
            0 => return Ok(HexDigest(hex(&hash.finalize()))),
            read => hash.update(&piece[..read]),
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let mut file = File::create(path).map_err(io("create", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.sync_all().map_err(io("flush", path))
}

fn sync(dir: &Path) -> Result<(), CheckpointError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io("flush", dir))
}

/// Renames `staging` to `dir`; what was there before is moved aside first and then deleted.
fn publish(staging: &Path, dir: &Path) -> Result<(), CheckpointError> {
    let old = staging.with_extension("old");
    let _ = std::fs::remove_dir_all(&old);
    let replaced = match std::fs::rename(dir, &old) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(io("replace", dir)(e)),
    };
    if let Err(e) = std::fs::rename(staging, dir) {
        if replaced {
            let _ = std::fs::rename(&old, dir);
        }
        return Err(io("rename to", dir)(e));
    }
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}
