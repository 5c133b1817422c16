//! What was seen of a candidate while it ran, weighed: the rules from K101 on. They stand behind the static ones and
//! need not know a trick to see what it does.

use rollout::evidence::{Ablation, Evidence, Seen};
use rollout::outcome::{ExecReport, Finding, Outcome, Severity};

use crate::lint::RuleDoc;

macro_rules! page {
    ($code:literal) => {
        include_str!(concat!("../../docs/rules/", $code, ".md"))
    };
}

/// No kernel was launched, or not in every checked forward.
pub const NO_LAUNCH: &str = "K101";
/// How the reason of such an answer begins.
const UNLAUNCHED: &str = "K101: ";
/// torch computed on data while forward ran.
pub const COMPUTED: &str = "K102";
/// The outputs are right although no kernel did anything.
pub const DECORATIVE: &str = "K103";
/// Compiled and interpreted forwards launch different things.
pub const TWO_FACES: &str = "K104";
/// It raises on legal shapes other than the task's own.
pub const OWN_SHAPES: &str = "K105";

/// A kernel writes outside the tensors it was given.
pub const STRAY: &str = "K106";
/// The code around the kernels launches other things after some calls.
pub const DRIFT: &str = "K107";

/// Kernels keep something in device memory from call to call.
pub const REMEMBERS: &str = "K108";

/// Programs of one launch read what others wrote.
pub const RACES: &str = "K109";

/// The pages of these rules.
pub const DOCS: &[RuleDoc] = &[
    RuleDoc { code: NO_LAUNCH, title: "a checked forward launched no kernel", page: page!("K101") },
    RuleDoc { code: COMPUTED, title: "torch computed while forward ran", page: page!("K102") },
    RuleDoc { code: DECORATIVE, title: "the kernels change nothing", page: page!("K103") },
    RuleDoc { code: TWO_FACES, title: "compiled and interpreted, two different programs", page: page!("K104") },
    RuleDoc { code: OWN_SHAPES, title: "only the task's own shapes", page: page!("K105") },
    RuleDoc { code: STRAY, title: "a kernel writes outside its tensors", page: page!("K106") },
    RuleDoc { code: DRIFT, title: "calls are counted", page: page!("K107") },
    RuleDoc { code: REMEMBERS, title: "kernels remember", page: page!("K108") },
    RuleDoc { code: RACES, title: "programs of one launch race", page: page!("K109") },
];

/// The report with its findings, and its outcome where they reject what ran: delegation is found before a wrong number
/// is (TritonRL's `func` gates `correct`), an idle kernel only behind right numbers, because a kernel with a mistake may
/// change nothing either, and so are races: what they make is mostly wrong.
pub fn weigh(mut report: ExecReport) -> ExecReport {
    name_the_rule(&mut report.outcome);
    let correct = report.outcome.is_correct();
    let mut findings = delegation(&report);
    if correct {
        findings.extend(idle(&report.evidence));
    }
    let reached = correct || matches!(report.outcome, Outcome::WrongAnswer { .. });
    if let Some(first) = findings.iter().find(|f| f.severity == Severity::Reject).filter(|_| reached) {
        report.outcome = Outcome::Rejected { reason: format!("{}: {}", first.code, first.message) };
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.code.cmp(&b.code)));
    report.findings = findings;
    report
}

/// The sandbox ends an evaluation at the first forward without a launch, and nothing else of it is `Rejected`. Its reason may be the
/// candidate's own words, which are not to choose the rule that they are counted under.
fn name_the_rule(outcome: &mut Outcome) {
    if let Outcome::Rejected { reason } = outcome
        && !reason.starts_with(UNLAUNCHED)
    {
        reason.insert_str(0, UNLAUNCHED);
    }
}

fn finding(code: &str, severity: Severity, message: String) -> Finding {
    Finding { code: code.to_owned(), severity, line: 0, message }
}

