//! Whether a candidate's calls take longer where each is waited for than where others are queued behind it: part of its work goes on where
//! its events do not see it then.
//!
//! A measurement has some twenty waited calls, a third as many as queued ones, and honest calls may differ by a percent or two with where
//! their tensors are. The median of twenty is then a percent above that of the others now and then, and only ever above: who is charged for
//! each of these is a percent slower than he is now and then. So little has to be sure, and much need not be. What this leaves to whoever
//! hides work elsewhere is `MUCH`, whatever some of the waited calls are like, and what is let pass after an event (`burst::REST_SHARE`).

use crate::gpu::timing::{CONFIDENCE, interval, median};

/// By so much waited calls may be slower: what one that is sure is charged for.
const SURE: f64 = 0.01;
/// By so much they are slower for sure enough, whatever their interval.
const MUCH: f64 = 0.02;

/// What the waited calls take where the candidate is charged for that, and whether their own interval is within `width` of it.
pub(super) fn charged(queued_us: f64, waited_us: &[f64], width: f64) -> Option<(f64, bool)> {
    let middle = median(waited_us);
    if !middle.is_finite() {
        return None;
    }
    let (low, high) = interval(waited_us, CONFIDENCE);
    let sure = low > queued_us * (1.0 + SURE) || middle > queued_us * (1.0 + MUCH);
    (sure && middle > queued_us * (1.0 + SURE)).then_some((middle, (high - low) / 2.0 <= width * middle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::timing::tests::Random;

    impl Random {
        /// Calls around `us`, a percent and a half off (standard deviation).
        fn calls(&mut self, us: f64, count: usize) -> Vec<f64> {
            (0..count).map(|_| us * (1.0 + 0.015 * ((0..12).map(|_| self.unit()).sum::<f64>() - 6.0))).collect()
        }
    }

    /// Planted bug: every median that is a percent above is charged for.
    #[test]
    fn honest_calls_that_differ_are_hardly_ever_charged_for() {
        let mut random = Random(7);
        // As few samples as a measurement has, and as many as are usual.
        for (queued, waited, chance) in [(30, 10, 50), (55, 20, 10)] {
            let (mut old, mut new) = (0, 0);
            for _ in 0..1000 {
                let queued = median(&random.calls(120.0, queued));
                let waited = random.calls(120.0, waited);
                old += usize::from(median(&waited) > queued * 1.01);
                new += usize::from(charged(queued, &waited, 0.02).is_some());
            }
            assert!(old > chance, "the calls differ too little to tell: {old}");
            assert!(new <= old / 5, "{new} and not {old} of 1000");
        }
    }

    #[test]
    fn work_that_goes_on_elsewhere_is_charged_for() {
        let mut random = Random(11);
        for _ in 0..1000 {
            let queued = median(&random.calls(100.0, 30));
            let waited = random.calls(106.0, 10);
            let (us, _) = charged(queued, &waited, 0.02).expect("six percent are no noise");
            assert_eq!(us, median(&waited));
        }
        assert_eq!(charged(100.0, &[101.5; 8], 0.02), Some((101.5, true)), "little, and sure");
        assert_eq!(charged(100.0, &[100.5; 8], 0.02), None);
        assert_eq!(charged(100.0, &[], 0.02), None);
    }

    /// Planted bug: the interval alone decides, which one fast call of a few makes as wide as one likes.
    #[test]
    fn one_fast_call_among_the_waited_ones_hides_nothing() {
        let (us, steady) = charged(50.0, &[40.0, 100.0, 101.0, 99.0, 100.0], 0.02).unwrap();
        assert_eq!((us, steady), (100.0, false));
        // What can be hidden so is what noise may be.
        assert_eq!(charged(100.0, &[90.0, 101.5, 101.5, 101.5, 101.5], 0.02), None);
        assert!(charged(100.0, &[90.0, 102.5, 102.5, 102.5, 102.5], 0.02).is_some());
    }
}
