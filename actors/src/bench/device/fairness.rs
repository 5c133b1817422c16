//! Whether the figures are fair: against `triton.testing.do_bench`, repeated, and beside a noisy neighbour.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rollout::outcome::{ExecReport, Outcome};
use rollout::timing::Timing;
use sandbox::gpu::timing::median;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::lanes::{numbered, speedup};
use super::{Item, Lanes, quantile, spread};

/// One candidate's speed-up, ours and `do_bench`'s.
#[derive(Clone, Debug, Serialize)]
pub struct Equivalence {
    pub name: String,
    /// Medians over evaluations, and over processes of `do_bench`.
    pub ours: f64,
    pub do_bench: f64,
    /// Percent.
    pub difference: f64,
    /// Each evaluation: speed-up, microseconds of the reference and of the candidate.
    pub evaluations: Vec<[f64; 3]>,
    /// Each process of `do_bench`, the same, and where its tensors were.
    pub processes: Vec<(Places, [f64; 3])>,
    /// Launching takes longer than its clearing of the cache, so it was given a longer one.
    pub host_bound: bool,
}

impl Equivalence {
    /// How far apart `do_bench`'s own processes are, percent of their median.
    pub fn spread(&self) -> f64 {
        let found = || self.processes.iter().map(|(_, p)| p[0]);
        100.0 * (found().fold(f64::MIN, f64::max) - found().fold(f64::MAX, f64::min)) / self.do_bench
    }

    /// The median over `do_bench`'s processes of one kind; `None` as long as there is none.
    fn of(&self, places: Places) -> Option<f64> {
        let of: Vec<f64> = self.processes.iter().filter(|(kind, _)| *kind == places).map(|(_, p)| p[0]).collect();
        (!of.is_empty()).then(|| median(&of))
    }

    /// How far ours is from `do_bench`'s processes of one kind, percent.
    pub fn against(&self, places: Places) -> Option<f64> {
        self.of(places).map(|theirs| 100.0 * (self.ours / theirs - 1.0))
    }

    /// What `do_bench` differs from itself by, percent, as soon as its tensors are elsewhere. Nothing that is compared with it can be
    /// expected to come closer.
    pub fn itself(&self) -> Option<f64> {
        Some(100.0 * (self.of(Places::Elsewhere)? / self.of(Places::First)? - 1.0))
    }
}

/// Where a process of `do_bench` has its tensors. Some kernels take a few percent more or less with inputs and outputs at other
/// distances, which are the same in every process that does the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Places {
    /// As they come in a process that has measured nothing else.
    First,
    /// With memory held between them (`do_bench.py --elsewhere`).
    Elsewhere,
}

/// By name: what each process said, and whether it was bound by the host.
type Theirs = BTreeMap<String, (Vec<(Places, [f64; 3])>, bool)>;

/// For one `do_bench` of the whole set.
const DO_BENCH: Duration = Duration::from_secs(300);
/// Evaluations of each candidate, and processes of `do_bench`, whose medians are compared.
const EVALUATIONS: usize = 5;
const PROCESSES: usize = 4;

/// The speed-ups of `ours` beside those of `do_bench.py` on the same GPU, nothing else on it. `tell` hears after every process of
/// `do_bench` how many there are and what is known by then, so that a run that is ended early has shown something.
///
/// # Errors
/// The script cannot be run, or says nothing.
pub async fn equivalence(
    python: &Path,
    dir: &Path,
    items: &[Item],
    lanes: &Lanes,
    mut tell: impl FnMut(usize, &[Equivalence]),
) -> std::io::Result<Vec<Equivalence>> {
    let ours = evaluations(items, lanes).await;
    let good: Vec<&Item> = items.iter().filter(|i| ours.contains_key(&i.name)).collect();
    let mut theirs: Theirs = BTreeMap::new();
    let mut known = Vec::new();
    for process in 1..=PROCESSES {
        let (places, arguments): (Places, &[&str]) =
            if process % 2 == 0 { (Places::Elsewhere, &["--elsewhere"]) } else { (Places::First, &[]) };
        for (item, line) in good.iter().zip(do_bench(python, dir, &good, arguments).await?) {
            let (processes, bound) = theirs.entry(item.name.clone()).or_default();
            if let Some(found) = of_line(&line) {
                processes.push((places, found));
                *bound |= line["host_bound"] == true;
            }
        }
        known = compare(&good, &ours, &theirs);
        tell(process, &known);
    }
    Ok(known)
}

