//! Statistics of interleaved timing: medians, intervals that assume no distribution, and when there are enough samples.

use serde::{Deserialize, Serialize};

/// When a measurement is done.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Samples of each side before anything is concluded.
    pub min_samples: usize,
    pub max_samples: usize,
    /// Half the width of the 95 % interval of the ratio, relative to the ratio.
    pub relative_width: f64,
    /// Or of each side's, microseconds: what the clock of a device cannot tell more samples do not tell either. Events of an H200 come in steps
    /// of 0.032 us, which is 1.6 % of a call of two. Sampling ends there, but has not converged where the ratio's is wider.
    pub resolution_us: f64,
    /// Calls at the start of a burst that do not count: the device comes from another process.
    pub dropped: usize,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig { min_samples: 55, max_samples: 300, relative_width: 0.02, resolution_us: 0.05, dropped: 1 }
    }
}

/// What was measured. Microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    pub reference_us: f64,
    pub candidate_us: f64,
    /// Median absolute deviations.
    pub reference_mad_us: f64,
    pub candidate_mad_us: f64,
    pub speedup: f64,
    /// The 95 % interval of the speed-up.
    pub low: f64,
    pub high: f64,
    pub samples: usize,
    pub converged: bool,
    /// The interval covers 1.
    pub tie: bool,
}

impl Timed {
    /// The same measurement, paid against a reference of `most_us` where it took longer: what is let pass beyond that earns nobody anything.
    /// `reference_us` stays what was measured, and a tie stays one: what is taken off makes nobody slower than an equal.
    pub fn paid_at_most(self, most_us: f64) -> Timed {
        let by = (most_us / self.reference_us).min(1.0);
        let (speedup, low, high) = (self.speedup * by, self.low * by, self.high * by);
        Timed { speedup, low, high, tie: self.tie || (low <= 1.0 && 1.0 <= high), ..self }
    }

    /// The same measurement with another time of the candidate's: of its calls, it is what they cost.
    pub fn charged(self, candidate_us: f64) -> Timed {
        let by = self.candidate_us / candidate_us;
        let (speedup, low, high) = (self.speedup * by, self.low * by, self.high * by);
        Timed { candidate_us, speedup, low, high, tie: low <= 1.0 && 1.0 <= high, ..self }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    More,
    Done(Timed),
}

/// A sample that is no time.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} microseconds")]
pub struct NoTime(pub f64);

/// Collects bursts until the interval is narrow enough.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    reference: Vec<f64>,
    candidate: Vec<f64>,
}

/// Of each median, so that both hold together with 95 % (Bonferroni).
pub const CONFIDENCE: f64 = 0.975;

impl Sampler {
    pub fn new(config: SamplerConfig) -> Sampler {
        Sampler { config, reference: Vec::new(), candidate: Vec::new() }
    }

    /// One burst of each side, in microseconds.
    ///
    /// # Errors
    /// A sample that is not finite or not above zero.
    pub fn feed(&mut self, reference_us: &[f64], candidate_us: &[f64]) -> Result<Next, NoTime> {
        let bad = |us: &&f64| !(us.is_finite() && **us > 0.0);
        if let Some(&us) = reference_us.iter().chain(candidate_us).find(bad) {
            return Err(NoTime(us));
        }
        // A burst too short to drop from counts whole: better than never ending.
        let kept = |us: &[f64]| if us.len() > self.config.dropped { self.config.dropped } else { 0 };
        self.reference.extend(&reference_us[kept(reference_us)..]);
        self.candidate.extend(&candidate_us[kept(candidate_us)..]);
        let samples = self.reference.len().min(self.candidate.len());
        if samples < self.config.min_samples.max(2) {
            return Ok(Next::More);
        }
        let (timed, as_told) = timed(&self.reference, &self.candidate, &self.config);
        let done = timed.converged || as_told || samples >= self.config.max_samples;
        Ok(if done { Next::Done(timed) } else { Next::More })
    }
}

impl Sampler {
    /// Where there are enough samples and they do not tell enough: how many more there may be.
    pub fn left(&self) -> Option<usize> {
        let samples = self.reference.len().min(self.candidate.len());
        (samples >= self.config.min_samples.max(2)).then(|| self.config.max_samples.saturating_sub(samples))
    }

    /// What there is, where there is no time for more.
    pub fn so_far(&self) -> Option<Timed> {
        let samples = self.reference.len().min(self.candidate.len());
        let few = samples < self.config.min_samples;
        (samples > 0).then(|| {
            let (timed, _) = timed(&self.reference, &self.candidate, &self.config);
            Timed { converged: timed.converged && !few, ..timed }
        })
    }
}

