//! The numerical guard: what the numbers of a step must not be, and what is done about it before the step is applied.
//!
//! ```text
//! not finite         the loss or the gradient's norm is not a number, or infinite
//! gradient spike     |g| > factor * median(|g| of the last `window` steps that were applied), once there are `window / 2` of them
//! mismatch           k3 estimate of KL(sampler || learner), mean over the batch's tokens  > mismatch_kl_max
//! entropy collapse   mean entropy of the batch's tokens  < share * its mean over the first `window` steps
//! ```
//!
//! k3 is `rho - 1 - ln rho` (Schulman, "Approximating KL Divergence", 2020). A batch's numbers are those of its first pass. Later passes are
//! looked at for what is not finite only. The guard's memory is part of a checkpoint, so a resumed run raises the same alarms.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::stats::StepReport;

/// What is done about an alarm, in order of gravity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reaction {
    /// Not looked at.
    Off,
    /// It is told.
    #[default]
    Warn,
    /// The learning rate is lowered from this step on, by `lower_by`; once in `window` steps, so that the lower one can show what
    /// it does.
    LowerRate,
    /// Weights and optimizer stay as they were before the step.
    Skip,
    /// The step is skipped, a checkpoint is written, the run ends.
    Stop,
}

/// Limits and reactions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// At least `Skip`: there is nothing that could be applied.
    pub not_finite: Reaction,
    pub gradient_spike: Reaction,
    /// Times the median.
    pub gradient_spike_factor: f64,
    pub mismatch: Reaction,
    /// Nats.
    pub mismatch_kl_max: f64,
    pub entropy_collapse: Reaction,
    /// Of the entropy at the start.
    pub entropy_share_min: f64,
    /// Steps that are remembered.
    pub window: usize,
    /// Factor of the learning rate for each `LowerRate`.
    pub lower_by: f64,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            not_finite: Reaction::Skip,
            gradient_spike: Reaction::Warn,
            gradient_spike_factor: 20.0,
            mismatch: Reaction::Warn,
            mismatch_kl_max: 0.5,
            entropy_collapse: Reaction::Warn,
            entropy_share_min: 0.05,
            window: 32,
            lower_by: 0.5,
        }
    }
}

/// What was wrong with a step's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    NotFinite,
    GradientSpike,
    Mismatch,
    EntropyCollapse,
}

/// One alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    pub kind: Kind,
    /// What was found; not there where it is no number.
    pub found: Option<f64>,
    pub limit: Option<f64>,
    pub reaction: Reaction,
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |x: Option<f64>| x.map_or("not finite".to_owned(), |x| format!("{x:.4}"));
        let (found, limit) = (shown(self.found), shown(self.limit));
        match self.kind {
            Kind::NotFinite => write!(f, "a loss or gradient was not finite")?,
            Kind::GradientSpike => write!(f, "the gradient's norm is {found}, at most {limit} was expected")?,
            Kind::Mismatch => write!(f, "learner and sampler are {found} nats apart, at most {limit} was expected")?,
            Kind::EntropyCollapse => write!(f, "the entropy is {found} nats, at least {limit} was expected")?,
        }
        match self.reaction {
            Reaction::Off | Reaction::Warn => Ok(()),
            Reaction::LowerRate => write!(f, "; the learning rate is lowered"),
            Reaction::Skip => write!(f, "; the step was skipped"),
            Reaction::Stop => write!(f, "; the step was skipped and the run is stopped"),
        }
    }
}

/// What a guard remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    norms: VecDeque<f64>,
    /// Sum and count of the first steps' entropies.
    entropy: (f64, u64),
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Steps until it may be lowered again.
    rest: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { norms: VecDeque::new(), entropy: (0.0, 0), lr_scale: 1.0, rest: 0 }
    }
}

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("guard: {key} is {found}, expected {expected}")]
pub struct GuardError {
    pub key: &'static str,
    pub found: String,
    pub expected: &'static str,
}