fn compare(good: &[&Item], ours: &BTreeMap<String, Vec<[f64; 3]>>, theirs: &Theirs) -> Vec<Equivalence> {
    let speedups = |of: &[[f64; 3]]| median(&of.iter().map(|e| e[0]).collect::<Vec<_>>());
    good.iter()
        .filter_map(|item| {
            let (processes, host_bound) = theirs.get(&item.name).filter(|(known, _)| !known.is_empty())?.clone();
            let evaluations = ours.get(&item.name)?.clone();
            let figures: Vec<[f64; 3]> = processes.iter().map(|(_, p)| *p).collect();
            let (ours, do_bench) = (speedups(&evaluations), speedups(&figures));
            let difference = 100.0 * (ours / do_bench - 1.0);
            Some(Equivalence {
                name: item.name.clone(),
                ours,
                do_bench,
                difference,
                evaluations,
                processes,
                host_bound,
            })
        })
        .collect()
}

/// One process of `do_bench.py`: its line for each of `items`.
pub(super) async fn do_bench(
    python: &Path,
    dir: &Path,
    items: &[&Item],
    arguments: &[&str],
) -> std::io::Result<Vec<Value>> {
    let mut command = Command::new(python);
    command.arg(dir.join("do_bench.py")).args(arguments).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let lines: Vec<String> =
        items.iter().map(|i| json!({"task": i.task_path, "candidate": i.path}).to_string()).collect();
    let to = child.stdin.take();
    let work = async {
        // Both at once, so that neither fills a pipe that the other has to empty.
        let write = async {
            match to {
                Some(mut to) => to.write_all((lines.join("\n") + "\n").as_bytes()).await,
                None => Ok(()),
            }
        };
        let (written, output) = tokio::join!(write, child.wait_with_output());
        written.and(output)
    };
    let output = timeout(DO_BENCH, work).await;
    let output = output.map_err(|_| std::io::Error::other("do_bench hangs"))??;
    let said: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|l| l.starts_with('{'))
        .filter_map(|l| serde_json::from_str(l).ok())
        .collect();
    if said.len() != items.len() {
        let log = String::from_utf8_lossy(&output.stderr);
        return Err(std::io::Error::other(format!("do_bench.py gave {} lines: {log}", said.len())));
    }
    Ok(said)
}

/// Speed-up and both times, where it came to anything.
pub(super) fn of_line(line: &Value) -> Option<[f64; 3]> {
    let middle = |v: &Value| {
        let mut us: Vec<f64> = v.as_array()?.iter().filter_map(Value::as_f64).collect();
        Some(quantile(&mut us, 0.5))
    };
    Some([line["speedup"].as_f64()?, middle(&line["reference_us"])?, middle(&line["candidate_us"])?])
}

/// Name to each evaluation's speed-up and times of what passes.
async fn evaluations(items: &[Item], lanes: &Lanes) -> BTreeMap<String, Vec<[f64; 3]>> {
    let found = timings(items, lanes).await.into_iter();
    found.map(|(name, all)| (name, all.iter().map(|t| [t.speedup, t.reference_us, t.candidate_us]).collect())).collect()
}

/// Name to each evaluation's timing of what passes.
pub(super) async fn timings(items: &[Item], lanes: &Lanes) -> BTreeMap<String, Vec<Timing>> {
    let good: Vec<&Item> = items.iter().filter(|i| i.expect.verdict == "passed").collect();
    let work = (0..EVALUATIONS).flat_map(|n| good.iter().map(move |i| (i.task.clone(), numbered(&i.candidate, n))));
    let judged = lanes.run(Arc::new(work.collect()), 2).await;
    let mut all: BTreeMap<String, Vec<Timing>> = BTreeMap::new();
    for j in &judged {
        let passed = j.result.as_ref().ok().filter(|report| speedup(report).is_some());
        if let Some(timing) = passed.and_then(|report| report.timing.clone()) {
            all.entry(good[j.item % good.len()].name.clone()).or_default().push(timing);
        }
    }
    all
}

