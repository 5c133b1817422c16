//! The learner against transformers on the same weights: log-probs, loss and every gradient, in single precision and, on a GPU, in
//! bf16 beside PyTorch's own bf16, there over several batches. The references are made beforehand, for they need torch and transformers:
//!
//!     python tests/device/torch_parity_peer.py OUT [smollm2-135m=FOLDER]
//!     TROUPE_PARITY=OUT cargo test --release -p model --test learner transformers -- --nocapture
//!     TROUPE_PARITY=OUT cargo test --release -p model --features cuda --test device transformers -- --nocapture
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};
use model::Transformer;
use model::kernels::Kernels;
use model::learner::{Learner, SftSample};
use model::optim::OptimConfig;

/// What single precision may differ by: relative, and of log-probs `|a - b| / (1 + |b|)`.
const SINGLE: f64 = 1e-5;
/// Where transformers' own single precision is not within that: how much larger than its error ours may be.
const BESIDE: f64 = 1.2;
/// How much larger than PyTorch's own error in bf16 ours may be.
const HALF: f64 = 2.0;

/// One model, and the files of what transformers computes of each batch.
pub struct Case {
    pub name: String,
    pub folder: PathBuf,
    pub references: Vec<PathBuf>,
}

/// One batch's reference.
pub struct Batch {
    pub values: BTreeMap<String, Vec<f32>>,
    pub samples: Vec<SftSample>,
}

/// The references under `TROUPE_PARITY`; none, with a reason, without it.
pub fn cases() -> Vec<Case> {
    let Some(root) = std::env::var_os("TROUPE_PARITY") else {
        println!("skipped: TROUPE_PARITY names no folder of tests/device/torch_parity_peer.py");
        return Vec::new();
    };
    let mut folders: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders.iter().map(|folder| case(folder)).collect()
}

fn case(folder: &Path) -> Case {
    let reference = |n| folder.join(format!("reference-{n}.safetensors"));
    let references: Vec<_> = (0..).map(reference).take_while(|path| path.exists()).collect();
    assert!(!references.is_empty(), "{} holds no reference", folder.display());
    let elsewhere = std::fs::read_to_string(folder.join("folder.txt")).ok().map(|text| PathBuf::from(text.trim()));
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    Case { name, folder: elsewhere.unwrap_or_else(|| folder.to_path_buf()), references }
}

impl Case {
    /// The batches, one in memory at a time.
    pub fn batches(&self) -> impl Iterator<Item = Batch> {
        self.references.iter().map(|path| batch(path))
    }
}

fn numbers(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn batch(path: &Path) -> Batch {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let width = file.tensor("tokens").unwrap().shape()[1];
    let values: BTreeMap<String, Vec<f32>> =
        file.tensors().into_iter().map(|(name, view)| (name, numbers(view.data()))).collect();
    let prompt = values["prompt"][0] as usize;
    let row = |row: &[f32]| {
        let row: Vec<u32> = row.iter().map(|t| *t as u32).collect();
        SftSample { prompt: row[..prompt].to_vec(), tokens: row[prompt..].to_vec() }
    };
    let samples = values["tokens"].chunks(width).map(row).collect();
    Batch { values, samples }
}

/// What a learner found: the same names as the reference's, without the precision.
type Found = BTreeMap<String, Vec<f32>>;

/// One batch through a learner that `make` makes of the case's weights.
pub fn found<AB: AutodiffBackend + Kernels>(
    case: &Case,
    batch: &Batch,
    make: impl FnOnce(Transformer<AB>, OptimConfig) -> Learner<AB>,
) -> Found {
    let (config, network) = model::load_weights::<AB>(&case.folder, &Default::default()).unwrap();
    // AdamW's first moment after the first step is a tenth of the gradient; nothing is clipped.
    let optim = OptimConfig { beta1: 0.9, grad_clip: 0.0, ..OptimConfig::default() };
    let mut learner = make(network, optim);
    let mut found = Found::new();
    found.insert("logprobs".into(), learner.score(&batch.samples, 1.0).unwrap().concat());
    let report = learner.sft_step(&batch.samples, batch.samples.len()).unwrap();
    assert!(report.applied);
    found.insert("loss".into(), vec![report.loss as f32]);
    let gradients = learner.inference().map(&mut Moments::of(&learner));
    // By transformers' names and in its layout, as weights are saved.
    let dir = tempfile::tempdir().unwrap();
    model::save_weights(&dir.path().join("w"), &config, &gradients).unwrap();
    let bytes = std::fs::read(dir.path().join("w")).unwrap();
    for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
        found.insert(format!("grad.{name}"), numbers(view.data()));
    }
    found
}

/// Puts ten times AdamW's first moment in every parameter's place, in the module's order of names.
struct Moments {
    values: BTreeMap<String, Vec<f32>>,
    path: Vec<String>,
}

