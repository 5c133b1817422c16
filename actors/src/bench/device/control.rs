//! Why speed-ups differ from `do_bench`'s: the places that inputs and outputs have, or the way times are taken. Both are taken with
//! fresh places and with the same ones, so that what they have in common shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use sandbox::gpu::timing::median;
use serde::Serialize;

use super::fairness::{do_bench, evaluations, of_line};
use super::{Item, Lanes};

/// How a candidate was measured.
pub const WAYS: [(&str, &str); 5] = [
    ("ours", "as it is: inputs and outputs of a call at places that no neighbouring call has"),
    ("ours, one place", "a burst's calls are all the same one, and nothing is kept of it"),
    ("do_bench", "as it is: the same inputs each time, and nothing is kept"),
    ("do_bench, ring", "inputs that no neighbouring call has"),
    ("do_bench, ring kept", "inputs that no neighbouring call has, outputs kept"),
];
/// Processes of `do_bench`, each of which measures every way.
const PROCESSES: usize = 3;

/// One candidate, one way.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Way {
    /// Medians.
    pub speedup: f64,
    pub reference_us: f64,
    pub candidate_us: f64,
    /// Between the lowest and the highest speed-up, percent of the median.
    pub spread: f64,
    pub measurements: usize,
}

impl Way {
    fn of(found: &[[f64; 3]]) -> Way {
        let column = |n: usize| found.iter().map(|e| e[n]).collect::<Vec<f64>>();
        let (speedup, all) = (median(&column(0)), column(0));
        let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(low, high), x| (x.min(low), x.max(high)));
        Way {
            speedup,
            reference_us: median(&column(1)),
            candidate_us: median(&column(2)),
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

/// Each measurement's speed-up and times, by way.
type Ways = BTreeMap<&'static str, Vec<[f64; 3]>>;
/// Name to each evaluation's speed-up and times.
pub type Found = BTreeMap<String, Vec<[f64; 3]>>;

/// All candidates of `items` that are right, several times each, by `lanes`. What is paid and not what was measured would hide a
/// difference: the speed-up here is of the two times.
pub async fn ours(items: &[Item], lanes: &Lanes) -> Found {
    let mut found = evaluations(items, lanes).await;
    found.values_mut().flatten().for_each(|[speedup, reference, candidate]| *speedup = *reference / *candidate);
    found
}

/// The same by `do_bench.py --controls`; `places` is what `ours` found with fresh places and with one. Nothing of ours is on the GPU.
///
/// # Errors
/// The script cannot be run, or says nothing.
pub async fn controls(
    python: &Path,
    dir: &Path,
    items: &[Item],
    [fresh, one]: [Found; 2],
    arguments: &[&str],
) -> std::io::Result<Vec<Control>> {
    let good: Vec<&Item> = items.iter().filter(|i| fresh.contains_key(&i.name)).collect();
    let mut all: BTreeMap<String, (Ways, bool)> = BTreeMap::new();
    for (way, found) in [(WAYS[0].0, fresh), (WAYS[1].0, one)] {
        for (name, found) in found {
            all.entry(name).or_default().0.insert(way, found);
        }
    }
    let arguments = [&["--controls"][..], arguments].concat();
    for _ in 0..PROCESSES {
        for (item, line) in good.iter().zip(do_bench(python, dir, &good, &arguments).await?) {
            let (ways, bound) = all.entry(item.name.clone()).or_default();
            *bound |= line["host_bound"] == true;
            let controls = &line["controls"];
            for ((way, _), line) in WAYS[2..].iter().zip([&line, &controls["ring"], &controls["ring_kept"]]) {
                if let Some(found) = of_line(line) {
                    ways.entry(*way).or_default().push(found);
                }
            }
        }
    }
    let control = |(name, (ways, host_bound)): (String, (Ways, bool))| Control {
        name,
        ways: ways.into_iter().map(|(way, found)| (way, Way::of(&found))).collect(),
        host_bound,
    };
    Ok(all.into_iter().map(control).collect())
}

/// A table of all candidates and ways, then how far each way is from `do_bench` as it is, over all.
pub fn table(controls: &[Control]) -> String {
    let mut out = String::new();
    for (way, explained) in WAYS {
        let _ = writeln!(out, "{way:<20} {explained}");
    }
    let _ = writeln!(
        out,
        "{:<34} {:<20} {:>9} {:>8} {:>11} {:>11} {:>9}",
        "candidate", "way", "speed-up", "spread", "reference", "candidate", "off"
    );
    let mut off: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for control in controls {
        let base = control.ways.get(WAYS[2].0);
        for (way, _) in WAYS {
            let Some(found) = control.ways.get(way) else { continue };
            let percent = base.map(|base| 100.0 * (found.speedup / base.speedup - 1.0));
            off.entry(way).or_default().extend(percent);
            let _ = writeln!(
                out,
                "{:<34} {way:<20} {:>9.4} {:>6.2} % {:>8.2} us {:>8.2} us {}",
                if control.host_bound { format!("{} (longer flush)", control.name) } else { control.name.clone() },
                found.speedup,
                found.spread,
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
        let one_place = [[2.0, 200.0, 100.0], [2.02, 202.0, 100.0], [1.98, 198.0, 100.0]];
        let fresh =
            one_place.map(|[_, reference, candidate]| [reference / (candidate + 4.0), reference, candidate + 4.0]);
        let ways = [fresh, one_place, one_place, one_place, fresh];
        let ways = WAYS.iter().zip(&ways).map(|((way, _), found)| (*way, Way::of(found))).collect();
        let text = table(&[Control { name: "relu__grid_stride__1".into(), ways, host_bound: true }]);
        let of = |way: &str| {
            let start = format!("relu__grid_stride__1 (longer flush) {way:<20} ");
            text.lines().find(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("{way}: {text}")).to_owned()
        };
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
        let ways = [(WAYS[0].0, Way::of(&[[2.0, 2.0, 1.0]]))].into();
        let text = table(&[Control { name: "x".into(), ways, host_bound: false }]);
        assert!(!text.contains(" off do_bench as it is") && text.contains("x "), "{text}");
    }
}
