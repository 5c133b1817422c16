//! What the last step found for each token, for those who look at a run.

use burn::tensor::backend::AutodiffBackend;

use super::Learner;
use crate::kernels::Kernels;

impl<AB: AutodiffBackend + Kernels> Learner<AB> {
    /// Log-probs and entropies (nats) of each sample's tokens of the last `train_step`, as they were before it updated anything.
    pub fn take_seen(&mut self) -> Vec<(Vec<f32>, Vec<f32>)> {
        let narrow = |all: Vec<f64>| all.into_iter().map(|x| x as f32).collect();
        std::mem::take(&mut self.seen).into_iter().map(|s| (narrow(s.logprobs), narrow(s.entropies))).collect()
    }
}
