//! `troupe export`: a run's data for other programs. Reads only.

use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write};
use std::path::Path;

use serde::Serialize;

use super::args_view::{ExportArgs, ExportFormat, ExportWhat};
use super::rollouts::failure;
use super::{Answer, Done, Failure, output};
use crate::errors::UserError;
use crate::export::parquet::{self, Table};
use crate::export::{ExportError, perfetto, tensorboard};
use crate::inspect::Run;
use crate::inspect::filter::Filter;

pub fn export(args: ExportArgs) -> Done {
    let filter = args.filter.as_deref().map(Filter::parse).transpose()?;
    check(&args)?;
    crate::inspect::yield_to_the_run();
    let run = Run::open(&args.run_dir).map_err(failure)?;
    let out = args.out.as_deref();
    match args.format {
        ExportFormat::Tensorboard => {
            let folder = out.unwrap_or(Path::new("."));
            let (path, events) = tensorboard::write(&run, folder).map_err(|e| broken(e, Some(folder)))?;
            output::say(format!("{events} events in {}", path.display()));
        }
        ExportFormat::Perfetto => {
            run.catch_up().map_err(failure)?;
            let mut file = open(out)?;
            let events = perfetto::write(&run, filter.as_ref(), &mut file).map_err(|e| broken(e, out))?;
            output::say(format!("{events} events"));
        }
        ExportFormat::Parquet => {
            let rows = write_parquet(&run, args.what, filter.as_ref(), open(out)?, out)?;
            output::say(format!("{rows} rows"));
        }
        ExportFormat::Jsonl => {
            let lines = write_lines(&run, args.what, filter.as_ref(), &mut open(out)?, out)?;
            output::say(format!("{lines} lines"));
        }
    }
    Ok(Answer::Yes)
}

/// A flag without effect is an error, and so is what a terminal cannot show.
fn check(args: &ExportArgs) -> Result<(), Failure> {
    let format = args.format.name();
    let table = matches!(args.format, ExportFormat::Jsonl | ExportFormat::Parquet);
    let error = |what: &str, place: &str, found: &str, expected: &str, hint: &str| {
        Err(Failure::User(UserError::new(what).at(place).found(found).expected(expected).hint(hint)))
    };
    if !table && args.what != ExportWhat::Rollouts {
        let hint = "this format holds steps, samples and happenings together";
        return error("--what has no effect here", "--what", &format!("--format {format}"), "jsonl or parquet", hint);
    }
    if args.filter.is_some() && (args.format == ExportFormat::Tensorboard || args.what != ExportWhat::Rollouts) {
        let hint = "steps and faults are few: filter them in the program that reads them";
        return error("--filter has no effect here", "--filter", &format!("--format {format}"), "rollouts", hint);
    }
    if args.format == ExportFormat::Tensorboard && args.out.is_none() {
        let hint = "--out runs/first/tensorboard, then `tensorboard --logdir runs/first/tensorboard`";
        return error("event files need a folder", "--out", "none", "a folder", hint);
    }
    if args.format == ExportFormat::Parquet && args.out.is_none() && std::io::stdout().is_terminal() {
        let hint = "--out rollouts.parquet, or `> rollouts.parquet`";
        return error("a terminal cannot show Parquet", "stdout", "a terminal", "a file or a pipe", hint);
    }
    Ok(())
}

