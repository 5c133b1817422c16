//! What the fuzz targets share: the bound on the time that one text may take, and tasks for a text.

use std::time::Duration;

use reward::lint::{LintReport, lint};
use rollout::id::TaskId;
use rollout::outcome::Severity;
use rollout::task::{Split, TaskSpec};
use rustix::time::{ClockId, clock_gettime};

pub mod cluster;
#[path = "../../actors/src/codec.rs"]
pub mod codec;
#[path = "../../actors/src/supervise.rs"]
pub mod supervise;

/// Time allowed for any text: the step budget of the interpreter, used up, in an instrumented build.
const BASE: Duration = Duration::from_millis(1000);
/// Time allowed for each KiB on top: parsing and walking. A quadratic walk does not keep to it.
const PER_KIB: Duration = Duration::from_millis(50);

/// Time this thread has spent on a processor: other work on the machine does not count.
fn spent() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Fails when the work takes longer than its text may.
pub fn bounded<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let start = spent();
    let result = work();
    let took = spent().saturating_sub(start);
    let allowed = BASE + PER_KIB * (bytes as u32).div_ceil(1024);
    assert!(took <= allowed, "{bytes} bytes took {took:?}, {allowed:?} are allowed");
    result
}

/// A task with this source.
pub fn task(source: &str) -> TaskSpec {
    TaskSpec {
        id: TaskId("fuzzed".to_owned()),
        level: 1,
        split: Split::Train,
        tags: Vec::new(),
        source: source.to_owned(),
    }
}

/// Lints within the bound and checks what every report must be.
pub fn checked(source: &str, task: Option<&TaskSpec>) -> LintReport {
    let bytes = source.len() + task.map_or(0, |t| t.source.len());
    let report = bounded(bytes, || lint(source, task));
    let lines = source.split('\n').count() as u32;
    for finding in &report.findings {
        assert!(finding.line <= lines, "a finding on a line that does not exist: {finding:?}");
    }
    let rejects = report.findings.iter().any(|f| f.severity == Severity::Reject);
    assert_eq!(report.syntax && report.functional, !rejects, "the flags and the findings disagree");
    report
}
