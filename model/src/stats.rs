//! What a training step says about itself.

use serde::{Deserialize, Serialize};

use crate::correction::tally::CorrectionReport;
use crate::guard::Alarm;

/// The report of one `train_step`. Means are over tokens; ratios are of the learner's probability, before the update, to the
/// probability the token was sampled with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Optimizer updates made so far, this step's included.
    pub step: u64,
    /// The objective to be minimised; of the first pass over the batch.
    pub loss: f64,
    /// Global gradient norm before clipping; of the first pass.
    pub grad_norm: f64,
    /// False: the guard skipped it, and parameters and optimizer are exactly as before the step.
    pub applied: bool,
    pub lr: f64,
    pub samples: usize,
    pub tokens: usize,
    pub plan_tokens: usize,
    pub code_tokens: usize,
    /// Samples whose backward pass was skipped because their gradient is exactly zero.
    pub zero_samples: usize,
    /// Estimate (k3: `rho - 1 - ln rho`) of KL(sampler || learner), over tokens of the sampler.
    pub mismatch_kl: f64,
    pub ratio: RatioQuantiles,
    /// Share of tokens whose gradient the clip takes; over all passes.
    pub clip_fraction: f64,
    /// The part of it below the lower bound, and the part above the upper.
    pub clip_low_fraction: f64,
    pub clip_high_fraction: f64,
    /// Mean entropy of the next-token distribution, nats.
    pub entropy_plan: f64,
    pub entropy_code: f64,
    /// Effective sample size, `(sum rho)^2 / (n sum rho^2)`: 1 where behaviour and learner agree.
    pub ess: f64,
    /// Mean k3 estimate of the KL divergence to the reference network; 0 without one.
    pub reference_kl: f64,
    /// What the corrections did; the same for all passes.
    pub correction: CorrectionReport,
    /// What the guard found (`guard`).
    pub alarms: Vec<Alarm>,
    /// The guard's factor of the learning rate, in `lr` already.
    pub lr_scale: f64,
    /// Time the step took, seconds.
    pub seconds: f64,
}

/// Quantiles of the importance ratios (nearest rank).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RatioQuantiles {
    pub p01: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// The report of one `sft_step`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SftReport {
    pub step: u64,
    /// Mean cross-entropy of the answer tokens, nats.
    pub loss: f64,
    pub grad_norm: f64,
    pub applied: bool,
    pub lr: f64,
    pub samples: usize,
    pub tokens: usize,
    /// Share of answer tokens that are the network's first choice.
    pub accuracy: f64,
    pub seconds: f64,
}

/// Collects tokens in order and summarises them.
#[derive(Clone, Debug, Default)]
pub struct TokenStats {
    ratios: Vec<f64>,
    mismatch: f64,
    entropy: [f64; 2],
    count: [usize; 2],
}

impl TokenStats {
    /// `plan`: the token's class. Log-probs under the learner and the sampling policy; entropy in nats.
    pub fn push(&mut self, plan: bool, logprob: f64, behaviour: f64, entropy: f64) {
        let log_ratio = logprob - behaviour;
        let ratio = log_ratio.exp();
        self.ratios.push(ratio);
        self.mismatch += ratio - 1.0 - log_ratio;
        let class = usize::from(!plan);
        self.entropy[class] += entropy;
        self.count[class] += 1;
    }

    pub fn fill(mut self, report: &mut StepReport) {
        let n = self.ratios.len();
        report.tokens = n;
        [report.plan_tokens, report.code_tokens] = self.count;
        let mean = |sum: f64, count: usize| if count == 0 { 0.0 } else { sum / count as f64 };
        report.mismatch_kl = mean(self.mismatch, n);
        report.entropy_plan = mean(self.entropy[0], self.count[0]);
        report.entropy_code = mean(self.entropy[1], self.count[1]);
        let sum: f64 = self.ratios.iter().sum();
        let squares: f64 = self.ratios.iter().map(|r| r * r).sum();
        report.ess = if n == 0 { 0.0 } else { sum * sum / (n as f64 * squares) };
        self.ratios.sort_by(f64::total_cmp);
        let at = |q: f64| self.ratios.get(((q * n as f64).ceil() as usize).saturating_sub(1)).copied().unwrap_or(0.0);
        report.ratio = RatioQuantiles { p01: at(0.01), p50: at(0.5), p99: at(0.99), max: at(1.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_equal_a_hand_computation() {
        let mut stats = TokenStats::default();
        stats.push(true, 0.5f64.ln(), 0.5f64.ln(), 1.0);
        stats.push(false, 0.6f64.ln(), 0.3f64.ln(), 2.0);
        stats.push(false, 0.2f64.ln(), 0.4f64.ln(), 4.0);
        let mut report = StepReport::default();
        stats.fill(&mut report);
        assert_eq!((report.tokens, report.plan_tokens, report.code_tokens), (3, 1, 2));
        assert_eq!((report.entropy_plan, report.entropy_code), (1.0, 3.0));
        // Ratios 1, 2, 0.5.
        assert!((report.ess - 3.5 * 3.5 / (3.0 * 5.25)).abs() < 1e-12);
        assert!((report.mismatch_kl - 0.5 / 3.0).abs() < 1e-12);
        assert!((report.ratio.p01 - 0.5).abs() < 1e-12 && (report.ratio.p50 - 1.0).abs() < 1e-12);
        assert!((report.ratio.max - 2.0).abs() < 1e-12);
    }
}