/// Speed-up, microseconds of the reference and of the candidate.
fn times(report: &ExecReport) -> Option<[f64; 3]> {
    let timing = report.timing.as_ref()?;
    speedup(report).map(|x| [x, timing.reference_us, timing.candidate_us])
}

/// One candidate measured again and again.
#[derive(Clone, Debug, Serialize)]
pub struct Fairness {
    pub name: String,
    pub repeats: usize,
    pub mean: f64,
    pub min: f64,
    pub max: f64,
    /// Coefficient of variation, percent.
    pub cv: f64,
    /// Measurements that were refused before the accepted ones.
    pub refused: usize,
    /// Evaluations that came to no number: faults.
    pub faults: usize,
    /// Evaluations that came to an outcome other than passed, of candidates that are right: wanted is 0.
    pub blamed: usize,
    /// Largest distance of an accepted number from `idle`, percent.
    pub off: Option<f64>,
    /// Each: speed-up, microseconds of the reference and of the candidate.
    pub evaluations: Vec<[f64; 3]>,
    /// Why measurements were refused, each reason once.
    pub reasons: Vec<String>,
}

/// `item` so often on one lane, the rest idle.
pub async fn fairness(item: &Item, lanes: &Lanes, repeats: usize, idle: Option<f64>) -> Fairness {
    let work = (0..repeats).map(|n| (item.task.clone(), numbered(&item.candidate, n))).collect();
    let judged = lanes.run(Arc::new(work), 0).await;
    let (mut evaluations, mut refused, mut faults, mut blamed, mut reasons) = (Vec::new(), 0, 0, 0, Vec::new());
    for j in &judged {
        match &j.result {
            Ok(report) if matches!(report.outcome, Outcome::Passed { .. }) => {
                evaluations.extend(times(report));
                let why = report.timing.iter().flat_map(|t| &t.refused);
                refused += why.clone().filter(|why| !why.starts_with("accepted")).count();
                reasons.extend(why.cloned());
            }
            Ok(report) => {
                blamed += 1;
                reasons.push(format!("blamed: {:?}", report.outcome));
            }
            Err(fault) => {
                faults += 1;
                reasons.push(fault.to_string());
            }
        }
    }
    let mut found: Vec<f64> = evaluations.iter().map(|e| e[0]).collect();
    let (mean, cv) = spread(&found);
    // Of nothing there is no largest.
    let off = idle.and_then(|idle| found.iter().map(|x| 100.0 * (x / idle - 1.0).abs()).reduce(f64::max));
    reasons.sort();
    reasons.dedup();
    reasons.truncate(5);
    let (min, max) = (quantile(&mut found, 0.0), quantile(&mut found, 1.0));
    let name = item.name.clone();
    Fairness { name, repeats, mean, min, max, cv, refused, faults, blamed, off, evaluations, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(processes: &[(Places, f64)]) -> Equivalence {
        Equivalence {
            name: "relu__grid_stride__1".into(),
            ours: 1.02,
            do_bench: 1.0,
            difference: 2.0,
            evaluations: Vec::new(),
            processes: processes.iter().map(|(places, x)| (*places, [*x, 10.0, 10.0])).collect(),
            host_bound: false,
        }
    }

    /// Planted bug: the processes whose tensors are elsewhere are counted with the others, or the kinds are told apart by their turn, which
    /// one process that fails moves.
    #[test]
    fn processes_of_do_bench_are_told_apart_by_where_their_tensors_are() {
        use Places::{Elsewhere, First};
        let close = |found: Option<f64>, wanted: f64| (found.unwrap() - wanted).abs() < 1e-9;
        let e = beside(&[(First, 1.0), (First, 1.0), (Elsewhere, 1.02)]);
        assert!(close(e.against(First), 2.0) && close(e.against(Elsewhere), 0.0), "{e:?}");
        assert!(close(e.itself(), 2.0), "{e:?}");
        let first = beside(&[(First, 1.0)]);
        assert!(first.against(Elsewhere).is_none() && first.itself().is_none(), "{first:?}");
    }
}
