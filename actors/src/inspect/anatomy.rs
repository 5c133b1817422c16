//! One rollout, taken apart for a reader: what was asked, planned and written, what each layer of the verifier said and
//! about which lines, what was measured, how the reward came about, and what every token was worth.

use rollout::outcome::{ExecReport, Finding, Layers, Outcome, Ruling};
use serde::Serialize;

use super::Run;
use super::notes::Place;
use super::query::summary;
use crate::cli::arithmetic;
use crate::store::reader::{FaultEntry, RolloutDetail, RolloutSummary};
use crate::store::{StoreError, TokenScores};

/// Most tokens that are shown one by one.
const TOKENS_MAX: usize = 16_384;

#[derive(Debug, Serialize)]
pub struct RolloutPage {
    pub summary: RolloutSummary,
    /// As a text: it has more digits than a number of JavaScript keeps.
    pub seed: String,
    pub prompt: Option<String>,
    /// The reference of the task.
    pub reference: Option<String>,
    /// The answer through its delimiter, and what follows; both absent while it is being sampled.
    pub plan: Option<String>,
    pub rest: Option<String>,
    /// The program that was judged and executed.
    pub code: Option<String>,
    pub verdict: Verdict,
    pub findings: Vec<Finding>,
    pub report: Option<ExecReport>,
    /// How reward and advantage were computed, line by line.
    pub arithmetic: Vec<String>,
    pub tokens: Option<Tokens>,
    /// The rollouts of its group, itself included.
    pub group: Vec<RolloutSummary>,
    pub faults: Vec<FaultEntry>,
    /// Who evaluates it or did, among what is remembered.
    pub places: Vec<Place>,
}

#[derive(Debug, Serialize)]
pub struct Verdict {
    pub layers: Layers,
    /// One line in words; absent before there is an outcome.
    pub text: Option<String>,
}

/// Under the learner's policy, at the behaviour's temperature: log-probs (natural log) and entropies (nats) of each token.
#[derive(Debug, Serialize)]
pub struct Learnt {
    pub logprobs: Vec<f32>,
    pub entropies: Vec<f32>,
    /// 0 kept, 1 with a capped weight, 2 left out by IcePop, 3 its answer was rejected, 4 for one token; empty where all were kept,
    /// null where the run did not store it.
    pub fates: Option<Vec<u8>>,
}

/// What the store holds of each token.
#[derive(Debug, Serialize)]
pub struct Tokens {
    /// The text of each piece. A character that is made of several tokens is one piece with the first of them.
    pub text: Vec<String>,
    pub ids: Vec<u32>,
    /// Behaviour log-probs, natural log.
    pub logprobs: Vec<f32>,
    /// What the learner found before the step that trained on it; absent where none did.
    pub learner: Option<Learnt>,
    /// The policy version of each.
    pub policies: Vec<u64>,
    /// How many of the first belong to the plan; absent without a delimiter.
    pub plan: Option<u32>,
    pub advantage_plan: Option<f64>,
    pub advantage_code: Option<f64>,
    /// `reward.alpha`: what the plan's part of the objective is multiplied by. Absent where the run's configuration cannot be read.
    pub plan_weight: Option<f64>,
    /// `learner.kl_coef`: above 0 tokens without an advantage have a gradient too.
    pub kl_coef: Option<f64>,
    /// Whether its gradient counted: the rollout was trained on, by a step that was applied.
    pub trained: bool,
    /// Tokens beyond the limit that are not shown.
    pub left_out: usize,
    /// False: the tokenizer is not in the run directory, `text` holds the ids.
    pub readable: bool,
}

impl Run {
    /// `None` when the run has no such rollout.
    pub fn rollout_page(&self, id: u64) -> Result<Option<RolloutPage>, StoreError> {
        let reader = self.reader()?;
        let Some(detail) = reader.rollout(id)? else { return Ok(None) };
        let faults = reader.faults_of(id)?;
        let applied = match detail.summary.step {
            Some(step) => reader.step_applied(step)?.unwrap_or(true),
            None => true,
        };
        let outcome = match (&detail.report, &detail.ruling) {
            (Some(report), _) => Some(&report.outcome),
            (None, Some(Ruling::Reject { outcome, .. })) => Some(outcome),
            _ => None,
        };
        let (mut code, mut findings) = (None, Vec::new());
        match &detail.ruling {
            Some(Ruling::Admit { candidate, findings: found }) => {
                (code, findings) = (Some(candidate.source.clone()), found.clone());
            }
            Some(Ruling::Reject { candidate, findings: found, .. }) => {
                (code, findings) = (candidate.as_ref().map(|c| c.source.clone()), found.clone());
            }
            None => {}
        }
        findings.extend(detail.report.iter().flat_map(|r| r.findings.clone()));
        let answer = detail.completion.as_ref().map(|c| c.text.as_str());
        let (plan, rest) = match answer.map(arithmetic::split) {
            Some((plan, rest)) => (plan.map(str::to_string), Some(rest.to_string())),
            None => (None, None),
        };
        Ok(Some(RolloutPage {
            seed: detail.seed.to_string(),
            prompt: detail.prompt.clone(),
            reference: self.tasks().iter().find(|t| t.id == detail.summary.task).map(|t| t.source.clone()),
            plan,
            rest,
            code,
            verdict: Verdict {
                layers: outcome.map_or_else(|| judged(&detail), Outcome::layers),
                text: outcome.map(arithmetic::verdict_line),
            },
            findings,
            arithmetic: self.arithmetic(&detail),
            tokens: self.tokens(&detail, reader.token_scores(id)?, applied),
            places: self.places(id)?,
            group: self.group_of(&detail.summary),
            faults,
            report: detail.report.clone(),
            summary: detail.summary,
        }))
    }

