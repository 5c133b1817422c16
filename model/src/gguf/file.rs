//! The container: header, metadata and the places of tensors of one GGUF file (versions 2 and 3, little-endian).
//!
//! Every length is held against what is left of the file before anything of that size is made. Only the header is read here; a
//! tensor's bytes are read when it is asked for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::quant::{self, Quant};
use crate::error::ModelError;

const MAGIC: [u8; 4] = *b"GGUF";
/// Version 1 has lengths of four bytes; nothing has been written in it since 2023.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// Where tensors begin when the file does not say: multiples of this many bytes.
const ALIGNMENT: u64 = 32;
/// A list entry takes up to 32 times its bytes in memory; the largest vocabularies have 300,000 tokens.
const LIST_LIMIT: u64 = 1 << 22;
/// Lists within lists; no key of a language model has any.
const DEPTH_LIMIT: usize = 4;
const DIMENSIONS: u32 = 4;
const DAMAGED: &str = "the file is truncated or damaged; copy or download it again";

/// One value of the metadata; all widths of numbers in one.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

/// Where a tensor lies.
#[derive(Debug)]
pub struct Entry {
    pub quant: Quant,
    /// Slowest axis first, as in safetensors: `[out, in]` for a matrix.
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    start: u64,
    /// Within the file: checked when it was opened.
    bytes: usize,
}

/// A file whose header was read and held against its size.
#[derive(Debug)]
pub struct GgufFile {
    pub path: PathBuf,
    pub keys: BTreeMap<String, Value>,
    pub tensors: HashMap<String, Entry>,
}

impl GgufFile {
    /// Reads the header. Fails on everything that does not fit into the file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(ModelError::io("open", path))?;
        let size = file.metadata().map_err(ModelError::io("read", path))?.len();
        let mut cursor = Cursor { reader: BufReader::new(file), path, size, left: size };
        let magic = cursor.bytes::<4>("magic number")?;
        if magic != MAGIC {
            let found = format!("{:?}", String::from_utf8_lossy(&magic));
            return Err(cursor.bad(
                "magic number",
                found,
                "\"GGUF\"",
                "this is another kind of file, whatever its name",
            ));
        }
        let version = cursor.u32("version")?;
        if !VERSIONS.contains(&version) {
            let hint = "files of version 1 and big-endian files are not read; convert the model anew";
            return Err(cursor.bad("version", version.to_string(), "2 or 3", hint));
        }
        let (tensor_count, key_count) = (cursor.u64("number of tensors")?, cursor.u64("number of keys")?);
        let mut keys = BTreeMap::new();
        // Counts are claims: a wrong one ends with the file, not with memory.
        for index in 0..key_count {
            let key = cursor.text(&format!("name of key {index}"))?;
            let place = format!("key `{key}`");
            let value = cursor.value(&place, None, 0)?;
            if keys.insert(key, value).is_some() {
                return Err(cursor.bad(&place, "there twice".into(), "one value", DAMAGED));
            }
        }
        let mut found = Vec::new();
        for index in 0..tensor_count {
            found.push(cursor.tensor(index)?);
        }
        let alignment = match keys.get("general.alignment") {
            None => ALIGNMENT,
            Some(&Value::Int(n)) if n > 0 && n <= 1 << 20 && n & (n - 1) == 0 => n as u64,
            Some(other) => {
                let found = shown(other);
                return Err(cursor.bad("key `general.alignment`", found, "a power of two up to 1048576", DAMAGED));
            }
        };
        let data = (size - cursor.left).div_ceil(alignment) * alignment;
        let mut tensors = HashMap::with_capacity(found.len());
        for (name, quant, shape, offset) in found {
            let place = format!("tensor `{name}`");
            let entry = locate(&cursor, &place, quant, shape, data, offset)?;
            if tensors.insert(name, entry).is_some() {
                return Err(cursor.bad(&place, "there twice".into(), "one tensor of that name", DAMAGED));
            }
        }
        Ok(Self { path: path.to_path_buf(), keys, tensors })
    }

    /// The values of a tensor, row-major, as f32.
    pub fn read(&self, entry: &Entry) -> Result<Vec<f32>, ModelError> {
        let mut raw = vec![0u8; entry.bytes];
        let mut file = File::open(&self.path).map_err(ModelError::io("open", &self.path))?;
        file.seek(SeekFrom::Start(entry.start)).map_err(ModelError::io("read", &self.path))?;
        file.read_exact(&mut raw).map_err(ModelError::io("read", &self.path))?;
        Ok(quant::to_f32(entry.quant, &raw))
    }
}

/// Bytes of a tensor, held against the file.
fn locate(
    cursor: &Cursor,
    place: &str,
    quant: Quant,
    shape: Vec<usize>,
    data: u64,
    offset: u64,
) -> Result<Entry, ModelError> {
    let row = shape.last().copied().unwrap_or(1);
    let (per_block, block_bytes) = quant.block();
    if row % per_block != 0 {
        let expected = format!("rows of a multiple of {per_block} values, a block of {quant:?}");
        return Err(cursor.bad(place, format!("of shape {shape:?}"), &expected, DAMAGED));
    }
    let count = shape.iter().try_fold(1usize, |count, n| count.checked_mul(*n));
    let bytes = count.and_then(|count| (count / per_block).checked_mul(block_bytes));
    let start = data.checked_add(offset);
    let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes as u64));
    match (start, bytes, end) {
        (Some(start), Some(bytes), Some(end)) if end <= cursor.size => Ok(Entry { quant, shape, start, bytes }),
        _ => {
            let found = format!("of shape {shape:?} in {quant:?} at byte {offset} of the data");
            let expected = format!("one that ends within the file's {} bytes (data begin at {data})", cursor.size);
            Err(cursor.bad(place, found, &expected, DAMAGED))
        }
    }
}

