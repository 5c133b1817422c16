//! Why speed-ups differ from `do_bench`'s: the places that inputs and outputs have, or the way times are taken. Both are taken with
//! fresh places and with the same ones, so that what they have in common shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use rollout::timing::Timing;
use sandbox::device::CONTROL;
use sandbox::gpu::timing::median;
use serde::Serialize;

use super::fairness::{do_bench, of_line, timings};
use super::{Item, Lanes};

/// How a candidate was measured.
pub const WAYS: [(&str, &str); 6] = [
    ("ours", "as it is: inputs and outputs of a call at places that no neighbouring call has; the two times"),
    ("ours, paid", "the same measurements, and the speed-up that is paid: timing.speedup"),
    ("ours, one place", "a burst's calls are all the same one, and nothing is kept of it"),
    ("do_bench", "as it is: the same inputs each time, and nothing is kept"),
    ("do_bench, ring", "inputs that no neighbouring call has"),
    ("do_bench, ring kept", "inputs that no neighbouring call has, outputs kept"),
];
const OURS: &str = WAYS[0].0;
const PAID: &str = WAYS[1].0;
const ONE_PLACE: &str = WAYS[2].0;
const DO_BENCH: usize = 3;
/// Processes of `do_bench`, each of which measures every way.
const PROCESSES: usize = 3;

/// One candidate, one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Way {
    /// Medians.
    pub speedup: f64,
    pub reference_us: f64,
    pub candidate_us: f64,
    /// What the reference took alone, where that is measured.
    pub baseline_us: Option<f64>,
    /// Between the lowest and the highest speed-up, percent of the median.
    pub spread: f64,
    pub measurements: usize,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    speedup: f64,
    reference_us: f64,
    candidate_us: f64,
    baseline_us: Option<f64>,
}

impl Found {
    fn paid(timing: &Timing) -> Found {
        let &Timing { speedup, reference_us, candidate_us, baseline_us, .. } = timing;
        Found { speedup, reference_us, candidate_us, baseline_us: Some(baseline_us) }
    }

    /// What is paid and not what was measured would hide a difference.
    fn measured(timing: &Timing) -> Found {
        Found { speedup: timing.reference_us / timing.candidate_us, ..Found::paid(timing) }
    }
}

impl Way {
    fn of(found: &[Found]) -> Way {
        let column = |of: fn(&Found) -> f64| found.iter().map(of).collect::<Vec<f64>>();
        let all = column(|f| f.speedup);
        let speedup = median(&all);
        let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(low, high), x| (x.min(low), x.max(high)));
        let alone: Vec<f64> = found.iter().filter_map(|f| f.baseline_us).collect();
        Way {
            speedup,
            reference_us: median(&column(|f| f.reference_us)),
            candidate_us: median(&column(|f| f.candidate_us)),
            baseline_us: (!alone.is_empty()).then(|| median(&alone)),
            spread: 100.0 * (high - low) / speedup,
            measurements: found.len(),
        }
    }
}

/// One candidate, every way that came to anything.
#[derive(Clone, Debug, Serialize)]
pub struct Control {
    pub name: String,
    pub ways: BTreeMap<&'static str, Way>,
    pub host_bound: bool,
}