    /// The rollouts of its group, in the order of ids.
    pub fn group_of(&self, of: &RolloutSummary) -> Vec<RolloutSummary> {
        let table = self.table();
        let group = table.number("grp");
        let phase = Some(of.phase.as_str());
        let mut found: Vec<RolloutSummary> = (0..table.len())
            .filter(|row| group[*row] == of.group as f64 && table.word("phase", *row) == phase)
            .filter_map(|row| summary(&table, row))
            .collect();
        found.sort_by_key(|s| s.id);
        found
    }

    fn arithmetic(&self, detail: &RolloutDetail) -> Vec<String> {
        let mut lines = arithmetic::reward_lines(detail, self.config());
        let group = self.group_of(&detail.summary);
        if let (Some(advantage), Some(config)) = (detail.advantage(), self.config()) {
            lines.extend(arithmetic::advantage_lines(&group, detail, advantage, &config.reward));
        }
        lines.iter().map(|l| l.trim().to_string()).filter(|l| !l.is_empty() && l != "-- reward").collect()
    }

    fn tokens(&self, detail: &RolloutDetail, scores: Option<TokenScores>, applied: bool) -> Option<Tokens> {
        let completion = detail.completion.as_ref()?;
        let shown = completion.tokens.len().min(TOKENS_MAX);
        let ids = completion.tokens[..shown].to_vec();
        let policy_of = |at: usize| {
            let span = completion.spans.iter().rev().find(|s| s.start as usize <= at);
            span.map_or(0, |s| s.policy.0)
        };
        let tokenizer = self.tokenizer();
        Some(Tokens {
            text: match tokenizer {
                Some(tokenizer) => pieces(&ids, |id| tokenizer.token_bytes(id)),
                None => ids.iter().map(u32::to_string).collect(),
            },
            readable: tokenizer.is_some(),
            learner: scores.map(|mut scores| {
                scores.logprobs.truncate(shown);
                scores.entropies.truncate(shown);
                scores.fates.iter_mut().for_each(|fates| fates.truncate(shown));
                Learnt { logprobs: scores.logprobs, entropies: scores.entropies, fates: scores.fates }
            }),
            logprobs: completion.logprobs[..shown.min(completion.logprobs.len())].to_vec(),
            policies: (0..shown).map(policy_of).collect(),
            plan: completion.plan_tokens,
            advantage_plan: detail.summary.adv_plan,
            advantage_code: detail.summary.adv_code,
            plan_weight: self.config().map(|config| config.reward.alpha),
            kl_coef: self.config().map(|config| config.learner.kl_coef),
            trained: applied && detail.summary.ending.as_deref() == Some("trained"),
            left_out: completion.tokens.len() - shown,
            ids,
        })
    }
}

/// Before there is an outcome: an admitted candidate is past the static layers.
fn judged(detail: &RolloutDetail) -> Layers {
    match &detail.ruling {
        Some(Ruling::Admit { .. }) => {
            Layers { extracted: Some(true), syntax: Some(true), functional: Some(true), ..Layers::default() }
        }
        _ => Layers::default(),
    }
}

/// The text of each token. Bytes of a character that is not whole yet wait for the rest and are shown with its first token.
fn pieces<'a>(ids: &[u32], bytes: impl Fn(u32) -> &'a [u8]) -> Vec<String> {
    let mut found = vec![String::new(); ids.len()];
    let (mut waiting, mut first): (Vec<u8>, usize) = (Vec::new(), 0);
    for (n, id) in ids.iter().enumerate() {
        if waiting.is_empty() {
            first = n;
        }
        waiting.extend_from_slice(bytes(*id));
        let whole = match std::str::from_utf8(&waiting) {
            Ok(_) => true,
            // Not merely cut off: no later byte can repair it.
            Err(e) => e.error_len().is_some() || waiting.len() - e.valid_up_to() > 3,
        };
        if whole || n + 1 == ids.len() {
            found[first] = String::from_utf8_lossy(&waiting).into_owned();
            waiting.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_of_several_tokens_is_shown_once_and_whole() {
        let vocabulary: [&[u8]; 5] = [b"a", &[0xe2], &[0x82], &[0xac], &[0xff]];
        let of = |ids: &[u32]| pieces(ids, |id| vocabulary[id as usize]);
        assert_eq!(of(&[0, 1, 2, 3, 0]), ["a", "€", "", "", "a"]);
        assert_eq!(of(&[4, 0]), ["\u{fffd}", "a"]);
        assert_eq!(of(&[0, 1]), ["a", "\u{fffd}"], "cut off at the end");
    }
}