/// The file, or stdout.
fn open(out: Option<&Path>) -> Result<Box<dyn Write + Send>, Failure> {
    Ok(match out {
        Some(path) => {
            let file = File::create(path).map_err(|e| UserError::io("write the export", path, &e))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(BufWriter::new(std::io::stdout())),
    })
}

fn broken(error: ExportError, out: Option<&Path>) -> Failure {
    match (error, out) {
        (ExportError::Store(error), _) => failure(error),
        (ExportError::Io(error), Some(path)) => UserError::io("write the export", path, &error).into(),
        (ExportError::Io(error), None) => output::closed(error),
        // Parquet's writer wraps it.
        (ExportError::Parquet(::parquet::errors::ParquetError::External(error)), None)
            if error.is::<std::io::Error>() =>
        {
            error.downcast().map_or_else(|e| Failure::Broken(e.to_string()), |e| output::closed(*e))
        }
        (error, _) => Failure::Broken(error.to_string()),
    }
}

/// Rows between two looks whether a run went on in a store that was read without locks.
const UNMOVED_EVERY: usize = 64;

/// Each rollout that the filter selects, one at a time: a run's answers need not fit in memory.
fn each(
    run: &Run,
    filter: Option<&Filter>,
    out: Option<&Path>,
    mut visit: impl FnMut(&crate::store::Reader, crate::store::reader::RolloutDetail) -> Result<(), ExportError>,
) -> Result<(), Failure> {
    let reader = run.reader().map_err(failure)?;
    // What fails to be read because a run writes there now is not broken.
    let moved = |error| failure(reader.unmoved().err().unwrap_or(error));
    run.catch_up().map_err(failure)?;
    for (n, id) in run.matching(filter).map_err(failure)?.into_iter().enumerate() {
        if n.is_multiple_of(UNMOVED_EVERY) {
            reader.unmoved().map_err(failure)?;
        }
        if let Some(detail) = reader.rollout(id).map_err(moved)? {
            visit(&reader, detail).map_err(|e| reader.unmoved().map_or_else(failure, |()| broken(e, out)))?;
        }
    }
    reader.unmoved().map_err(failure)
}

fn write_parquet(
    run: &Run,
    what: ExportWhat,
    filter: Option<&Filter>,
    file: Box<dyn Write + Send>,
    out: Option<&Path>,
) -> Result<usize, Failure> {
    let failed = |e| broken(e, out);
    let columns = match what {
        ExportWhat::Rollouts => parquet::ROLLOUTS,
        ExportWhat::Steps => parquet::STEPS,
        ExportWhat::Faults => parquet::FAULTS,
    };
    let mut table = Table::new(columns, file).map_err(failed)?;
    let reader = run.reader().map_err(failure)?;
    match what {
        ExportWhat::Rollouts => each(run, filter, out, |reader, detail| {
            let scores = reader.token_scores(detail.summary.id)?;
            table.push(parquet::rollout(&detail, scores))
        })?,
        ExportWhat::Steps => {
            for row in reader.steps().map_err(failure)? {
                table.push(parquet::step(&row)).map_err(failed)?;
            }
        }
        ExportWhat::Faults => {
            for row in reader.faults().map_err(failure)? {
                table.push(parquet::fault(&row)).map_err(failed)?;
            }
        }
    }
    reader.unmoved().map_err(failure)?;
    table.finish().map_err(failed)
}

fn write_lines(
    run: &Run,
    what: ExportWhat,
    filter: Option<&Filter>,
    file: &mut impl Write,
    out: Option<&Path>,
) -> Result<usize, Failure> {
    let mut lines = 0;
    let failed = |e| broken(e, out);
    let reader = run.reader().map_err(failure)?;
    match what {
        ExportWhat::Rollouts => each(run, filter, out, |_, detail| line(file, &detail, &mut lines))?,
        ExportWhat::Steps => {
            for row in reader.steps().map_err(failure)? {
                line(file, &row, &mut lines).map_err(failed)?;
            }
        }
        ExportWhat::Faults => {
            for row in reader.faults().map_err(failure)? {
                line(file, &row, &mut lines).map_err(failed)?;
            }
        }
    }
    file.flush().map_err(|e| failed(e.into()))?;
    reader.unmoved().map_err(failure)?;
    Ok(lines)
}

fn line(file: &mut impl Write, row: &impl Serialize, lines: &mut usize) -> Result<(), ExportError> {
    serde_json::to_writer(&mut *file, row).map_err(std::io::Error::from)?;
    file.write_all(b"\n")?;
    *lines += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::{PhaseTag, RowPatch};
    use crate::store::{Op, StoreConfig, Writer};
    use rollout::id::{Attempt, GroupId, RolloutId, TaskId};

    /// Without it: rows of both, and success.
    #[test]
    fn an_export_of_a_run_that_goes_on_meanwhile_fails_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || Writer::start(StoreConfig::new(dir.path().to_path_buf()), Box::new(|_| {})).unwrap();
        let writer = begin();
        for id in 0..3 {
            let task = std::sync::Arc::new(TaskId("t".into()));
            let patch =
                RowPatch::Issued { phase: PhaseTag::Train, group: GroupId(0), task, seed: 1, attempt: Attempt(1) };
            writer.handle().send(vec![Op::Row { rollout: RolloutId(id), patch }]).unwrap();
        }
        writer.stop().unwrap();
        let run = Run::open(dir.path()).unwrap();
        let mut seen = 0;
        each(&run, None, None, |_, _| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 3);
        let mut resumed = None;
        let failed = each(&run, None, None, |_, _| {
            resumed.get_or_insert_with(begin);
            Ok(())
        });
        let Err(Failure::User(error)) = failed else { panic!("it is the user's to try again") };
        assert!(error.what.contains("went on while it was read"), "{error:?}");
        drop(resumed);
    }
}