/// What was measured so far, by candidate and way, and whether `do_bench` measured the host.
#[derive(Debug, Default)]
pub struct Controls(BTreeMap<String, (BTreeMap<&'static str, Vec<Found>>, bool)>);

impl Controls {
    /// All candidates of `items` that are right, several times each, by `lanes`, whose devices call with fresh places or with one.
    ///
    /// # Errors
    /// What was measured is not what was asked for: the lanes' devices were made the other way.
    pub async fn ours(&mut self, items: &[Item], lanes: &Lanes, one_place: bool) -> Result<(), String> {
        let found = timings(items, lanes).await;
        if let Some(timing) = found.values().flatten().find(|t| t.device.contains(CONTROL) != one_place) {
            return Err(format!("measured on \"{}\", where one place was to be {one_place}", timing.device));
        }
        for (name, timings) in found {
            let ways = &mut self.0.entry(name).or_default().0;
            let measured = timings.iter().map(Found::measured).collect();
            if one_place {
                ways.insert(ONE_PLACE, measured);
            } else {
                ways.insert(OURS, measured);
                ways.insert(PAID, timings.iter().map(Found::paid).collect());
            }
        }
        Ok(())
    }

    /// The same by `do_bench.py --controls`, in several processes; `tell` hears after each what is known by then. Nothing of ours is on the GPU.
    ///
    /// # Errors
    /// The script cannot be run, or says nothing; what was measured before is kept.
    pub async fn do_bench(
        &mut self,
        python: &Path,
        dir: &Path,
        items: &[Item],
        arguments: &[&str],
        mut tell: impl FnMut(usize, &[Control]),
    ) -> std::io::Result<()> {
        let good: Vec<&Item> = items.iter().filter(|i| self.0.contains_key(&i.name)).collect();
        let arguments = [&["--controls"][..], arguments].concat();
        for process in 1..=PROCESSES {
            for (item, line) in good.iter().zip(do_bench(python, dir, &good, &arguments).await?) {
                let (ways, bound) = self.0.entry(item.name.clone()).or_default();
                *bound |= line["host_bound"] == true;
                let controls = &line["controls"];
                let lines = [&line, &controls["ring"], &controls["ring_kept"]];
                for ((way, _), line) in WAYS[DO_BENCH..].iter().zip(lines) {
                    if let Some([speedup, reference_us, candidate_us]) = of_line(line) {
                        let found = Found { speedup, reference_us, candidate_us, baseline_us: None };
                        ways.entry(way).or_default().push(found);
                    }
                }
            }
            tell(process, &self.known());
        }
        Ok(())
    }

    /// What is known so far.
    pub fn known(&self) -> Vec<Control> {
        let control = |(name, (ways, host_bound)): (&String, &(BTreeMap<&'static str, Vec<Found>>, bool))| Control {
            name: name.clone(),
            ways: ways.iter().map(|(way, found)| (*way, Way::of(found))).collect(),
            host_bound: *host_bound,
        };
        self.0.iter().map(control).collect()
    }
}

/// A table of all candidates and ways, then how far each way is from `do_bench` as it is, over all.
pub fn table(controls: &[Control]) -> String {
    let mut out = String::new();
    for (way, explained) in WAYS {
        let _ = writeln!(out, "{way:<20} {explained}");
    }
    let _ = writeln!(
        out,
        "{:<34} {:<20} {:>9} {:>8} {:>11} {:>11} {:>11} {:>9}",
        "candidate", "way", "speed-up", "spread", "alone", "reference", "candidate", "off"
    );
    let mut off: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for control in controls {
        let base = control.ways.get(WAYS[DO_BENCH].0);
        for (way, _) in WAYS {
            let Some(found) = control.ways.get(way) else { continue };
            let percent = base.map(|base| 100.0 * (found.speedup / base.speedup - 1.0));
            off.entry(way).or_default().extend(percent);
            let _ = writeln!(
                out,
                "{:<34} {way:<20} {:>9.4} {:>6.2} % {:>11} {:>8.2} us {:>8.2} us {}",
                if control.host_bound { format!("{} (longer flush)", control.name) } else { control.name.clone() },
                found.speedup,
                found.spread,
                found.baseline_us.map_or(String::new(), |us| format!("{us:.2} us")),
                found.reference_us,
                found.candidate_us,
                percent.map_or(String::new(), |p| format!("{p:>+7.2} %"))
            );
        }
    }
    for (way, _) in WAYS {
        let Some(found) = off.get(way).filter(|found| !found.is_empty()) else { continue };
        let within = found.iter().filter(|p| p.abs() <= 1.0).count();
        let worst = found.iter().fold(0.0f64, |worst, p| worst.max(p.abs()));
        let _ = writeln!(
            out,
            "{way}: {:+.2} % off do_bench as it is (median of {}), within 1 % {within}, at most {worst:.2} %",
            median(found),
            found.len()
        );
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table tells the two causes apart: here it is the places.
    #[test]
    fn each_way_stands_beside_do_bench_as_it_is() {
        let of = |speedup: f64, reference_us: f64, candidate_us: f64, alone: f64| Found {
            speedup,
            reference_us,
            candidate_us,
            baseline_us: Some(alone),
        };
        let one_place = [200.0, 202.0, 198.0].map(|us| of(us / 100.0, us, 100.0, 190.0));
        let fresh = one_place.map(|f| of(f.reference_us / 104.0, f.reference_us, 104.0, 190.0));
        let paid = fresh.map(|f| Found { speedup: 1.03 * 190.0 / 104.0, ..f });
        let ways = [fresh, paid, one_place, one_place, one_place, fresh];
        let ways = WAYS.iter().zip(&ways).map(|((way, _), found)| (*way, Way::of(found))).collect();
        let text = table(&[Control { name: "relu__grid_stride__1".into(), ways, host_bound: true }]);
        let of = |way: &str| {
            let start = format!("relu__grid_stride__1 (longer flush) {way:<20} ");
            text.lines().find(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("{way}: {text}")).to_owned()
        };
        assert!(
            of("ours, paid").contains(" 190.00 us   200.00 us ") && of("ours, paid").ends_with("-5.91 %"),
            "{text}"
        );
        assert!(of("ours").ends_with("-3.85 %") && of("do_bench, ring kept").ends_with("-3.85 %"), "{text}");
        assert!(of("ours, one place").ends_with("+0.00 %") && of("do_bench").contains(" 2.0000   2.00 %"), "{text}");
        assert!(
            text.contains("ours: -3.85 % off do_bench as it is (median of 1), within 1 % 0, at most 3.85 %"),
            "{text}"
        );
    }

    /// What came to nothing is left out.
    #[test]
    fn a_way_that_is_missing_is_not_shown() {
        let ways =
            [(WAYS[0].0, Way::of(&[Found { speedup: 2.0, reference_us: 2.0, candidate_us: 1.0, baseline_us: None }]))]
                .into();
        let text = table(&[Control { name: "x".into(), ways, host_bound: false }]);
        assert!(!text.contains(" off do_bench as it is") && text.contains("x "), "{text}");
    }
}