impl Moments {
    fn of<AB: AutodiffBackend + Kernels>(learner: &Learner<AB>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        learner.save_checkpoint(&dir.path().join("c")).unwrap();
        let bytes = std::fs::read(dir.path().join("c/state.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tenfold = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap()) * 10.0;
        let values = file.tensors().into_iter().filter_map(|(name, view)| {
            let name = name.strip_prefix("adam_m/")?.to_string();
            Some((name, view.data().chunks_exact(4).map(tenfold).collect()))
        });
        Self { values: values.collect(), path: Vec::new() }
    }
}

impl<B: Backend> ModuleMapper<B> for Moments {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let values = self.values.remove(&self.path.join(".")).expect("each parameter has a moment");
        let (id, tensor, mapper) = param.consume();
        let tensor = Tensor::<B, D>::from_data(TensorData::new(values, tensor.dims()), &tensor.device());
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// `|a - b|^2` and `|b|^2`.
fn squares(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let sum = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    (sum(&mut a.iter().zip(b).map(|(x, y)| f64::from(*x) - f64::from(*y))), sum(&mut b.iter().map(|y| f64::from(*y))))
}

/// `|a - b| / |b|`, Euclidean.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let (gap, size) = squares(a, b);
    (gap / size).sqrt()
}

/// The names of what is compared.
fn names(batch: &Batch) -> impl Iterator<Item = &str> {
    batch.values.keys().filter_map(|name| name.strip_prefix("fp64."))
}

/// In single precision everything is within 1e-5 of transformers in double precision on the same weights; where transformers' own
/// single precision is further off (gradients of a published model's norms, up to 1e-3), no further than about that. What misses this, if anything does.
#[must_use]
pub fn single(case: &Case, batch: &Batch, found: &Found) -> Option<String> {
    assert_eq!(names(batch).count(), found.len(), "{}: as many tensors", case.name);
    let of = |kind: &str, name: &str| &batch.values[&format!("{kind}.{name}")];
    let gaps = |name: &str| (error(&found[name], of("fp64", name)), error(of("fp32", name), of("fp64", name)));
    let largest = |take: fn((f64, f64)) -> f64| {
        let all = names(batch).filter(|name| name.starts_with("grad.")).map(|name| (take(gaps(name)), name));
        all.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    };
    let (ours, theirs) = (largest(|g| g.0), largest(|g| g.1));
    println!(
        "{} fp32, relative errors to fp64 (transformers' own fp32): log-probs {:.1e} ({:.1e}), loss {:.1e} ({:.1e}), the worst of \
         {} gradients {:.1e} of {} ({:.1e} of {})",
        case.name,
        gaps("logprobs").0,
        gaps("logprobs").1,
        gaps("loss").0,
        gaps("loss").1,
        found.len() - 2,
        ours.0,
        ours.1,
        theirs.0,
        theirs.1
    );
    let miss =
        names(batch).map(|name| (name, gaps(name))).find(|(_, (ours, theirs))| *ours >= SINGLE.max(BESIDE * theirs));
    miss.map(|(name, (ours, theirs))| {
        format!("{} fp32: {name} is off by {ours:e}, transformers' own fp32 by {theirs:e}", case.name)
    })
}

/// In bf16 nothing is further from transformers in double precision than twice as far as PyTorch's bf16 is, both over all batches.
/// Of one batch alone that would hold ours against PyTorch's luck: a norm's weight has few numbers, whose errors go together. What misses this, if anything does.
#[must_use]
pub fn half(case: &Case, mut find: impl FnMut(&Batch) -> Found) -> Option<String> {
    // By name: squares of our error, of PyTorch's, of the value.
    let mut sums = BTreeMap::<String, (f64, f64, f64)>::new();
    for batch in case.batches() {
        let found = find(&batch);
        let of = |kind: &str, name: &str| &batch.values[&format!("{kind}.{name}")];
        for name in names(&batch) {
            let sum = sums.entry(name.to_string()).or_default();
            let (ours, size) = squares(&found[name], of("fp64", name));
            *sum = (sum.0 + ours, sum.1 + squares(of("bf16", name), of("fp64", name)).0, sum.2 + size);
        }
    }
    // The loss, one number a batch, is held to the error of the log-probs that it is the mean of.
    let logprobs = sums["logprobs"];
    let mut all: Vec<(f64, &str, f64, f64)> = sums
        .iter()
        .map(|(name, &(ours, theirs, size))| {
            let like = if name == "loss" { logprobs } else { (ours, theirs, size) };
            let (ours, theirs) = ((ours / size).sqrt(), (like.1 / like.2).sqrt());
            (ours / theirs, name.as_str(), ours, theirs)
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let median = all[all.len() / 2].0;
    println!(
        "{} bf16, {} batches: our error over PyTorch's own is {median:.2} in the median; the largest:",
        case.name,
        case.references.len()
    );
    for (ratio, name, ours, theirs) in all.iter().rev().take(4) {
        println!("  {ratio:.2} ({name}: {ours:.1e} and {theirs:.1e})");
    }
    let (worst, name, ..) = all[all.len() - 1];
    (worst > HALF).then(|| format!("{} bf16: {name} is {worst:.2} times as far off as PyTorch's", case.name))
}