/// And whether the clock tells no more.
fn timed(reference: &[f64], candidate: &[f64], config: &SamplerConfig) -> (Timed, bool) {
    let (reference_us, candidate_us) = (median(reference), median(candidate));
    let ((r_low, r_high), (c_low, c_high)) = (interval(reference, CONFIDENCE), interval(candidate, CONFIDENCE));
    let speedup = reference_us / candidate_us;
    let (low, high) = (r_low / c_high, r_high / c_low);
    let as_told = (r_high - r_low).max(c_high - c_low) / 2.0 <= config.resolution_us;
    let timed = Timed {
        reference_us,
        candidate_us,
        reference_mad_us: deviation(reference, reference_us),
        candidate_mad_us: deviation(candidate, candidate_us),
        speedup,
        low,
        high,
        samples: reference.len().min(candidate.len()),
        converged: (high - low) / 2.0 <= config.relative_width * speedup,
        tie: low <= 1.0 && 1.0 <= high,
    };
    (timed, as_told)
}

/// The median; not a number of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        // Halved first: the sum of two that may be anybody's word need not be finite.
        n => sorted[n / 2 - 1] / 2.0 + sorted[n / 2] / 2.0,
    }
}

fn deviation(values: &[f64], around: f64) -> f64 {
    median(&values.iter().map(|v| (v - around).abs()).collect::<Vec<_>>())
}

