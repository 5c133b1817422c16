//! Draws the next token from a row of logits and says with which probability it was drawn.
//!
//! The filters run in the order the Hugging Face library uses, each on what the one before left:
//! 1. temperature: `z = logits / temperature`;
//! 2. `top_k`: the `k` largest stay (equal logits: the lower token id first);
//! 3. `top_p`: of the renormalised rest, the smallest set of most probable tokens whose mass reaches `p`;
//! 4. `min_p`: tokens with at least `min_p` times the probability of the most probable one.
//!
//! The recorded log-prob is the one under the distribution that was sampled from: after all four, renormalised.
//! `temperature = 0` is greedy: the largest logit (the lower id on a tie), no random number is used, the filters have no
//! effect, and the log-prob is the one of the unfiltered distribution at temperature 1 (that of the greedy policy itself
//! would be 0 for every token and say nothing).

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::host::kernels::exp_sum_in_place;

/// How the next token is chosen. The default samples from the model's own distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 = greedy.
    pub temperature: f32,
    /// 0 = off.
    pub top_k: usize,
    /// 1 = off.
    pub top_p: f32,
    /// 0 = off.
    pub min_p: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

impl Sampling {
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    fn truncates(&self, vocab: usize) -> bool {
        (self.top_k > 0 && self.top_k < vocab) || self.top_p < 1.0 || self.min_p > 0.0
    }
}

/// The random numbers of one sequence: one draw a sampled token, from the request's seed alone.
#[derive(Clone, Debug)]
pub struct TokenRng(ChaCha8Rng);

impl TokenRng {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// Buffers reused from token to token.
#[derive(Clone, Debug, Default)]
pub struct SamplingScratch {
    probs: Vec<f32>,
    order: Vec<u32>,
}

/// One token and its natural-log probability. `logits` must be finite and not empty; of a row with a NaN no promise is made
/// except that a token id within the row comes back.
pub fn sample(logits: &[f32], how: &Sampling, rng: &mut TokenRng, scratch: &mut SamplingScratch) -> (u32, f32) {
    if how.temperature <= 0.0 {
        let best = argmax(logits);
        return (best as u32, log_prob(logits, best, 1.0) as f32);
    }
    let max = logits[argmax(logits)];
    let inv_t = 1.0 / how.temperature;
    scratch.probs.clear();
    scratch.probs.extend(logits.iter().map(|z| (z - max) * inv_t));
    let total = exp_sum_in_place(&mut scratch.probs);
    if how.truncates(logits.len()) {
        return sample_truncated(how, rng, scratch);
    }
    let index = walk(scratch.probs.iter().copied(), rng.uniform() * total);
    (index as u32, (f64::from((logits[index] - max) * inv_t) - total.ln()) as f32)
}

/// `probs` holds unnormalised probabilities with a maximum of 1. Only tokens that can stay are sorted: most rows have few.
fn sample_truncated(how: &Sampling, rng: &mut TokenRng, scratch: &mut SamplingScratch) -> (u32, f32) {
    let SamplingScratch { probs, order } = scratch;
    order.clear();
    order.extend(0..probs.len() as u32);
    let mass = |i: &u32| f64::from(probs[*i as usize]);
    let descending = |a: &u32, b: &u32| probs[*b as usize].total_cmp(&probs[*a as usize]).then(a.cmp(b));
    if how.top_k > 0 && how.top_k < order.len() {
        order.select_nth_unstable_by(how.top_k - 1, descending);
        order.truncate(how.top_k);
    }
    // The share of `top_p` is that of all `top_k` left, also where `min_p` is the sharper cut.
    let target = (how.top_p < 1.0).then(|| f64::from(how.top_p.max(0.0)) * order.iter().map(mass).sum::<f64>());
    if how.min_p > 0.0 {
        // Both filters keep the likeliest tokens, so their order does not matter once the share is known.
        let best = order.iter().copied().min_by(descending).unwrap_or_default();
        let floor = how.min_p.min(1.0) * probs[best as usize];
        order.retain(|i| *i == best || probs[*i as usize] >= floor);
    }
    match target {
        Some(target) => keep_mass(order, target, mass, descending),
        None => order.sort_unstable_by(descending),
    }
    let total: f64 = order.iter().map(mass).sum();
    let at = walk(order.iter().map(|i| probs[*i as usize]), rng.uniform() * total);
    let token = order[at];
    (token, (f64::from(probs[token as usize]) / total).ln() as f32)
}

/// Sorts, and keeps the shortest start of the sorted order whose mass reaches `target` (all, if none does). Sorted in pieces
/// that double: the start is mostly short.
fn keep_mass(
    order: &mut Vec<u32>,
    target: f64,
    mass: impl Fn(&u32) -> f64,
    descending: impl Fn(&u32, &u32) -> std::cmp::Ordering + Copy,
) {
    const FIRST_PIECE: usize = 32;
    let (mut sum, mut sorted, mut piece) = (0.0, 0, FIRST_PIECE);
    while sorted < order.len() {
        let rest = &mut order[sorted..];
        if piece < rest.len() {
            rest.select_nth_unstable_by(piece, descending);
        }
        let piece_len = piece.min(rest.len());
        rest[..piece_len].sort_unstable_by(descending);
        for (n, i) in rest[..piece_len].iter().enumerate() {
            sum += mass(i);
            if sum >= target {
                order.truncate(sorted + n + 1);
                return;
            }
        }
        sorted += piece_len;
        piece *= 2;
    }
}

/// The first index whose cumulative mass exceeds `target`; the last with mass when rounding leaves none.
fn walk(masses: impl Iterator<Item = f32>, target: f64) -> usize {
    let mut sum = 0.0f64;
    let mut last = 0;
    for (index, mass) in masses.enumerate() {
        if mass > 0.0 {
            sum += f64::from(mass);
            last = index;
            if sum > target {
                break;
            }
        }
    }
    last
}

/// The index of the largest value, the first of equals.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

/// `log softmax(logits / temperature)[index]`, the sum in f64.
pub fn log_prob(logits: &[f32], index: usize, temperature: f32) -> f64 {
    let inv_t = 1.0 / f64::from(temperature);
    let max = f64::from(logits[argmax(logits)]);
    let sum: f64 = logits.iter().map(|z| ((f64::from(*z) - max) * inv_t).exp()).sum();
    (f64::from(logits[index]) - max) * inv_t - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.3, 2.0, -1.0, 1.2, 0.31, 1.9];

