//! `troupe bench executor` on a GPU: the device set of `tests/device` through every stage, beside its peers on the same GPU;
//! how its speed-ups compare with `do_bench`'s and repeat; and what happens when things die in the middle.

mod control;
mod drill;
mod drill_lanes;
mod drill_run;
mod fairness;
mod lanes;
mod peers;
mod set;
mod stages;

pub use control::{Control, Controls, table as control_table};
pub use drill_lanes::{Said, drill_lanes};
pub use drill_run::{Drill, drill};
pub use fairness::{Equivalence, Fairness, Places, equivalence, fairness};
pub use lanes::{Judged, Lanes};
pub use peers::{Peer, fresh, persistent};
pub use set::{Expect, Item, enlarge, load, sample};
pub use stages::{Throughput, throughput, warm_up};

/// By the nearest rank; 0 of nothing.
pub(super) fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Mean and coefficient of variation, percent.
pub(super) fn spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (values.len().max(2) - 1) as f64;
    (mean, if mean == 0.0 { 0.0 } else { 100.0 * variance.sqrt() / mean })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_spread_is_the_sample_standard_deviation_over_the_mean() {
        let (mean, cv) = super::spread(&[9.0, 10.0, 11.0]);
        assert_eq!(mean, 10.0);
        assert!((cv - 10.0).abs() < 1e-12, "{cv}");
    }
}