impl GuardConfig {
    /// # Errors
    /// A reaction or a limit that cannot be.
    pub fn check(&self) -> Result<(), GuardError> {
        let bad = |key, found: String, expected| Err(GuardError { key, found, expected });
        if self.not_finite < Reaction::Skip {
            let expected = "skip or stop: a step that is not finite cannot be applied";
            return bad("not_finite", format!("{:?}", self.not_finite).to_lowercase(), expected);
        }
        let at_least = |x: f64, least: f64| x.is_finite() && x >= least;
        if !at_least(self.gradient_spike_factor, 1.0) {
            return bad("gradient_spike_factor", self.gradient_spike_factor.to_string(), "a number of at least 1");
        }
        if !at_least(self.mismatch_kl_max, 0.0) {
            return bad("mismatch_kl_max", self.mismatch_kl_max.to_string(), "a number of at least 0");
        }
        if !(0.0..1.0).contains(&self.entropy_share_min) {
            return bad("entropy_share_min", self.entropy_share_min.to_string(), "a share from 0, below 1");
        }
        if !(self.lower_by > 0.0 && self.lower_by < 1.0) {
            return bad("lower_by", self.lower_by.to_string(), "a factor between 0 and 1");
        }
        if self.window < 2 {
            return bad("window", self.window.to_string(), "at least 2");
        }
        Ok(())
    }

    /// The alarms of a first pass's numbers, before it is applied.
    pub fn look(&self, memory: &Memory, report: &StepReport) -> Vec<Alarm> {
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            return vec![self.not_finite()];
        }
        let mut alarms = Vec::new();
        let mut ring = |kind, found: f64, limit, reaction| {
            alarms.push(Alarm { kind, found: found.is_finite().then_some(found), limit: Some(limit), reaction });
        };
        // Written to ring on what is no number.
        let within = |found: f64, limit: f64| found <= limit;
        if self.gradient_spike != Reaction::Off && 2 * memory.norms.len() >= self.window {
            let limit = self.gradient_spike_factor * median(&memory.norms);
            if !within(report.grad_norm, limit) {
                ring(Kind::GradientSpike, report.grad_norm, limit, self.gradient_spike);
            }
        }
        if self.mismatch != Reaction::Off && !within(report.mismatch_kl, self.mismatch_kl_max) {
            ring(Kind::Mismatch, report.mismatch_kl, self.mismatch_kl_max, self.mismatch);
        }
        if self.entropy_collapse != Reaction::Off && memory.entropy.1 >= self.window as u64 {
            let limit = self.entropy_share_min * memory.entropy.0 / memory.entropy.1 as f64;
            let found = entropy(report);
            if !within(limit, found) {
                ring(Kind::EntropyCollapse, found, limit, self.entropy_collapse);
            }
        }
        alarms
    }

    /// The alarm of a pass that cannot be applied.
    pub fn not_finite(&self) -> Alarm {
        Alarm { kind: Kind::NotFinite, found: None, limit: None, reaction: self.not_finite }
    }
}

impl Memory {
    /// Lowers the learning rate where an alarm asks for it.
    pub fn lower(&mut self, config: &GuardConfig, alarms: &[Alarm]) {
        if self.rest == 0 && alarms.iter().any(|a| a.reaction == Reaction::LowerRate) {
            self.lr_scale *= config.lower_by;
            self.rest = config.window as u64;
        }
    }

    /// Takes a step's numbers in.
    pub fn remember(&mut self, config: &GuardConfig, report: &StepReport) {
        self.rest = self.rest.saturating_sub(1);
        if !report.applied {
            return;
        }
        // A batch that taught nothing says nothing of what is usual.
        if report.grad_norm > 0.0 {
            self.norms.push_back(report.grad_norm);
            while self.norms.len() > config.window {
                self.norms.pop_front();
            }
        }
        if self.entropy.1 < config.window as u64 && report.tokens > 0 {
            self.entropy = (self.entropy.0 + entropy(report), self.entropy.1 + 1);
        }
    }
}

/// Whether a step with these alarms is left out.
pub fn skips(alarms: &[Alarm]) -> bool {
    alarms.iter().any(|a| a.reaction >= Reaction::Skip)
}

fn entropy(report: &StepReport) -> f64 {
    let (plan, code) = (report.plan_tokens as f64, report.code_tokens as f64);
    (report.entropy_plan * plan + report.entropy_code * code) / (plan + code).max(1.0)
}