struct Cursor<'a> {
    reader: BufReader<File>,
    path: &'a Path,
    /// Bytes of the whole file.
    size: u64,
    /// Bytes not read yet.
    left: u64,
}

impl Cursor<'_> {
    fn bad(&self, place: &str, found: String, expected: &str, hint: &str) -> ModelError {
        ModelError::BadGguf {
            path: self.path.to_path_buf(),
            place: place.into(),
            found: found.into(),
            expected: expected.into(),
            hint: hint.into(),
        }
    }

    fn claim(&mut self, place: &str, bytes: u64) -> Result<(), ModelError> {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                let expected = format!("at most the {} bytes that are left of the file", self.left);
                return Err(self.bad(place, format!("{bytes} bytes long"), &expected, DAMAGED));
            }
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, place: &str) -> Result<[u8; N], ModelError> {
        self.claim(place, N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(ModelError::io("read", self.path))?;
        Ok(bytes)
    }

    fn u32(&mut self, place: &str) -> Result<u32, ModelError> {
        self.bytes(place).map(u32::from_le_bytes)
    }

    fn u64(&mut self, place: &str) -> Result<u64, ModelError> {
        self.bytes(place).map(u64::from_le_bytes)
    }

    fn text(&mut self, place: &str) -> Result<String, ModelError> {
        let length = self.u64(place)?;
        self.claim(place, length)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes).map_err(ModelError::io("read", self.path))?;
        String::from_utf8(bytes).map_err(|error| {
            let bytes = error.as_bytes();
            let found = format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
            self.bad(place, found, "UTF-8 text", DAMAGED)
        })
    }

    /// `code`: the type, where a list has told it before.
    fn value(&mut self, place: &str, code: Option<u32>, depth: usize) -> Result<Value, ModelError> {
        let code = match code {
            Some(code) => code,
            None => self.u32(place)?,
        };
        Ok(match code {
            0 => Value::Int(self.bytes::<1>(place)?[0].into()),
            1 => Value::Int(i8::from_le_bytes(self.bytes(place)?).into()),
            2 => Value::Int(u16::from_le_bytes(self.bytes(place)?).into()),
            3 => Value::Int(i16::from_le_bytes(self.bytes(place)?).into()),
            4 => Value::Int(self.u32(place)?.into()),
            5 => Value::Int(i32::from_le_bytes(self.bytes(place)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes(place)?).into()),
            7 => match self.bytes::<1>(place)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.bad(place, format!("the byte {other}"), "0 or 1, a truth value", DAMAGED)),
            },
            8 => Value::Text(self.text(place)?),
            9 => {
                let (code, length) = (self.u32(place)?, self.u64(place)?);
                // An entry has a byte at least.
                if length > LIST_LIMIT.min(self.left) || depth == DEPTH_LIMIT {
                    let found = format!("a list of {length} entries at depth {depth}");
                    let expected = format!(
                        "at most {LIST_LIMIT} entries, {DEPTH_LIMIT} levels and the {} bytes that are left of the file",
                        self.left
                    );
                    return Err(self.bad(place, found, &expected, DAMAGED));
                }
                let mut list = Vec::new();
                for _ in 0..length {
                    list.push(self.value(place, Some(code), depth + 1)?);
                }
                Value::List(list)
            }
            // No size or id comes near the end of the range.
            10 => Value::Int(i64::try_from(self.u64(place)?).unwrap_or(i64::MAX)),
            11 => Value::Int(i64::from_le_bytes(self.bytes(place)?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes(place)?)),
            other => return Err(self.bad(place, format!("of type {other}"), "a type from 0 to 12", DAMAGED)),
        })
    }

    fn tensor(&mut self, index: u64) -> Result<(String, Quant, Vec<usize>, u64), ModelError> {
        let name = self.text(&format!("name of tensor {index}"))?;
        let place = format!("tensor `{name}`");
        let rank = self.u32(&place)?;
        if rank > DIMENSIONS {
            return Err(self.bad(&place, format!("of {rank} axes"), "at most 4 axes", DAMAGED));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            let axis = self.u64(&place)?;
            let Ok(size) = usize::try_from(axis) else {
                return Err(self.bad(&place, format!("{axis} values long"), "a size of this machine", DAMAGED));
            };
            // Fastest axis first on disk.
            shape.insert(0, size);
        }
        let code = self.u32(&place)?;
        let Some(quant) = Quant::from_code(code) else {
            let hint = "take a file in one of these, for instance the Q8_0 or the Q4_K_M one of the same model";
            return Err(self.bad(&place, format!("of type {}", quant::name_of(code)), &quant::supported(), hint));
        };
        Ok((name, quant, shape, self.u64(&place)?))
    }
}

/// A short picture of a value for an error.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Int(n) => n.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Text(text) => match text.char_indices().nth(60) {
            Some((cut, _)) => format!("{:?}...", &text[..cut]),
            None => format!("{text:?}"),
        },
        Value::List(list) => format!("a list of {}", list.len()),
    }
}
