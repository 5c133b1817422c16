//! `troupe rollouts --show ID`: everything about one rollout, for a reader.

use rollout::outcome::Ruling;

use super::lint::finding_text;
use super::verify::{printable, report_lines, verdict_line};
use crate::config::{Config, PlanFallback, RewardMode};
use crate::store::reader::RolloutDetail;

/// The text; `config` is the run's own, for the reward's arithmetic.
pub fn text(detail: &RolloutDetail, config: Option<&Config>) -> String {
    let s = &detail.summary;
    let mut out = vec![format!(
        "rollout {} ({}), task {}, group {}, seed {}, attempt {}",
        s.id,
        s.phase.as_str(),
        s.task,
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
            let (plan, code) = split(&completion.text);
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
    out.extend(reward_lines(detail, config));
    out.join("\n")
}

fn section(out: &mut Vec<String>, title: &str, body: &str) {
    out.push(String::new());
    out.push(format!("-- {title}"));
    out.push(printable(body.trim_end()));
}

/// The plan through its delimiter, and what comes after it.
fn split(answer: &str) -> (&str, &str) {
    match answer.find(reward::extract::DELIMITER) {
        Some(at) => answer.split_at(at + reward::extract::DELIMITER.len()),
        None => ("(no delimiter: the whole answer counts as code)", answer),
    }
}

/// How the rewards and advantages came about.
fn reward_lines(detail: &RolloutDetail, config: Option<&Config>) -> Vec<String> {
    let Some(reward) = detail.reward() else { return Vec::new() };
    let mut out = vec![String::new(), "-- reward".to_string()];
    let verdict = detail.summary.verdict.as_deref().unwrap_or("not known");
    out.push(format!("  verdict {verdict}"));
    if let Some(config) = config {
        let r = &config.reward;
        out.push(match r.mode {
            RewardMode::Hrd => "  mode hrd: plan tokens get the speed-up, code tokens the correctness".to_string(),
            RewardMode::Uniform => format!(
                "  mode uniform: all tokens get {} * correct + {} * speed-up",
                r.uniform_beta,
                1.0 - r.uniform_beta
            ),
        });
        if verdict == "passed" {
            out.push(match (timed(detail), r.plan_fallback) {
                (Some(x), _) if r.speed_clip > 0.0 => {
                    format!("  speed-up {x:.3}, rewarded up to {}", r.speed_clip)
                }
                (Some(x), _) => format!("  speed-up {x:.3}, no cap"),
                (None, PlanFallback::Correctness) => {
                    "  nothing was timed: the plan reward is the correctness (plan_fallback)".to_string()
                }
                (None, PlanFallback::Zero) => {
                    "  nothing was timed: the plan reward is zero (plan_fallback)".to_string()
                }
            });
        }
    }
    out.push(format!("  reward     plan {:.4}   code {:.4}", reward.plan, reward.code));
    if let Some(advantage) = detail.advantage() {
        out.push(format!("  advantage  plan {:+.4}   code {:+.4}", advantage.plan, advantage.code));
        if let Some(config) = config {
            out.push(format!(
                "  in the objective the plan tokens' part counts {} times (reward.alpha)",
                config.reward.alpha
            ));
        }
    }
    out
}

fn timed(detail: &RolloutDetail) -> Option<f64> {
    match &detail.report.as_ref()?.outcome {
        rollout::outcome::Outcome::Passed { speedup } => *speedup,
        _ => None,
    }
}
