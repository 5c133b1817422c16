//! `troupe lint`: the static layers over files.

use rollout::outcome::{Finding, Severity};
use serde::Serialize;

use super::args::LintArgs;
use super::{Answer, Done, output, printable, source};
use crate::tasks;

/// One file's result, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Linted {
    file: String,
    syntax: bool,
    functional: bool,
    findings: Vec<Finding>,
}

pub fn lint(args: LintArgs) -> Done {
    let task = args.task.as_deref().map(tasks::load_task).transpose()?;
    // Every file is read before anything is printed: a missing one is an error of usage, not half an answer.
    let read: Vec<_> = args.files.iter().map(|f| source::read(f)).collect::<Result<_, _>>()?;
    let mut all_good = true;
    for (path, read) in args.files.iter().zip(read) {
        let file = path.display().to_string();
        let (linted, text) = match read.candidate {
            Ok(candidate) => {
                let report = reward::lint::lint(&candidate.source, task.as_ref());
                let linted =
                    Linted { file, syntax: report.syntax, functional: report.functional, findings: report.findings };
                (linted, candidate.source)
            }
            Err(error) => {
                let finding = Finding {
                    code: "unparsed".to_string(),
                    severity: Severity::Reject,
                    line: 0,
                    message: error.to_string(),
                };
                (Linted { file, syntax: false, functional: false, findings: vec![finding] }, String::new())
            }
        };
        all_good &= linted.syntax && linted.functional;
        if args.json {
            output::json(&linted)?;
        } else {
            output::line(human(&linted, &text))?;
        }
    }
    Ok(if all_good { Answer::Yes } else { Answer::No })
}

fn human(linted: &Linted, text: &str) -> String {
    let verdict = match (linted.syntax, linted.functional) {
        (true, true) => "ok",
        (false, _) => "REJECTED (syntax)",
        (true, false) => "REJECTED (functional)",
    };
    let mut out = format!("{}: {verdict}", linted.file);
    for finding in &linted.findings {
        out.push('\n');
        out.push_str(&finding_text(finding, text));
    }
    out
}

/// A finding with the source around it.
pub fn finding_text(finding: &Finding, text: &str) -> String {
    let severity = match finding.severity {
        Severity::Note => "note",
        Severity::Warn => "warning",
        Severity::Reject => "reject",
    };
    let place = if finding.line == 0 { String::new() } else { format!(" line {}", finding.line) };
    let mut out = format!("  {severity} {}{place}: {}", finding.code, printable(&finding.message));
    let excerpt = source::excerpt(text, finding.line);
    if !excerpt.is_empty() {
        out.push('\n');
        out.push_str(&printable(&excerpt));
    }
    out
}