fn delegation(report: &ExecReport) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Outcome::Rejected { reason } = &report.outcome {
        let said = reason.strip_prefix(UNLAUNCHED).unwrap_or(reason);
        found.push(finding(NO_LAUNCH, Severity::Reject, said.to_owned()));
    }
    let computed = report.evidence.forwards.iter().find_map(|seen| Some((seen, seen.computed.first()?)));
    if let Some((seen, (name, elements))) = computed {
        let others = seen.computed.iter().skip(1).map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        let also = if others.is_empty() { String::new() } else { format!(", also {}", others.join(", ")) };
        let message = format!("torch's `{name}` worked on {elements} elements outside kernels{also} ({})", seen.draw);
        found.push(finding(COMPUTED, Severity::Reject, message));
    }
    let sum = |part: fn(&Seen) -> u64| report.evidence.forwards.iter().map(part).sum::<u64>();
    let (stores, loads) = (sum(|s| s.stray_stores), sum(|s| s.stray_loads));
    if stores > 0 {
        let seen = report.evidence.forwards.iter().find(|s| s.stray_stores > 0).map_or("", |s| s.draw.as_str());
        let message = format!("kernels wrote {stores} elements outside the tensors they were given ({seen})");
        found.push(finding(STRAY, Severity::Reject, message));
    } else if loads > 0 {
        let message = format!("kernels read {loads} elements outside the tensors they were given");
        found.push(finding(STRAY, Severity::Warn, message));
    }
    if let Some(seen) = report.evidence.forwards.iter().find(|s| s.remembered_bytes > 0) {
        let bytes = seen.remembered_bytes;
        let message =
            format!("kernels read {bytes} bytes as an earlier call left them, and changed them ({})", seen.draw);
        found.push(finding(REMEMBERS, Severity::Reject, message));
    }
    if let Some((first, other)) = &report.evidence.drift {
        let calls = report.evidence.calls;
        let message = format!("call {calls} launches {}, the ones before it {}", shown(other), shown(first));
        found.push(finding(DRIFT, Severity::Reject, message));
    }
    if let Some((compiled, interpreted)) = &report.evidence.two_faces {
        let message = format!("compiled it launches {}, interpreted {}", shown(compiled), shown(interpreted));
        found.push(finding(TWO_FACES, Severity::Reject, message));
    }
    found
}

fn idle(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(seen) = evidence.forwards.iter().find(|s| s.raced > 0) {
        let raced = seen.raced;
        let message = format!(
            "programs read or overwrote {raced} elements that others of the same launch, or other lanes, wrote ({})",
            seen.draw
        );
        found.push(finding(RACES, Severity::Reject, message));
    }
    if evidence.ablation == Ablation::Unchanged {
        let message = "with every launch doing nothing the outputs are just as right".to_owned();
        found.push(finding(DECORATIVE, Severity::Reject, message));
    }
    if let Some(raised) = &evidence.own_shapes_only {
        let last = raised.lines().last().unwrap_or_default();
        found.push(finding(OWN_SHAPES, Severity::Warn, format!("on another legal shape it raises {last}")));
    }
    found
}

