//! What the last step found for each token, for those who look at a run.

use burn::tensor::backend::AutodiffBackend;

use super::Learner;
use crate::kernels::Kernels;

/// One sample's tokens as they were before the step updated anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Natural log.
    pub logprobs: Vec<f32>,
    /// Nats.
    pub entropies: Vec<f32>,
    /// What the correction made of each token (`Fate::code`); empty where it kept all of them as they are.
    pub fates: Vec<u8>,
}

impl<AB: AutodiffBackend + Kernels> Learner<AB> {
    /// Of each sample of the last `train_step`, in their order.
    pub fn take_seen(&mut self) -> Vec<Seen> {
        let narrow = |all: Vec<f64>| all.into_iter().map(|x| x as f32).collect();
        let mut fates = std::mem::take(&mut self.fates).into_iter();
        let scored = std::mem::take(&mut self.seen).into_iter();
        scored
            .map(|s| Seen {
                logprobs: narrow(s.logprobs),
                entropies: narrow(s.entropies),
                fates: fates.next().unwrap_or_default(),
            })
            .collect()
    }
}