/// An interval that covers the median with at least `confidence`, whatever the distribution: the k-th smallest and the k-th
/// largest value, k as large as the binomial distribution allows (Conover, Practical Nonparametric Statistics, 3.2). All
/// values where there are too few.
pub fn interval(values: &[f64], confidence: f64) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return (f64::NAN, f64::NAN);
    }
    let tail = (1.0 - confidence) / 2.0;
    // P(fewer than k of n are below the median), k = 1, 2, ..
    let mut term = 0.5f64.powi(n as i32);
    let (mut below, mut k) = (term, 0);
    while below <= tail && 2 * (k + 1) <= n {
        k += 1;
        term *= (n - k + 1) as f64 / k as f64;
        below += term;
    }
    let k = k.max(1);
    (sorted[k - 1], sorted[n - k])
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) struct Random(pub u64);

    impl Random {
        pub(crate) fn unit(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Like times: a floor and a tail above it. Its median is 10 + ln 2.
        fn time(&mut self) -> f64 {
            10.0 - (1.0 - self.unit()).ln()
        }
    }

    /// Planted bug: one order statistic too narrow covers 92 % at this size.
    #[test]
    fn the_interval_covers_the_median_as_often_as_it_says() {
        let truth = 10.0 + 2.0f64.ln();
        for (n, confidence) in [(12, 0.95), (30, 0.95), (42, 0.975), (200, 0.95)] {
            let mut random = Random(n as u64);
            let covered = (0..4000).filter(|_| {
                let values: Vec<f64> = (0..n).map(|_| random.time()).collect();
                let (low, high) = interval(&values, confidence);
                low <= truth && truth <= high
            });
            let share = covered.count() as f64 / 4000.0;
            assert!(share > confidence - 0.008, "{n} samples: {share}");
            assert!(share < confidence + 0.045, "{n} samples: the interval is wider than it need be, {share}");
        }
    }

    /// By tables of the binomial distribution: n = 10, 95 %: the 2nd and the 9th.
    #[test]
    fn known_ranks() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(interval(&values, 0.95), (2.0, 9.0));
        assert_eq!(interval(&[3.0], 0.95), (3.0, 3.0));
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(interval(&values, 0.95), (6.0, 15.0));
    }

    #[test]
    fn the_ratio_is_covered_and_sampling_ends() {
        let mut covered = 0;
        for seed in 0..1000 {
            let mut random = Random(seed);
            let config =
                SamplerConfig { min_samples: 20, max_samples: 70, resolution_us: 0.0, ..SamplerConfig::default() };
            let mut sampler = Sampler::new(config);
            let timed = loop {
                let reference: Vec<f64> = (0..8).map(|_| 2.0 * random.time()).collect();
                let candidate: Vec<f64> = (0..8).map(|_| random.time()).collect();
                if let Next::Done(timed) = sampler.feed(&reference, &candidate).unwrap() {
                    break timed;
                }
            };
            assert!(timed.samples <= 77 && timed.converged == ((timed.high - timed.low) / 2.0 <= 0.02 * timed.speedup));
            covered += usize::from(timed.low <= 2.0 && 2.0 <= timed.high);
        }
        assert!(covered >= 950, "{covered}");
    }

    #[test]
    fn the_first_call_of_a_burst_does_not_count() {
        let config = SamplerConfig { min_samples: 6, max_samples: 6, relative_width: 0.0, ..SamplerConfig::default() };
        let mut sampler = Sampler::new(config);
        assert_eq!(sampler.feed(&[900.0, 10.0, 10.0, 10.0], &[900.0, 5.0, 5.0, 5.0]), Ok(Next::More));
        let Ok(Next::Done(timed)) = sampler.feed(&[900.0, 10.0, 10.0, 10.0], &[900.0, 5.0, 5.0, 5.0]) else { panic!() };
        assert_eq!((timed.speedup, timed.low, timed.high, timed.tie, timed.converged), (2.0, 2.0, 2.0, false, true));
    }

    #[test]
    fn equal_sides_tie_and_what_is_no_time_is_an_error() {
        let mut ties = 0;
        for seed in 0..300 {
            let mut sampler = Sampler::new(SamplerConfig { min_samples: 16, ..SamplerConfig::default() });
            let mut random = Random(seed);
            let mut side = || (0..9).map(|_| random.time()).collect::<Vec<_>>();
            let timed = loop {
                if let Next::Done(timed) = sampler.feed(&side(), &side()).unwrap() {
                    break timed;
                }
            };
            ties += usize::from(timed.tie);
        }
        assert!(ties >= 285, "{ties}");
        let mut sampler = Sampler::new(SamplerConfig::default());
        for bad in [0.0, -1.0, f64::INFINITY, f64::NAN] {
            assert!(sampler.feed(&[1.0, 1.0], &[1.0, bad]).is_err(), "{bad}");
        }
    }

    /// Planted bug: a call of a microsecond is sampled to the last, though its clock's steps are all that is left of the interval; or it
    /// is said to have converged then.
    #[test]
    fn no_more_is_asked_than_the_clock_tells() {
        let ends = |resolution_us: f64, us: f64, noise_us: f64| {
            let mut sampler = Sampler::new(SamplerConfig { resolution_us, ..SamplerConfig::default() });
            let mut random = Random(3);
            let mut side = |us: f64| {
                let step = |time: f64| (time / 0.032).round() * 0.032;
                (0..12).map(|_| step(us + noise_us * (random.unit() - 0.5))).collect::<Vec<_>>()
            };
            loop {
                if let Next::Done(timed) = sampler.feed(&side(3.0 * us), &side(us)).unwrap() {
                    return timed;
                }
            }
        };
        let (all, few) = (ends(0.0, 1.0, 0.4), ends(0.05, 1.0, 0.4));
        assert!(all.samples >= 300 && !all.converged, "{all:?}");
        assert!(few.samples < 150 && !few.converged && few.low < 3.0 && few.high > 3.0, "{few:?}");
        // Where the clock tells more it is asked.
        let (all, more) = (ends(0.0, 60.0, 6.0), ends(0.05, 60.0, 6.0));
        assert!(all == more && more.samples > 55 && more.converged, "{more:?}");
        assert!(ends(5.0, 60.0, 6.0).samples < more.samples, "there is something to be told");
    }

    /// Planted bugs: a candidate that slows a reference of 6 us down by what is let pass is paid 8 % for it; an equal is paid less than 1.
    #[test]
    fn a_slower_reference_is_not_paid_for_and_a_faster_one_counts() {
        let mut sampler = Sampler::new(SamplerConfig { min_samples: 8, dropped: 0, ..SamplerConfig::default() });
        let Ok(Next::Done(timed)) = sampler.feed(&[6.5; 60], &[6.0; 60]) else { panic!("more") };
        assert!(!timed.tie && timed.speedup > 1.08);
        let paid = timed.clone().paid_at_most(6.0);
        assert!((paid.speedup - 1.0).abs() < 1e-12 && paid.reference_us == 6.5, "{paid:?}");
        assert!((paid.low - timed.low * 6.0 / 6.5).abs() < 1e-12 && (paid.high - timed.high * 6.0 / 6.5).abs() < 1e-12);
        assert!(paid.tie, "against what is paid it is an equal");
        assert_eq!(timed.clone().paid_at_most(7.0), timed, "it was faster than that: by what it took");
        let equal = Timed { speedup: 1.0, low: 0.99, high: 1.01, tie: true, ..timed };
        let paid = equal.paid_at_most(6.2);
        assert!(paid.high < 1.0 && paid.tie, "in the lease it was an equal: {paid:?}");
    }

    /// A candidate whose calls take twice as long when they are waited for is half as fast as its events say.
    #[test]
    fn what_waited_calls_take_is_charged() {
        let mut sampler = Sampler::new(SamplerConfig { min_samples: 8, dropped: 0, ..SamplerConfig::default() });
        let Ok(Next::Done(timed)) = sampler.feed(&[12.0; 60], &[10.0; 60]) else { panic!("more") };
        assert!((timed.speedup, timed.tie) == (1.2, false), "{timed:?}");
        let charged = timed.clone().charged(20.0);
        assert!((charged.speedup - 0.6).abs() < 1e-12 && charged.candidate_us == 20.0, "{charged:?}");
        assert!((charged.low - timed.low / 2.0).abs() < 1e-12 && (charged.high - timed.high / 2.0).abs() < 1e-12);
        assert!(timed.charged(12.0).tie, "as fast as the reference");
    }
}
