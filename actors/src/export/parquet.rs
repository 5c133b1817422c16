//! Tables as Parquet: optional columns of plain types, lists of tokens and log-probs, zstd. Rows are written in groups, so that
//! a run's answers need not fit in memory.

use std::io::Write;
use std::sync::Arc;

use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;

use rollout::outcome::Outcome;

use super::ExportError;
use crate::store::reader::{FaultEntry, RolloutDetail};
use crate::store::{StepRow, TokenScores};

/// Rows of one group.
const GROUP: usize = 1024;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int,
    Real,
    Flag,
    Text,
    /// A list of unsigned 32-bit numbers.
    Ints,
    /// A list of single-precision numbers.
    Reals,
}

/// One value; `None` is null.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    None,
    Int(i64),
    Real(f64),
    Flag(bool),
    Text(String),
    Ints(Vec<u32>),
    Reals(Vec<f32>),
}

/// A table's columns, in order.
pub type Columns = &'static [(&'static str, Kind)];

pub const ROLLOUTS: Columns = &[
    ("id", Kind::Int),
    ("phase", Kind::Text),
    ("group", Kind::Int),
    ("task", Kind::Text),
    ("seed", Kind::Text),
    ("attempt", Kind::Int),
    ("state", Kind::Text),
    ("ending", Kind::Text),
    ("step", Kind::Int),
    ("policy_oldest", Kind::Int),
    ("policy_newest", Kind::Int),
    ("finish", Kind::Text),
    ("n_tokens", Kind::Int),
    ("plan_tokens", Kind::Int),
    ("verdict", Kind::Text),
    ("reward_plan", Kind::Real),
    ("reward_code", Kind::Real),
    ("adv_plan", Kind::Real),
    ("adv_code", Kind::Real),
    ("sampled_at", Kind::Int),
    ("ended_at", Kind::Int),
    ("speedup", Kind::Real),
    ("timing_speedup", Kind::Real),
    ("prompt", Kind::Text),
    ("answer", Kind::Text),
    ("tokens", Kind::Ints),
    ("logprobs", Kind::Reals),
    ("learner_logprobs", Kind::Reals),
    ("entropies", Kind::Reals),
    ("spans", Kind::Text),
    ("ruling", Kind::Text),
    ("report", Kind::Text),
];
pub const STEPS: Columns = &[
    ("step", Kind::Int),
    ("policy", Kind::Int),
    ("applied", Kind::Flag),
    ("at", Kind::Int),
    ("report", Kind::Text),
    ("batch", Kind::Text),
];
pub const FAULTS: Columns =
    &[("rollout", Kind::Int), ("attempt", Kind::Int), ("code", Kind::Text), ("message", Kind::Text), ("at", Kind::Int)];

fn int<T: TryInto<i64>>(value: Option<T>) -> Cell {
    value.and_then(|v| v.try_into().ok()).map_or(Cell::None, Cell::Int)
}

fn real(value: Option<f64>) -> Cell {
    value.map_or(Cell::None, Cell::Real)
}

fn text(value: Option<impl Into<String>>) -> Cell {
    value.map_or(Cell::None, |v| Cell::Text(v.into()))
}

fn json(value: Option<&impl serde::Serialize>) -> Cell {
    text(value.and_then(|v| serde_json::to_string(v).ok()))
}

/// A row of [`ROLLOUTS`].
pub fn rollout(detail: &RolloutDetail, scores: Option<TokenScores>) -> Vec<Cell> {
    let (s, c) = (&detail.summary, detail.completion.as_ref());
    // What is paid for, and what was measured: of a tie 1, and of what was rejected after it was timed none.
    let speedup = detail.report.as_ref().and_then(|r| match r.outcome {
        Outcome::Passed { speedup } => speedup,
        _ => None,
    });
    let timing_speedup = detail.report.as_ref().and_then(|r| r.timing.as_ref()).map(|t| t.speedup);
    let (learner, entropies) = match scores {
        Some(scores) => (Cell::Reals(scores.logprobs), Cell::Reals(scores.entropies)),
        None => (Cell::None, Cell::None),
    };
    vec![
        int(Some(s.id)),
        text(Some(s.phase.as_str())),
        int(Some(s.group)),
        text(Some(s.task.0.as_str())),
        text(Some(detail.seed.to_string())),
        int(Some(s.attempt)),
        text(Some(s.state.as_str())),
        text(s.ending.as_deref()),
        int(s.step),
        int(s.policy_oldest),
        int(s.policy_newest),
        text(s.finish.as_deref()),
        int(s.n_tokens),
        int(s.plan_tokens),
        text(s.verdict.as_deref()),
        real(s.reward_plan),
        real(s.reward_code),
        real(s.adv_plan),
        real(s.adv_code),
        int(s.sampled_at),
        int(s.ended_at),
        real(speedup),
        real(timing_speedup),
        text(detail.prompt.as_deref()),
        text(c.map(|c| c.text.as_str())),
        c.map_or(Cell::None, |c| Cell::Ints(c.tokens.clone())),
        c.map_or(Cell::None, |c| Cell::Reals(c.logprobs.clone())),
        learner,
        entropies,
        json(c.map(|c| &c.spans)),
        json(detail.ruling.as_ref()),
        json(detail.report.as_ref()),
    ]
}

