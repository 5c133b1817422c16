//! TensorBoard event files: the numbers of every step, and what sources said over time (at seconds since the run began).
//!
//! A file is a sequence of records: length (u64), its checksum, an `Event` message, its checksum; little-endian, CRC-32C,
//! masked so that a checksum of checksums is no trivial one.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::ExportError;
use crate::inspect::Run;

/// Samples of one read.
const CHUNK: usize = 5_000;

/// `tensorboard.Event`, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    #[prost(int64, tag = "2")]
    pub step: i64,
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Scalar {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(float, tag = "2")]
    pub simple_value: f32,
}

/// Writes the run's event file into `folder`, which is made; its path, and how many events it holds.
///
/// # Errors
/// The store cannot be read, or the file not be written.
pub fn write(run: &Run, folder: &Path) -> Result<(PathBuf, usize), ExportError> {
    std::fs::create_dir_all(folder)?;
    let reader = run.reader()?;
    let began = reader.meta("started_at")?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let path = folder.join(format!("events.out.tfevents.{:010}.troupe", began / 1000));
    let mut out = BufWriter::new(std::fs::File::create(&path)?);
    let first =
        Event { wall_time: began as f64 / 1000.0, file_version: Some("brain.Event:2".into()), ..Event::default() };
    record(&mut out, &first)?;
    let mut events = 1;
    for row in reader.steps()? {
        let numbers = [("learner", &row.report), ("batch", &row.batch)].into_iter().flat_map(|(part, value)| {
            let fields = value.as_object().into_iter().flatten();
            fields.filter_map(move |(name, value)| Some((format!("{part}/{name}"), value.as_f64()?)))
        });
        record(&mut out, &event(row.at_ms, row.step.0 as i64, numbers))?;
        events += 1;
    }
    reader.unmoved()?;
    let mut after = 0;
    loop {
        let samples = reader.samples_after(after, CHUNK)?;
        let Some(last) = samples.last() else { break };
        after = last.id;
        for sample in samples {
            let row = sample.row;
            let fields = row.value.as_object().into_iter().flatten();
            let numbers = fields.filter_map(|(name, value)| Some((format!("{}/{name}", row.source), value.as_f64()?)));
            record(&mut out, &event(row.at_ms, row.at_ms.saturating_sub(began) as i64 / 1000, numbers))?;
            events += 1;
        }
    }
    out.flush()?;
    Ok((path, events))
}

fn event(at_ms: u64, step: i64, numbers: impl Iterator<Item = (String, f64)>) -> Event {
    let value = numbers.map(|(tag, value)| Scalar { tag, simple_value: value as f32 }).collect();
    Event { wall_time: at_ms as f64 / 1000.0, step, file_version: None, summary: Some(Summary { value }) }
}

fn record(out: &mut impl Write, event: &Event) -> std::io::Result<()> {
    let data = event.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked(&length).to_le_bytes())?;
    out.write_all(&data)?;
    out.write_all(&masked(&data).to_le_bytes())
}

fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frame and the checksum's mask are TFRecord's: `rotate_right(crc, 15) + 0xa282ead8`.
    #[test]
    fn a_record_is_framed_and_its_event_comes_back() {
        let event = event(1_500, 7, [("learner/loss".to_string(), 0.25)].into_iter());
        let mut out = Vec::new();
        record(&mut out, &event).unwrap();
        let length = u64::from_le_bytes(out[..8].try_into().unwrap()) as usize;
        assert_eq!(out.len(), length + 16);
        assert_eq!(Event::decode(&out[12..12 + length]).unwrap(), event);
        assert_eq!(u32::from_le_bytes(out[12 + length..].try_into().unwrap()), masked(&out[12..12 + length]));
        // CRC-32C of "123456789" is 0xe3069283.
        assert_eq!(masked(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
