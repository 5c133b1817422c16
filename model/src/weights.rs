//! Tensors in and out of safetensors files: one file or a sharded set, f32, f16, bf16 or f64 on disk, f32 in memory.
//!
//! Only headers are held; a tensor's bytes are read when it is asked for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo, TensorView, View};
use serde_json::Value;

use crate::error::{ModelError, read_json};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The format's own limit on a header, bytes.
const HEADER_LIMIT: u64 = 100_000_000;

/// The tensors of one model folder.
pub struct Weights {
    /// The index, or the single file: where a missing tensor is missed.
    root: PathBuf,
    tensors: HashMap<String, Place>,
}

struct Place {
    file: PathBuf,
    /// Bytes from the start of the file.
    start: u64,
    info: TensorInfo,
}

impl Weights {
    /// Reads the headers of `model.safetensors`, or of all files that `model.safetensors.index.json` names.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        let mut tensors = HashMap::new();
        if single.exists() {
            read_header(&single, &mut tensors)?;
            return Ok(Self { root: single, tensors });
        }
        if !index.exists() {
            return Err(ModelError::MissingFile {
                path: single,
                hint: format!("neither {SINGLE} nor {INDEX} is in the folder; only safetensors weights are read"),
            });
        }
        let parsed = read_json(&index, "")?;
        let Some(map) = parsed.get("weight_map").and_then(Value::as_object) else {
            return Err(ModelError::BadKey {
                path: index,
                key: "weight_map".into(),
                found: "missing or no object".into(),
                expected: "an object from tensor to file name".into(),
                hint: "is the index complete?".into(),
            });
        };
        let bad = |tensor: &str, found: &str, expected: &str, hint: &str| ModelError::BadKey {
            path: index.clone(),
            key: format!("weight_map.{tensor}").into(),
            found: found.into(),
            expected: expected.into(),
            hint: hint.into(),
        };
        let mut shards: Vec<(&str, &str)> = Vec::with_capacity(map.len());
        for (tensor, file) in map {
            let Some(name) = file.as_str() else {
                return Err(bad(tensor, &file.to_string(), "the name of a shard", "is the index complete?"));
            };
            shards.push((tensor, name));
        }
        let mut files: Vec<&str> = shards.iter().map(|(_, file)| *file).collect();
        files.sort_unstable();
        files.dedup();
        for file in files {
            // A bare file name: an index must not reach outside its folder.
            if Path::new(file).file_name().and_then(|name| name.to_str()) != Some(file) {
                return Err(ModelError::BadKey {
                    path: index,
                    key: "weight_map".into(),
                    found: format!("{file:?}").into(),
                    expected: "file names without a folder".into(),
                    hint: "shards lie beside their index".into(),
                });
            }
            let path = dir.join(file);
            if !path.exists() {
                return Err(ModelError::MissingFile { path, hint: format!("{INDEX} names this shard; copy it too") });
            }
            read_header(&path, &mut tensors)?;
        }
        for (tensor, file) in shards {
            let hint = "index and shards are of different models or savings; copy all of them again";
            match tensors.get(tensor).and_then(|place| place.file.file_name()?.to_str()) {
                Some(found) if found == file => {}
                Some(other) => {
                    return Err(bad(tensor, &format!("{file:?}"), &format!("{other:?}, which holds it"), hint));
                }
                None => return Err(bad(tensor, &format!("{file:?}"), "a shard that holds this tensor", hint)),
            }
        }
        Ok(Self { root: index, tensors })
    }

    /// One file; `hint` is for the case that it is not there.
    pub fn open_file(path: &Path, hint: &str) -> Result<Self, ModelError> {
        if !path.exists() {
            return Err(ModelError::MissingFile { path: path.to_path_buf(), hint: hint.to_string() });
        }
        let mut tensors = HashMap::new();
        read_header(path, &mut tensors)?;
        Ok(Self { root: path.to_path_buf(), tensors })
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// In no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// One tensor, row-major, as f32. Its shape must be `shape`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let Some(place) = self.tensors.get(name) else {
            return Err(ModelError::MissingTensor {
                path: self.root.clone(),
                tensor: name.to_string(),
                hint: missing_hint(name).to_string(),
            });
        };
        let bad = |what, found: String, expected: String, hint: &str| ModelError::BadTensor {
            path: place.file.clone(),
            tensor: name.into(),
            what,
            found: found.into(),
            expected: expected.into(),
            hint: hint.into(),
        };
        if place.info.shape != shape {
            let (found, expected) = (format!("{:?}", place.info.shape), format!("{shape:?}"));
            return Err(bad("shape", found, expected, "the sizes in the config file do not match the weights"));
        }
        let width = match place.info.dtype {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => {
                let hint = "save the model in f32, f16 or bf16 first";
                return Err(bad("dtype", format!("{other:?}"), "F32, F16, BF16 or F64".into(), hint));
            }
        };
        let count: usize = shape.iter().product();
        let mut bytes = vec![0u8; count * width];
        let mut file = File::open(&place.file).map_err(ModelError::io("open", &place.file))?;
        file.seek(SeekFrom::Start(place.start)).map_err(ModelError::io("read", &place.file))?;
        file.read_exact(&mut bytes).map_err(ModelError::io("read", &place.file))?;
        Ok(to_f32(&bytes, place.info.dtype))
    }
}