/// A row of [`STEPS`].
pub fn step(row: &StepRow) -> Vec<Cell> {
    vec![
        int(Some(row.step.0)),
        int(Some(row.policy.0)),
        Cell::Flag(row.applied),
        int(Some(row.at_ms)),
        json(Some(&row.report)),
        json(Some(&row.batch)),
    ]
}

/// A row of [`FAULTS`].
pub fn fault(row: &FaultEntry) -> Vec<Cell> {
    vec![
        int(row.rollout),
        int(row.attempt),
        text(Some(row.code.as_str())),
        text(Some(row.message.as_str())),
        int(Some(row.at)),
    ]
}

/// Writes one table.
pub struct Table<W: Write + Send> {
    columns: Columns,
    file: SerializedFileWriter<W>,
    rows: Vec<Vec<Cell>>,
    written: usize,
}

impl<W: Write + Send> Table<W> {
    /// # Errors
    /// The file cannot be written.
    pub fn new(columns: Columns, out: W) -> Result<Table<W>, ExportError> {
        let schema = Arc::new(parse_message_type(&message(columns))?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_created_by(format!("troupe {}", env!("CARGO_PKG_VERSION")))
            .build();
        let file = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
        Ok(Table { columns, file, rows: Vec::new(), written: 0 })
    }

    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, row: Vec<Cell>) -> Result<(), ExportError> {
        self.rows.push(row);
        if self.rows.len() == GROUP { self.flush() } else { Ok(()) }
    }

    /// Writes the rest and the footer; the number of rows.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> Result<usize, ExportError> {
        self.flush()?;
        self.file.close()?;
        Ok(self.written)
    }

    fn flush(&mut self) -> Result<(), ExportError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.file.next_row_group()?;
        let mut column = 0;
        while let Some(mut writer) = group.next_column()? {
            write(writer.untyped(), self.columns[column], rows.iter().map(|row| &row[column]))?;
            writer.close()?;
            column += 1;
        }
        group.close()?;
        self.written += rows.len();
        Ok(())
    }
}

fn message(columns: Columns) -> String {
    let list = |name: &str, element: &str| {
        format!("optional group {name} (LIST) {{ repeated group list {{ required {element}; }} }}")
    };
    let fields: Vec<String> = columns
        .iter()
        .map(|(name, kind)| match kind {
            Kind::Int => format!("optional int64 {name};"),
            Kind::Real => format!("optional double {name};"),
            Kind::Flag => format!("optional boolean {name};"),
            Kind::Text => format!("optional binary {name} (STRING);"),
            Kind::Ints => list(name, "int32 element (INTEGER(32, false))"),
            Kind::Reals => list(name, "float element"),
        })
        .collect();
    format!("message troupe {{ {} }}", fields.join(" "))
}

