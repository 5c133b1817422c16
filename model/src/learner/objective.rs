//! A batch as the objective sees it: what becomes of each token (once an update), and the terms of one pass.
//!
//! Corrections compare the policy that sampled with the learner as the update starts. Where that has to be known before the first
//! gradient, one forward pass over the batch is made for it (`needs_a_look`); with a single pass and token by token it is the very
//! log-prob the pass computes, and costs nothing.

use super::batch::Item;
use super::{Scored, TrainSample};
use crate::correction::tally::Tally;
use crate::correction::{Credit, Fate};
use crate::loss::{LossConfig, Term, TokenInput};
use crate::stats::{StepReport, TokenStats};

pub fn item<'a>(s: &'a TrainSample, loss: &LossConfig) -> Item<'a> {
    let zero = |advantage: f32, weight: f32| advantage == 0.0 || weight == 0.0;
    let no_gradient = zero(s.plan_advantage, s.plan_weight) && zero(s.code_advantage, s.code_weight);
    Item { prompt: &s.prompt, tokens: &s.tokens, backward: !(loss.skip_zero && no_gradient && loss.kl_coef == 0.0) }
}

/// Whether the batch has to be scored before the first gradient: for a ratio of whole answers, to reject answers, and where
/// later passes need the log-probs of the first.
pub fn needs_a_look(loss: &LossConfig) -> bool {
    let c = &loss.correction;
    c.by_answer() || c.reject.is_some() || (c.needs_proximal() && loss.epochs > 1)
}

enum Credits {
    /// Nothing is corrected.
    Behaviour,
    /// The only pass starts where the update starts: its log-probs are the proximal ones.
    OwnPass,
    Known(Vec<Vec<Credit>>),
}

pub struct Batch<'a> {
    samples: &'a [TrainSample],
    loss: &'a LossConfig,
    reference: Option<Vec<Scored>>,
    credits: Credits,
}

impl<'a> Batch<'a> {
    /// `first`: the scores under the learner as the update starts, where `needs_a_look`.
    pub fn new(
        samples: &'a [TrainSample],
        loss: &'a LossConfig,
        reference: Option<Vec<Scored>>,
        first: Option<&[Scored]>,
    ) -> Self {
        let credits = match (loss.correction.needs_proximal(), first) {
            (false, _) => Credits::Behaviour,
            (true, None) => Credits::OwnPass,
            (true, Some(scored)) => {
                let answer = |(s, now): (&TrainSample, &Scored)| {
                    let behaviour: Vec<f64> = s.logprobs.iter().map(|l| f64::from(*l)).collect();
                    loss.correction.answer(&behaviour, &now.logprobs)
                };
                Credits::Known(samples.iter().zip(scored).map(answer).collect())
            }
        };
        Batch { samples, loss, reference, credits }
    }

    /// Known to have no gradient at all, because no token of it counts.
    pub fn is_dropped(&self, sample: usize) -> bool {
        match &self.credits {
            Credits::Known(all) => all[sample].iter().all(|c| !c.fate.counts()),
            _ => false,
        }
    }

    /// The terms of one pass. `now`: the scores under the learner as the pass starts, for a ratio of whole answers.
    pub fn pass(&self, now: Option<&[Scored]>) -> Pass<'_> {
        let answer = |(i, scored): (usize, &Scored)| {
            let tokens: Vec<TokenInput> =
                scored.logprobs.iter().enumerate().map(|(t, l)| self.input(i, t, *l)).collect();
            self.loss.answer(&tokens, &scored.logprobs)
        };
        Pass { batch: self, answers: now.map(|all| all.iter().enumerate().map(answer).collect()) }
    }

    fn input(&self, sample: usize, token: usize, logprob: f64) -> TokenInput {
        let s = &self.samples[sample];
        let plan = token < s.plan_tokens as usize;
        TokenInput {
            credit: self.credit(sample, token, logprob),
            advantage: f64::from(if plan { s.plan_advantage } else { s.code_advantage }),
            weight: f64::from(if plan { s.plan_weight } else { s.code_weight }),
            reference: self.reference.as_ref().map(|r| r[sample].logprobs[token]),
        }
    }

    fn credit(&self, sample: usize, token: usize, logprob: f64) -> Credit {
        let behaviour = f64::from(self.samples[sample].logprobs[token]);
        match &self.credits {
            Credits::Behaviour => Credit::behaviour(behaviour),
            Credits::OwnPass => self.loss.correction.token(behaviour, logprob),
            Credits::Known(all) => all[sample][token],
        }
    }

    /// What became of each sample's tokens, from the first pass's scores; empty for a sample of which nothing was left out or capped.
    pub fn fates(&self, scored: &[Scored]) -> Vec<Vec<u8>> {
        if matches!(self.credits, Credits::Behaviour) {
            return Vec::new();
        }
        let of = |(i, s): (usize, &Scored)| {
            let fates = s.logprobs.iter().enumerate().map(|(t, logprob)| self.credit(i, t, *logprob).fate);
            let codes: Vec<u8> = fates.map(Fate::code).collect();
            if codes.iter().all(|code| *code == Fate::Kept.code()) { Vec::new() } else { codes }
        };
        scored.iter().enumerate().map(of).collect()
    }

    /// The report's numbers that come from the first pass's scores.
    pub fn describe(&self, scored: &[Scored], report: &mut StepReport) {
        let (mut stats, mut tally) = (TokenStats::default(), Tally::default());
        let mut reference_kl = 0.0;
        for (i, (sample, s)) in self.samples.iter().zip(scored).enumerate() {
            for (t, logprob) in s.logprobs.iter().enumerate() {
                let plan = t < sample.plan_tokens as usize;
                stats.push(plan, *logprob, f64::from(sample.logprobs[t]), s.entropies[t]);
                if let Some(reference) = &self.reference {
                    let gap = reference[i].logprobs[t] - logprob;
                    reference_kl += gap.exp() - gap - 1.0;
                }
            }
            let credits: Vec<Credit> =
                s.logprobs.iter().enumerate().map(|(t, logprob)| self.credit(i, t, *logprob)).collect();
            tally.push(&credits);
        }
        stats.fill(report);
        report.reference_kl = if report.tokens == 0 { 0.0 } else { reference_kl / report.tokens as f64 };
        report.correction = tally.report();
    }
}

/// One pass over the batch.
pub struct Pass<'a> {
    batch: &'a Batch<'a>,
    answers: Option<Vec<Vec<Term>>>,
}

impl Pass<'_> {
    /// `(item, token, log-prob) -> its share of the loss`.
    pub fn term(&self, sample: usize, token: usize, logprob: f64) -> Term {
        match &self.answers {
            Some(all) => all[sample][token],
            None => self.batch.loss.term(&self.batch.input(sample, token, logprob), logprob),
        }
    }
}