fn missing_hint(name: &str) -> &'static str {
    if name == "lm_head.weight" {
        "config.json does not set tie_word_embeddings; set it to true if the head is the embedding"
    } else {
        "the config file and the weights are of different models, or a part is missing"
    }
}

/// Checks one file's header against its size and adds its tensors.
fn read_header(path: &Path, tensors: &mut HashMap<String, Place>) -> Result<(), ModelError> {
    let bad = |reason: String| ModelError::BadSafetensors { path: path.to_path_buf(), reason };
    let mut file = File::open(path).map_err(ModelError::io("open", path))?;
    let size = file.metadata().map_err(ModelError::io("read", path))?.len();
    let mut prefix = [0u8; 8];
    if size < 8 {
        return Err(bad(format!("it has {size} bytes, too few for a header")));
    }
    file.read_exact(&mut prefix).map_err(ModelError::io("read", path))?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > HEADER_LIMIT || header_len + 8 > size {
        return Err(bad(format!("its header should have {header_len} bytes, the whole file has {size}")));
    }
    let mut header = vec![0u8; header_len as usize];
    file.read_exact(&mut header).map_err(ModelError::io("read", path))?;
    let mut entries: HashMap<String, Value> =
        serde_json::from_slice(&header).map_err(|error| bad(format!("its header is not valid JSON ({error})")))?;
    entries.remove("__metadata__");
    let data = 8 + header_len;
    let mut expected_size = data;
    for (name, entry) in entries {
        let info: TensorInfo =
            serde_json::from_value(entry).map_err(|error| bad(format!("header entry `{name}`: {error}")))?;
        let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, n| bits.checked_mul(*n));
        if end < start || bits.map(|bits| bits as u64 / 8) != Some(end - start) {
            return Err(bad(format!("header entry `{name}`: offsets and shape disagree")));
        }
        let file_end = data.checked_add(end).ok_or_else(|| bad(format!("header entry `{name}`: offset overflow")))?;
        expected_size = expected_size.max(file_end);
        let place = Place { file: path.to_path_buf(), start: data + start, info };
        match tensors.entry(name) {
            Entry::Vacant(entry) => entry.insert(place),
            Entry::Occupied(first) => {
                return Err(ModelError::BadTensor {
                    path: path.to_path_buf(),
                    tensor: first.key().as_str().into(),
                    what: "a second copy in",
                    found: first.get().file.display().to_string().into(),
                    expected: "each tensor in one shard".into(),
                    hint: "shards of two savings are mixed in this folder; copy all of them again".into(),
                });
            }
        };
    }
    if expected_size != size {
        return Err(bad(format!("its header asks for {expected_size} bytes, the file has {size}")));
    }
    Ok(())
}

fn to_f32(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F64 => bytes
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16_to_f32(u16::from_le_bytes([b[0], b[1]]))).collect(),
        _ => bytes.chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect(),
    }
}

pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 0x1f), f32::from(half & 0x3ff));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// A tensor on its way to a file.
pub struct Named {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// A tensor that is read when its turn in the file comes, so that one at a time is in memory.
pub struct Lazy<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    /// As many values as the shape says.
    pub read: Box<dyn Fn() -> Vec<f32> + 'a>,
}

impl<'a> Lazy<'a> {
    /// The same, holding what `turn` returns while it is read.
    pub fn in_turn<T>(self, turn: impl Fn() -> T + 'a) -> Lazy<'a> {
        let Lazy { name, shape, read } = self;
        let read = Box::new(move || {
            let _turn = turn();
            read()
        });
        Lazy { name, shape, read }
    }
}

impl View for &Lazy<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned((self.read)().into_iter().flat_map(f32::to_le_bytes).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}

/// Writes one safetensors file (f32), a tensor at a time.
pub fn write_each(path: &Path, tensors: Vec<Lazy<'_>>) -> Result<(), ModelError> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let views = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor));
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| ModelError::BadSafetensors {
        path: path.to_path_buf(),
        reason: format!("cannot write: {error}"),
    })
}

/// Writes one safetensors file (f32).
pub fn write(path: &Path, tensors: Vec<Named>) -> Result<(), ModelError> {
    let bad = |reason: String| ModelError::BadSafetensors { path: path.to_path_buf(), reason };
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|t| (t.name, t.shape, t.values.into_iter().flat_map(f32::to_le_bytes).collect()))
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (name, shape, data) in &bytes {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|error| bad(error.to_string()))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| bad(format!("cannot write: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_by_the_book() {
        for (bits, value) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0001, 5.960_464_5e-8), (0x3555, 0.333_251_95)]
        {
            assert_eq!(f16_to_f32(bits), value, "{bits:#06x}");
        }
        assert_eq!(f16_to_f32(0xfc00), f32::NEG_INFINITY);
        assert!(f16_to_f32(0x7e00).is_nan());
        assert_eq!(to_f32(&[0x80, 0x3f, 0x40, 0xc0], Dtype::BF16), vec![1.0, -3.0]);
    }
}