    /// The definition, written once more in the plainest way.
    fn brute_force(how: &Sampling) -> Vec<f64> {
        let z: Vec<f64> = LOGITS.iter().map(|x| f64::from(*x) / f64::from(how.temperature)).collect();
        let mut p: Vec<f64> = z.iter().map(|x| x.exp()).collect();
        let normalise = |p: &mut Vec<f64>| {
            let sum: f64 = p.iter().sum();
            p.iter_mut().for_each(|x| *x /= sum);
        };
        normalise(&mut p);
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
        if how.top_k > 0 {
            for i in order.iter().skip(how.top_k) {
                p[*i] = 0.0;
            }
            normalise(&mut p);
        }
        let mut mass = 0.0;
        for i in &order {
            if mass >= f64::from(how.top_p) {
                p[*i] = 0.0;
            }
            mass += p[*i];
        }
        let top = p.iter().copied().fold(0.0, f64::max);
        for x in &mut p {
            if *x < f64::from(how.min_p) * top {
                *x = 0.0;
            }
        }
        normalise(&mut p);
        p
    }

    fn check(how: Sampling) {
        let expected = brute_force(&how);
        let mut rng = TokenRng::new(7);
        let mut scratch = SamplingScratch::default();
        let draws = 40_000;
        let mut counts = vec![0usize; LOGITS.len()];
        for _ in 0..draws {
            let (token, logprob) = sample(&LOGITS, &how, &mut rng, &mut scratch);
            counts[token as usize] += 1;
            let p = expected[token as usize];
            assert!((f64::from(logprob) - p.ln()).abs() < 1e-5, "{how:?}: token {token}: {logprob} against {}", p.ln());
        }
        for (token, p) in expected.iter().enumerate() {
            let found = counts[token] as f64 / f64::from(draws);
            // Four standard deviations of a binomial.
            let room = 4.0 * (p * (1.0 - p) / f64::from(draws)).sqrt();
            assert!((found - p).abs() <= room, "{how:?}: token {token} drawn {found}, expected {p}");
        }
    }