/// A definition level says how much of a value is there: 0 is null; of a list, 1 is an empty one and 2 an element. A
/// repetition level of 1 goes on with the same list.
fn write<'a>(
    writer: &mut ColumnWriter<'_>,
    (name, kind): (&str, Kind),
    cells: impl Iterator<Item = &'a Cell>,
) -> Result<(), ExportError> {
    let wrong = || ParquetError::General(format!("column {name} got another kind of value than {kind:?}"));
    let mut levels: (Vec<i16>, Vec<i16>) = Default::default();
    macro_rules! plain {
        ($writer:expr, $pick:pat => $value:expr) => {{
            let mut values = Vec::new();
            for cell in cells {
                levels.0.push(match cell {
                    Cell::None => 0,
                    $pick => {
                        values.push($value);
                        1
                    }
                    _ => return Err(wrong().into()),
                });
            }
            $writer.write_batch(&values, Some(&levels.0), None)?
        }};
    }
    macro_rules! list {
        ($writer:expr, $pick:path, $as:ty) => {{
            let mut values: Vec<$as> = Vec::new();
            for cell in cells {
                match cell {
                    Cell::None => levels.0.push(0),
                    $pick(all) if all.is_empty() => levels.0.push(1),
                    $pick(all) => {
                        values.extend(all.iter().map(|v| *v as $as));
                        levels.0.extend(all.iter().map(|_| 2));
                        levels.1.push(0);
                        levels.1.extend(all.iter().skip(1).map(|_| 1));
                        continue;
                    }
                    _ => return Err(wrong().into()),
                }
                levels.1.push(0);
            }
            $writer.write_batch(&values, Some(&levels.0), Some(&levels.1))?
        }};
    }
    match (kind, writer) {
        (Kind::Int, ColumnWriter::Int64ColumnWriter(w)) => plain!(w, Cell::Int(v) => *v),
        (Kind::Real, ColumnWriter::DoubleColumnWriter(w)) => plain!(w, Cell::Real(v) => *v),
        (Kind::Flag, ColumnWriter::BoolColumnWriter(w)) => plain!(w, Cell::Flag(v) => *v),
        (Kind::Text, ColumnWriter::ByteArrayColumnWriter(w)) => {
            plain!(w, Cell::Text(v) => ByteArray::from(v.as_str()))
        }
        // Parquet's unsigned 32-bit numbers are the bits of signed ones.
        (Kind::Ints, ColumnWriter::Int32ColumnWriter(w)) => list!(w, Cell::Ints, i32),
        (Kind::Reals, ColumnWriter::FloatColumnWriter(w)) => list!(w, Cell::Reals, f32),
        _ => return Err(wrong().into()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::record::Field;

    use super::*;

    const COLUMNS: Columns = &[
        ("id", Kind::Int),
        ("x", Kind::Real),
        ("yes", Kind::Flag),
        ("text", Kind::Text),
        ("tokens", Kind::Ints),
        ("logprobs", Kind::Reals),
    ];

    #[test]
    fn every_kind_of_value_comes_back_nulls_and_empty_lists_too() {
        let full = |id: i64| {
            let tokens = vec![id as u32, u32::MAX, 0];
            vec![
                Cell::Int(id),
                Cell::Real(0.5 * id as f64),
                Cell::Flag(id % 2 == 0),
                Cell::Text(format!("é\u{202e}<script> {id}")),
                Cell::Ints(tokens),
                Cell::Reals(vec![-0.25, -1.0e-7]),
            ]
        };
        let rows: Vec<Vec<Cell>> = (0..GROUP as i64 + 7)
            .map(|id| match id % 3 {
                0 => full(id),
                1 => vec![Cell::None; 6],
                _ => [full(id)[..4].to_vec(), vec![Cell::Ints(Vec::new()), Cell::Reals(Vec::new())]].concat(),
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        let mut table = Table::new(COLUMNS, std::fs::File::create(&path).unwrap()).unwrap();
        rows.iter().for_each(|row| table.push(row.clone()).unwrap());
        assert_eq!(table.finish().unwrap(), rows.len());
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let back: Vec<Vec<Cell>> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| {
                row.unwrap().get_column_iter().zip(COLUMNS).map(|((_, field), (name, _))| cell(field, name)).collect()
            })
            .collect();
        assert_eq!(back, rows);
    }

    /// An empty list does not tell what it is a list of: the column does.
    fn cell(field: &Field, column: &str) -> Cell {
        match field {
            Field::Null => Cell::None,
            Field::Long(v) => Cell::Int(*v),
            Field::Double(v) => Cell::Real(*v),
            Field::Bool(v) => Cell::Flag(*v),
            Field::Str(v) => Cell::Text(v.clone()),
            Field::ListInternal(all) if column == "tokens" => {
                let number = |f: &Field| if let Field::UInt(v) = f { *v } else { 0 };
                Cell::Ints(all.elements().iter().map(number).collect())
            }
            Field::ListInternal(all) => {
                let number = |f: &Field| if let Field::Float(v) = f { *v } else { f32::NAN };
                Cell::Reals(all.elements().iter().map(number).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        let mut table = Table::new(&[("id", Kind::Int)], Vec::new()).unwrap();
        table.push(vec![Cell::Text("7".into())]).unwrap();
        assert!(table.finish().unwrap_err().to_string().contains("column id"), "and named");
    }
}