fn median(values: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n % 2 == 1 { sorted[n / 2] } else { (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(grad_norm: f64, mismatch_kl: f64, entropy: f64) -> StepReport {
        StepReport {
            loss: 0.5,
            grad_norm,
            mismatch_kl,
            applied: true,
            tokens: 4,
            plan_tokens: 1,
            code_tokens: 3,
            entropy_plan: entropy,
            entropy_code: entropy,
            ..StepReport::default()
        }
    }

    /// A memory of `steps` usual steps.
    fn usual(config: &GuardConfig, steps: usize) -> Memory {
        let mut memory = Memory::default();
        for n in 0..steps {
            let report = report(1.0 + (n % 3) as f64, 0.01, 0.8);
            assert_eq!(config.look(&memory, &report), [], "step {n}");
            memory.remember(config, &report);
        }
        memory
    }

    #[test]
    fn each_alarm_rings_beyond_its_limit_and_not_at_it() {
        let config = GuardConfig { window: 8, gradient_spike_factor: 3.0, ..GuardConfig::default() };
        let memory = usual(&config, 8);
        // The median of 1 2 3 1 2 3 1 2 is 2.
        assert_eq!(config.look(&memory, &report(6.0, 0.5, 0.04)), []);
        let kinds = |r: &StepReport| config.look(&memory, r).iter().map(|a| a.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&report(6.001, 0.5, 0.04)), [Kind::GradientSpike]);
        assert_eq!(kinds(&report(6.0, 0.501, 0.04)), [Kind::Mismatch]);
        assert_eq!(kinds(&report(6.0, 0.5, 0.039)), [Kind::EntropyCollapse]);
        assert_eq!(kinds(&report(9.0, 2.0, 0.0)), [Kind::GradientSpike, Kind::Mismatch, Kind::EntropyCollapse]);
        assert_eq!(kinds(&report(f64::NAN, 0.0, 1.0)), [Kind::NotFinite]);
        assert_eq!(kinds(&report(f64::INFINITY, 9.0, 1.0)), [Kind::NotFinite]);
        assert_eq!(kinds(&StepReport { loss: f64::NAN, ..report(1.0, 0.0, 1.0) }), [Kind::NotFinite]);
        assert_eq!(kinds(&report(1.0, f64::NAN, 1.0)), [Kind::Mismatch], "what is no number is no small one");
        let text = config.look(&memory, &report(7.0, 0.0, 1.0))[0].to_string();
        assert_eq!(text, "the gradient's norm is 7.0000, at most 6.0000 was expected");
    }

    #[test]
    fn nothing_is_compared_before_enough_is_known() {
        let config = GuardConfig { window: 8, gradient_spike_factor: 1.0, ..GuardConfig::default() };
        let mut memory = Memory::default();
        for n in 0..4 {
            assert_eq!(config.look(&memory, &report(10f64.powi(n), 0.0, 1.0)), [], "{n} norms are known");
            memory.remember(&config, &report(1.0, 0.0, 1.0));
        }
        assert_eq!(
            config.look(&memory, &report(1.5, 0.0, 0.0)).len(),
            1,
            "the norm; the entropy of 4 steps is not enough"
        );
    }

    #[test]
    fn skipped_steps_are_not_remembered_and_a_lowered_rate_stays_lowered() {
        let config = GuardConfig { window: 4, mismatch: Reaction::LowerRate, ..GuardConfig::default() };
        let mut memory = usual(&config, 4);
        let before = memory.clone();
        memory.remember(&config, &StepReport { applied: false, ..report(1e9, 0.0, 0.0) });
        assert_eq!(memory, before);
        let alarms = config.look(&memory, &report(1.0, 1.0, 1.0));
        assert!(!skips(&alarms) && alarms[0].reaction == Reaction::LowerRate);
        for (step, scale) in [0.5, 0.5, 0.5, 0.5, 0.25, 0.25].into_iter().enumerate() {
            memory.lower(&config, &alarms);
            assert_eq!(memory.lr_scale, scale, "step {step}: once in four");
            memory.remember(&config, &report(1.0 / 3.0, 1.0, 0.1 + 0.2));
        }
        let text = serde_json::to_string(&memory).expect("numbers");
        assert_eq!(serde_json::from_str::<Memory>(&text).expect("its own text"), memory);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert_eq!(GuardConfig::default().check(), Ok(()));
        let broken = [
            (GuardConfig { not_finite: Reaction::Warn, ..GuardConfig::default() }, "not_finite"),
            (GuardConfig { gradient_spike_factor: 0.5, ..GuardConfig::default() }, "gradient_spike_factor"),
            (GuardConfig { mismatch_kl_max: f64::NAN, ..GuardConfig::default() }, "mismatch_kl_max"),
            (GuardConfig { entropy_share_min: 1.0, ..GuardConfig::default() }, "entropy_share_min"),
            (GuardConfig { lower_by: 1.0, ..GuardConfig::default() }, "lower_by"),
            (GuardConfig { window: 1, ..GuardConfig::default() }, "window"),
        ];
        for (config, key) in broken {
            assert_eq!(config.check().expect_err("refused").key, key);
        }
    }
}