fn shown(launches: &str) -> String {
    const MAX: usize = 200;
    match launches {
        "" => "nothing".to_owned(),
        short if short.chars().count() <= MAX => short.to_owned(),
        long => format!("{}..", long.chars().take(MAX).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rollout::id::Digest;

    use super::*;

    fn report(outcome: Outcome, evidence: Evidence) -> ExecReport {
        ExecReport {
            outcome,
            launches: Vec::new(),
            phase_ms: BTreeMap::new(),
            kernelbench_1e2: None,
            kernelbench_1e4: None,
            max_abs_error: None,
            evidence,
            timing: None,
            findings: Vec::new(),
            log_tail: String::new(),
            protocol: Digest("p".into()),
            reused: false,
        }
    }

    const PASSED: Outcome = Outcome::Passed { speedup: None };

    fn wrong() -> Outcome {
        Outcome::WrongAnswer { message: "differs".into() }
    }

    fn computing() -> Evidence {
        let seen = Seen { draw: "nominal".into(), launches: 1, computed: vec![("mm".into(), 64)], ..Seen::default() };
        Evidence { forwards: vec![Seen::default(), seen], ..Evidence::default() }
    }

    fn codes(report: &ExecReport) -> Vec<&str> {
        report.findings.iter().map(|f| f.code.as_str()).collect()
    }

    #[test]
    fn an_innocent_report_stays_as_it_is() {
        let before = report(PASSED, Evidence { ablation: Ablation::Changed, ..Evidence::default() });
        assert_eq!(weigh(before.clone()), before);
    }

    #[test]
    fn torch_work_is_delegation_whether_the_numbers_are_right_or_not() {
        for outcome in [PASSED, wrong()] {
            let weighed = weigh(report(outcome, computing()));
            assert_eq!(codes(&weighed), [COMPUTED]);
            assert!(matches!(&weighed.outcome, Outcome::Rejected { reason } if reason.contains("`mm` worked on 64")));
        }
    }

    #[test]
    fn stray_stores_reject_and_stray_loads_warn() {
        let with = |stray_stores, stray_loads| {
            let seen = Seen { draw: "another shape".into(), stray_stores, stray_loads, ..Seen::default() };
            weigh(report(PASSED, Evidence { forwards: vec![seen], ..Evidence::default() }))
        };
        let weighed = with(7, 3);
        assert!(weighed.findings[0].message.contains("wrote 7 elements outside"));
        assert!(matches!(weighed.outcome, Outcome::Rejected { .. }));
        let weighed = with(0, 3);
        assert_eq!((weighed.outcome, weighed.findings[0].severity), (PASSED, Severity::Warn));
    }

    #[test]
    fn memory_that_lives_from_call_to_call_rejects() {
        let seen = Seen { draw: "nominal".into(), remembered_bytes: 4, ..Seen::default() };
        let weighed = weigh(report(PASSED, Evidence { forwards: vec![seen], ..Evidence::default() }));
        assert_eq!(codes(&weighed), [REMEMBERS]);
        assert!(weighed.findings[0].message.starts_with("kernels read 4 bytes"));
    }

    #[test]
    fn counting_calls_rejects() {
        let drift = Some(("k[8]()".to_owned(), "k[1]()".to_owned()));
        let weighed = weigh(report(PASSED, Evidence { calls: 12, drift, ..Evidence::default() }));
        assert_eq!(codes(&weighed), [DRIFT]);
        assert!(weighed.findings[0].message.starts_with("call 12 launches k[1]()"));
    }

    #[test]
    fn a_crash_stays_a_crash() {
        let outcome = Outcome::TimedOut { phase: rollout::outcome::Phase::Run, limit_ms: 1 };
        let weighed = weigh(report(outcome.clone(), computing()));
        assert_eq!((weighed.outcome, weighed.findings.len()), (outcome, 1));
    }

    #[test]
    fn idle_kernels_reject_right_numbers_only() {
        let evidence = Evidence { ablation: Ablation::Unchanged, ..Evidence::default() };
        let weighed = weigh(report(PASSED, evidence.clone()));
        assert_eq!(codes(&weighed), [DECORATIVE]);
        assert!(matches!(weighed.outcome, Outcome::Rejected { .. }));
        assert_eq!(weigh(report(wrong(), evidence)).outcome, wrong());
    }

    /// The reason may be what the candidate sent in the harness's name.
    #[test]
    fn a_candidate_does_not_choose_the_rule_that_rejects_it() {
        for own_words in ["K003: no program", "J001: x", "\u{e9}\u{e9}\u{e9}\u{e9}", ""] {
            let weighed = weigh(report(Outcome::Rejected { reason: own_words.into() }, computing()));
            let Outcome::Rejected { reason } = &weighed.outcome else { panic!("{weighed:?}") };
            assert_eq!((crate::hacks::code_of(reason), codes(&weighed)[0]), (NO_LAUNCH, NO_LAUNCH), "{own_words}");
        }
    }

    #[test]
    fn no_launch_and_two_faces_are_named_and_other_shapes_are_a_warning() {
        let weighed = weigh(report(Outcome::Rejected { reason: "launched none".into() }, Evidence::default()));
        assert_eq!(codes(&weighed), [NO_LAUNCH]);
        assert_eq!(weighed.findings[0].message, "launched none");
        assert!(matches!(&weighed.outcome, Outcome::Rejected { reason } if reason == "K101: launched none"));
        assert_eq!(weigh(weighed.clone()), weighed, "once");
        let evidence = Evidence { two_faces: Some(("a[1]()".into(), String::new())), ..Evidence::default() };
        let weighed = weigh(report(PASSED, evidence));
        assert_eq!(codes(&weighed), [TWO_FACES]);
        assert!(weighed.findings[0].message.ends_with("launches a[1](), interpreted nothing"));
        let evidence = Evidence { own_shapes_only: Some("Traceback\nValueError: no".into()), ..Evidence::default() };
        let weighed = weigh(report(PASSED, evidence));
        assert_eq!(weighed.outcome, PASSED);
        assert_eq!(weighed.findings[0].severity, Severity::Warn);
        assert!(weighed.findings[0].message.ends_with("raises ValueError: no"));
    }
}
