//! `troupe rollouts --show ID`: everything about one rollout, for a reader.

use rollout::outcome::Ruling;

use super::arithmetic;
use super::lint::finding_text;
use super::verify::{printable, report_lines, verdict_line};
use crate::config::Config;
use crate::store::reader::RolloutDetail;

/// The text; `config` is the run's own, for the reward's arithmetic.
pub fn text(detail: &RolloutDetail, config: Option<&Config>) -> String {
    let s = &detail.summary;
    let mut out = vec![format!(
        "rollout {} ({}), task {}, group {}, seed {}, attempt {}",
        s.id,
        s.phase.as_str(),
        printable(&s.task.0),
        s.group,
        detail.seed,
        s.attempt
    )];
    out.push(match (&s.ending, s.step) {
        (Some(ending), Some(step)) => format!("ended: {ending}, step {step}"),
        (Some(ending), None) => format!("ended: {ending}"),
        (None, _) => format!("in flight: {}", s.state),
    });
    section(&mut out, "prompt", detail.prompt.as_deref().unwrap_or("(not known yet)"));
    match &detail.completion {
        None => section(&mut out, "answer", "(not sampled yet)"),
        Some(completion) => {
            let spans: Vec<String> =
                completion.spans.iter().map(|p| format!("policy {} from token {}", p.policy, p.start)).collect();
            let (plan, code) = arithmetic::split(&completion.text);
            let plan = plan.unwrap_or("(no delimiter: the whole answer counts as code)");
            let title = format!(
                "plan ({} of {} tokens; {}; finish: {:?})",
                completion.plan_tokens.map_or("none".to_string(), |n| n.to_string()),
                completion.tokens.len(),
                spans.join(", "),
                completion.finish
            );
            section(&mut out, &title, plan);
            section(&mut out, "code", code);
        }
    }
    if let Some(ruling) = &detail.ruling {
        out.push(String::new());
        let (word, candidate, findings, outcome) = match ruling {
            Ruling::Admit { candidate, findings } => ("admitted", Some(candidate), findings, None),
            Ruling::Reject { candidate, findings, outcome } => {
                ("rejected", candidate.as_ref(), findings, Some(outcome))
            }
        };
        out.push(format!("-- ruling: {word}"));
        let source = candidate.map_or("", |c| c.source.as_str());
        out.extend(findings.iter().map(|f| finding_text(f, source)));
        if let Some(outcome) = outcome {
            out.push(format!("  {}", verdict_line(outcome)));
        }
    }
    if let Some(report) = &detail.report {
        out.push(String::new());
        out.push(format!("-- execution: {}", verdict_line(&report.outcome)));
        out.extend(report_lines(report));
    }
    out.extend(arithmetic::reward_lines(detail, config));
    out.join("\n")
}

fn section(out: &mut Vec<String>, title: &str, body: &str) {
    out.push(String::new());
    out.push(format!("-- {title}"));
    out.push(printable(body.trim_end()));
}
