//! The factor each token's clipped objective is multiplied with, so that a plain sum over tokens is the objective.
//!
//! ```text
//! J = 1/Q sum_q 1/G_q sum_j [ alpha / N_j^plan  sum_{t in plan} s_t  +  1 / N_j^code  sum_{t in code} s_t ]
//! s_t = min(rho_t A_j^c, clip(rho_t, 1 - low, 1 + high) A_j^c)
//! ```
//!
//! The learner stays blind to the algorithm: it multiplies and adds. `alpha` means nothing without `len_norm`: with
//! 6,000 plan and 1,500 code tokens, alpha = 0.1 weighs a plan token against a code token 1 : 40 under `per_class` and
//! 1 : 10 under `sequence` and `token_mean`. `BatchWeights::plan_to_code` is that ratio, to be logged.

pub use crate::config::LenNorm;

/// The weight part of the `[reward]` section.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightConfig {
    pub alpha: f64,
    pub len_norm: LenNorm,
    /// Tokens.
    pub len_norm_constant: u32,
}

/// Tokens per class of one sample. An answer without delimiter is all code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassLengths {
    pub plan: u32,
    pub code: u32,
}

impl ClassLengths {
    /// From a completion: `plan_tokens` leading tokens of `tokens` are the plan, none without a delimiter.
    pub fn new(tokens: usize, plan_tokens: Option<u32>) -> Self {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let plan = plan_tokens.unwrap_or(0).min(tokens);
        ClassLengths { plan, code: tokens - plan }
    }

    /// All tokens.
    pub fn total(self) -> u64 {
        u64::from(self.plan) + u64::from(self.code)
    }
}

/// What a group has to know of the batch it trains in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Groups in the batch (Q).
    pub groups: usize,
    /// Tokens in the batch, both classes.
    pub tokens: u64,
}

/// Per-token factors of one sample; 0 for a class without tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenWeights {
    pub plan: f64,
    pub code: f64,
}

/// Factors of a whole batch, `[group][member]`.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchWeights {
    pub weights: Vec<Vec<TokenWeights>>,
    /// Mean factor of a plan token over mean factor of a code token; `None` where a class has no token.
    pub plan_to_code: Option<f64>,
}

/// Factors of one group's members (the survivors: G is their number), in their order.
pub fn token_weights(group: &[ClassLengths], batch: BatchShape, config: &WeightConfig) -> Vec<TokenWeights> {
    let members = (batch.groups.max(1) * group.len().max(1)) as f64;
    let factor = |class_tokens: u32, sample: ClassLengths| {
        if class_tokens == 0 {
            return 0.0;
        }
        match config.len_norm {
            LenNorm::PerClass => 1.0 / (members * f64::from(class_tokens)),
            LenNorm::Sequence => 1.0 / (members * sample.total() as f64),
            LenNorm::TokenMean => 1.0 / batch.tokens.max(1) as f64,
            LenNorm::Constant => 1.0 / (members * f64::from(config.len_norm_constant.max(1))),
        }
    };
    group.iter().map(|s| TokenWeights { plan: config.alpha * factor(s.plan, *s), code: factor(s.code, *s) }).collect()
}

/// Factors of all groups of a batch, and the effective plan : code weight.
pub fn batch_weights(groups: &[Vec<ClassLengths>], config: &WeightConfig) -> BatchWeights {
    let shape = BatchShape { groups: groups.len(), tokens: groups.iter().flatten().map(|s| s.total()).sum() };
    let weights: Vec<Vec<TokenWeights>> = groups.iter().map(|g| token_weights(g, shape, config)).collect();
    let (mut plan, mut code) = ((0.0, 0u64), (0.0, 0u64));
    for (sample, weight) in groups.iter().flatten().zip(weights.iter().flatten()) {
        plan = (plan.0 + weight.plan * f64::from(sample.plan), plan.1 + u64::from(sample.plan));
        code = (code.0 + weight.code * f64::from(sample.code), code.1 + u64::from(sample.code));
    }
    let plan_to_code = (plan.1 > 0 && code.1 > 0).then(|| (plan.0 / plan.1 as f64) / (code.0 / code.1 as f64));
    BatchWeights { weights, plan_to_code }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(len_norm: LenNorm) -> WeightConfig {
        WeightConfig { alpha: 0.1, len_norm, len_norm_constant: 256 }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs().max(1e-300)
    }

    #[test]
    fn alpha_depends_on_the_length_norm() {
        let batch = vec![vec![ClassLengths { plan: 6000, code: 1500 }; 4]; 2];
        for (norm, ratio) in [
            (LenNorm::PerClass, 40.0),
            (LenNorm::Sequence, 10.0),
            (LenNorm::TokenMean, 10.0),
            (LenNorm::Constant, 10.0),
        ] {
            let found = batch_weights(&batch, &config(norm)).plan_to_code.expect("both classes have tokens");
            assert!(close(found, 1.0 / ratio), "{norm:?}: {found}");
        }
    }

    #[test]
    fn the_sum_over_tokens_is_the_objective() {
        // s_t = 1 for every token: J is alpha + 1 under per_class, whatever the lengths and the number of groups.
        let batch = vec![
            vec![ClassLengths { plan: 7, code: 3 }, ClassLengths { plan: 1, code: 90 }],
            vec![
                ClassLengths { plan: 40, code: 2 },
                ClassLengths { plan: 4, code: 4 },
                ClassLengths { plan: 5, code: 6 },
            ],
        ];
        let sum = |norm: LenNorm| {
            let weights = batch_weights(&batch, &config(norm)).weights;
            let mut total = 0.0;
            for (s, w) in batch.iter().flatten().zip(weights.iter().flatten()) {
                total += w.plan * f64::from(s.plan) + w.code * f64::from(s.code);
            }
            total
        };
        assert!(close(sum(LenNorm::PerClass), 1.1));
        // token_mean: (alpha * plan tokens + code tokens) / tokens
        assert!(close(sum(LenNorm::TokenMean), (0.1 * 57.0 + 105.0) / 162.0));
        // sequence: mean over groups of mean over members of (alpha * plan + code) / total
        let first = ((0.7 + 3.0) / 10.0 + (0.1 + 90.0) / 91.0) / 2.0;
        let second = ((4.0 + 2.0) / 42.0 + (0.4 + 4.0) / 8.0 + (0.5 + 6.0) / 11.0) / 3.0;
        assert!(close(sum(LenNorm::Sequence), (first + second) / 2.0));
        // constant: the same with 256 tokens everywhere
        let first = ((0.7 + 3.0) + (0.1 + 90.0)) / 256.0 / 2.0;
        let second = ((4.0 + 2.0) + (0.4 + 4.0) + (0.5 + 6.0)) / 256.0 / 3.0;
        assert!(close(sum(LenNorm::Constant), (first + second) / 2.0));
    }

    #[test]
    fn an_empty_class_weighs_nothing() {
        let lengths = ClassLengths::new(12, None);
        assert_eq!(lengths, ClassLengths { plan: 0, code: 12 });
        let weights = batch_weights(&[vec![lengths]], &config(LenNorm::PerClass));
        assert_eq!(weights.weights[0][0], TokenWeights { plan: 0.0, code: 1.0 / 12.0 });
        assert_eq!(weights.plan_to_code, None);
        assert_eq!(ClassLengths::new(5, Some(9)), ClassLengths { plan: 5, code: 0 });
    }
}
