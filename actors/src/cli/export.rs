//! `troupe export`: a run's data as JSON Lines, for other programs. Reads only.

use serde::Serialize;

use super::args_view::{ExportArgs, ExportFormat, ExportWhat};
use super::rollouts::failure;
use super::{Answer, Done, Failure, output};
use crate::inspect::Run;
use crate::inspect::filter::Filter;

pub fn export(args: ExportArgs) -> Done {
    let filter = args.filter.as_deref().map(Filter::parse).transpose()?;
    let run = Run::open(&args.run_dir).map_err(failure)?;
    let reader = run.reader().map_err(failure)?;
    let ExportFormat::Jsonl = args.format;
    let lines = match args.what {
        ExportWhat::Rollouts => {
            run.catch_up().map_err(failure)?;
            let ids = run.matching(filter.as_ref()).map_err(failure)?;
            let mut lines = 0;
            for id in ids {
                // One at a time: a run's answers need not fit in memory.
                if let Some(detail) = reader.rollout(id).map_err(failure)? {
                    output::json(&detail)?;
                    lines += 1;
                }
            }
            lines
        }
        ExportWhat::Steps => all(&reader.steps().map_err(failure)?)?,
        ExportWhat::Faults => all(&reader.faults().map_err(failure)?)?,
    };
    output::say(format!("{lines} lines"));
    Ok(Answer::Yes)
}

fn all(rows: &[impl Serialize]) -> Result<usize, Failure> {
    rows.iter().try_for_each(output::json)?;
    Ok(rows.len())
}