    #[test]
    fn draws_follow_the_definition_of_every_filter() {
        check(Sampling::default());
        check(Sampling { temperature: 0.6, ..Sampling::default() });
        check(Sampling { top_k: 3, ..Sampling::default() });
        check(Sampling { top_p: 0.7, ..Sampling::default() });
        check(Sampling { min_p: 0.3, ..Sampling::default() });
        check(Sampling { temperature: 1.7, top_k: 5, top_p: 0.8, min_p: 0.25 });
    }

    /// The filters with the whole vocabulary sorted once: what `sample` did before it sorted only what can stay.
    fn sorted_whole(how: &Sampling, rng: &mut TokenRng, probs: &[f32]) -> (u32, f32) {
        let mut order: Vec<u32> = (0..probs.len() as u32).collect();
        order.sort_by(|a, b| probs[*b as usize].total_cmp(&probs[*a as usize]).then(a.cmp(b)));
        if how.top_k > 0 {
            order.truncate(how.top_k);
        }
        let mass = |order: &[u32]| order.iter().map(|i| f64::from(probs[*i as usize])).sum::<f64>();
        if how.top_p < 1.0 {
            let target = f64::from(how.top_p) * mass(&order);
            let keep = (1..=order.len()).find(|n| mass(&order[..*n]) >= target).unwrap_or(order.len());
            order.truncate(keep);
        }
        let floor = how.min_p * probs[order[0] as usize];
        order.retain(|i| probs[*i as usize] >= floor);
        let total = mass(&order);
        let at = walk(order.iter().map(|i| probs[*i as usize]), rng.uniform() * total);
        (order[at], (f64::from(probs[order[at] as usize]) / total).ln() as f32)
    }

    /// Bit for bit, over rows from peaked to flat, with ties. Planted and seen to fail: a first piece that is not sorted, and
    /// `top_p`'s share taken after `min_p`.
    #[test]
    fn sorting_only_what_can_stay_changes_no_sample() {
        let mut noise = TokenRng::new(11);
        let mut scratch = SamplingScratch::default();
        for round in 0..1_500u64 {
            let width = 1 + (noise.uniform() * 400.0) as usize;
            let peak = noise.uniform() * 12.0;
            let logits: Vec<f32> = (0..width).map(|_| ((noise.uniform() * peak) * 8.0).round() as f32 / 8.0).collect();
            let pick = |noise: &mut TokenRng, values: &[f32]| values[(noise.uniform() * values.len() as f64) as usize];
            let how = Sampling {
                temperature: pick(&mut noise, &[0.5, 1.0, 1.6]),
                top_k: pick(&mut noise, &[0.0, 1.0, 7.0, 60.0]) as usize,
                top_p: pick(&mut noise, &[0.01, 0.5, 0.9, 0.999, 1.0]),
                min_p: pick(&mut noise, &[0.0, 1e-4, 0.05, 0.5]),
            };
            if !how.truncates(width) {
                continue;
            }
            let found = sample(&logits, &how, &mut TokenRng::new(round), &mut scratch);
            let expected = sorted_whole(&how, &mut TokenRng::new(round), &scratch.probs);
            assert_eq!(found, expected, "round {round}: {how:?}, {width} tokens");
        }
    }

    #[test]
    fn greedy_takes_the_first_maximum_and_uses_no_randomness() {
        let mut rng = TokenRng::new(1);
        let before = rng.clone().uniform();
        let mut scratch = SamplingScratch::default();
        let (token, logprob) = sample(&[1.0, 3.0, 3.0], &Sampling::GREEDY, &mut rng, &mut scratch);
        assert_eq!(token, 1);
        let p = 1.0 / (2.0 + (-2.0f64).exp());
        assert!((f64::from(logprob) - p.ln()).abs() < 1e-6);
        assert_eq!(rng.uniform(), before);
    }
}
