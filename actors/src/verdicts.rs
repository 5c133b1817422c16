//! What a pool remembers of an evaluation, so that an identical candidate need not be executed again: the verdict and
//! as much of the report as fits into a fixed size.

use std::sync::Arc;

use rollout::evidence::Evidence;
use rollout::outcome::{ExecReport, Finding, Outcome};
use rollout::timing::Timing;

/// Upper bound of what one remembered report holds besides its fixed-size fields, bytes: message, launches, digest.
pub const BYTES_MAX: usize =
    MESSAGE_BYTES + LAUNCHES * KERNEL_BYTES + DIGEST_BYTES + FINDINGS * (MESSAGE_BYTES + CODE_BYTES);
const MESSAGE_BYTES: usize = 256;
const LAUNCHES: usize = 8;
const KERNEL_BYTES: usize = 48;
const FINDINGS: usize = 3;
const CODE_BYTES: usize = 8;
/// SHA-256 in hex, and a little.
const DIGEST_BYTES: usize = 80;

/// The report to keep: no log, no evidence and no times (nothing runs when it is used again), a message and launches cut to size.
pub fn remembered(report: &ExecReport) -> Arc<ExecReport> {
    let mut outcome = report.outcome.clone();
    match &mut outcome {
        Outcome::Unparsed { reason: text } | Outcome::Rejected { reason: text } => shorten(text, MESSAGE_BYTES),
        Outcome::CompileError { message }
        | Outcome::Crashed { message, .. }
        | Outcome::OutOfMemory { message, .. }
        | Outcome::WrongAnswer { message }
        | Outcome::Implausible { message } => shorten(message, MESSAGE_BYTES),
        Outcome::TimedOut { .. } | Outcome::Passed { .. } => {}
    }
    let mut launches: Vec<_> = report.launches.iter().take(LAUNCHES).cloned().collect();
    launches.iter_mut().for_each(|launch| shorten(&mut launch.kernel, KERNEL_BYTES));
    let mut protocol = report.protocol.clone();
    shorten(&mut protocol.0, DIGEST_BYTES);
    Arc::new(ExecReport {
        outcome,
        launches,
        phase_ms: Default::default(),
        kernelbench_1e2: report.kernelbench_1e2,
        kernelbench_1e4: report.kernelbench_1e4,
        max_abs_error: report.max_abs_error,
        evidence: Evidence::default(),
        timing: report.timing.clone().map(|timing| Timing { refused: Vec::new(), ..timing }),
        findings: report.findings.iter().take(FINDINGS).map(shortened).collect(),
        log_tail: String::new(),
        protocol,
        reused: true,
    })
}

fn shortened(finding: &Finding) -> Finding {
    let mut kept = finding.clone();
    shorten(&mut kept.code, CODE_BYTES);
    shorten(&mut kept.message, MESSAGE_BYTES);
    kept
}

/// Cuts `text` to at most `bytes`, between two characters, and gives the memory back.
fn shorten(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        const CUT: &str = "..";
        let end = (0..=bytes - CUT.len()).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(CUT);
    }
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use rollout::evidence::Seen;
    use rollout::id::Digest;
    use rollout::outcome::{Launch, Phase, Severity};

    use super::*;

    /// Heap bytes of everything whose size a candidate has a say in.
    fn bytes(report: &ExecReport) -> usize {
        let message = match &report.outcome {
            Outcome::Crashed { message, .. } => message.capacity(),
            _ => 0,
        };
        let kernels: usize = report.launches.iter().map(|l| l.kernel.capacity()).sum();
        let phases: usize = report.phase_ms.keys().map(String::capacity).sum();
        let findings: usize = report.findings.iter().map(|f| f.code.capacity() + f.message.capacity()).sum();
        let seen: usize = report.evidence.forwards.iter().map(|s| s.draw.capacity()).sum();
        message + kernels + phases + findings + seen + report.log_tail.capacity() + report.protocol.0.capacity()
    }

    /// Planted: the whole report is kept (as it was). Seen: 36,739 bytes for one verdict.
    #[test]
    fn a_remembered_report_has_a_fixed_size_and_the_same_verdict() {
        let large = ExecReport {
            outcome: Outcome::Crashed { phase: Phase::Run, message: "ä".repeat(4000) },
            launches: vec![Launch { kernel: "k".repeat(80), grid: [1, 2, 3] }; 256],
            phase_ms: [("run".to_string(), 1.0)].into(),
            kernelbench_1e2: Some(false),
            kernelbench_1e4: Some(false),
            max_abs_error: Some(0.5),
            timing: None,
            evidence: Evidence {
                forwards: vec![Seen { draw: "nominal".repeat(9), ..Seen::default() }; 9],
                ..Evidence::default()
            },
            findings: vec![
                Finding {
                    code: "K102".into(),
                    severity: Severity::Reject,
                    line: 0,
                    message: "m".repeat(900)
                };
                9
            ],
            log_tail: "x".repeat(8192),
            protocol: Digest("d".repeat(64)),
            reused: false,
        };
        let kept = remembered(&large);
        assert!(bytes(&large) > 30_000);
        assert!(bytes(&kept) <= BYTES_MAX, "{} bytes", bytes(&kept));
        let (Outcome::Crashed { phase, message }, true) = (&kept.outcome, kept.reused) else { panic!("{kept:?}") };
        assert_eq!((*phase, message.ends_with("ä..")), (Phase::Run, true));
        assert_eq!((kept.max_abs_error, kept.launches.len()), (Some(0.5), LAUNCHES));
        assert_eq!((kept.findings.len(), kept.findings[0].code.as_str()), (FINDINGS, "K102"));
        // What is small stays as it is, but for times and log.
        let small = ExecReport { launches: large.launches[..1].to_vec(), ..crate::bench::standins::report(true) };
        assert_eq!(remembered(&small).outcome, small.outcome);
    }
}
