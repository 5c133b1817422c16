//! What was seen of a candidate while it ran, weighed: the rules from K101 on. They stand behind the static ones and
//! need not know a trick to see what it does.

use rollout::evidence::{Ablation, Evidence};
use rollout::outcome::{ExecReport, Finding, Outcome, Severity};

use crate::lint::RuleDoc;

macro_rules! page {
    ($code:literal) => {
        include_str!(concat!("../../docs/rules/", $code, ".md"))
    };
}

/// No kernel was launched, or not in every checked forward.
pub const NO_LAUNCH: &str = "K101";
/// torch computed on data while forward ran.
pub const COMPUTED: &str = "K102";
/// The outputs are right although no kernel did anything.
pub const DECORATIVE: &str = "K103";
/// Compiled and interpreted forwards launch different things.
pub const TWO_FACES: &str = "K104";
/// It raises on legal shapes other than the task's own.
pub const OWN_SHAPES: &str = "K105";

/// The pages of these rules.
pub const DOCS: &[RuleDoc] = &[
    RuleDoc { code: NO_LAUNCH, title: "a checked forward launched no kernel", page: page!("K101") },
    RuleDoc { code: COMPUTED, title: "torch computed while forward ran", page: page!("K102") },
    RuleDoc { code: DECORATIVE, title: "the kernels change nothing", page: page!("K103") },
    RuleDoc { code: TWO_FACES, title: "compiled and interpreted, two different programs", page: page!("K104") },
    RuleDoc { code: OWN_SHAPES, title: "only the task's own shapes", page: page!("K105") },
];

/// The report with its findings, and its outcome where they reject what ran: delegation is found before a wrong number
/// is (TritonRL's `func` gates `correct`), an idle kernel only behind right numbers, because a kernel with a mistake may
/// change nothing either.
pub fn weigh(mut report: ExecReport) -> ExecReport {
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

fn finding(code: &str, severity: Severity, message: String) -> Finding {
    Finding { code: code.to_owned(), severity, line: 0, message }
}

fn delegation(report: &ExecReport) -> Vec<Finding> {
    let mut found = Vec::new();
    // The sandbox ends an evaluation at the first forward without a launch, and nothing else of it is `Rejected`.
    if let Outcome::Rejected { reason } = &report.outcome {
        found.push(finding(NO_LAUNCH, Severity::Reject, reason.clone()));
    }
    let computed = report.evidence.forwards.iter().find_map(|seen| Some((seen, seen.computed.first()?)));
    if let Some((seen, (name, elements))) = computed {
        let others = seen.computed.iter().skip(1).map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        let also = if others.is_empty() { String::new() } else { format!(", also {}", others.join(", ")) };
        let message = format!("torch's `{name}` worked on {elements} elements outside kernels{also} ({})", seen.draw);
        found.push(finding(COMPUTED, Severity::Reject, message));
    }
    if let Some((compiled, interpreted)) = &report.evidence.two_faces {
        let message = format!("compiled it launches {}, interpreted {}", shown(compiled), shown(interpreted));
        found.push(finding(TWO_FACES, Severity::Reject, message));
    }
    found
}

fn idle(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
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

    use rollout::evidence::Seen;
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

    #[test]
    fn no_launch_and_two_faces_are_named_and_other_shapes_are_a_warning() {
        let weighed = weigh(report(Outcome::Rejected { reason: "launched none".into() }, Evidence::default()));
        assert_eq!(codes(&weighed), [NO_LAUNCH]);
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
