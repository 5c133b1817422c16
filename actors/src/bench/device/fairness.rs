//! Whether the figures are fair: against `triton.testing.do_bench`, repeated, and beside a noisy neighbour.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rollout::outcome::Outcome;
use serde::Serialize;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::lanes::{numbered, speedup};
use super::{Item, Lanes, quantile, spread};

/// One candidate's speed-up, ours and `do_bench`'s.
#[derive(Clone, Debug, Serialize)]
pub struct Equivalence {
    pub name: String,
    pub ours: f64,
    pub do_bench: f64,
    /// Percent.
    pub difference: f64,
}

/// For one `do_bench` of the whole set.
const DO_BENCH: Duration = Duration::from_secs(300);

/// The speed-ups of `ours` beside those of `do_bench.py` on the same GPU, nothing else on it.
///
/// # Errors
/// The script cannot be run, or says nothing.
pub async fn equivalence(
    python: &Path,
    dir: &Path,
    items: &[Item],
    lanes: &Lanes,
) -> std::io::Result<Vec<Equivalence>> {
    let ours = medians(items, lanes).await;
    let mut found = Vec::new();
    let mut by_task: std::collections::BTreeMap<&Path, Vec<&Item>> = Default::default();
    for item in items.iter().filter(|i| ours.contains_key(&i.name)) {
        by_task.entry(&item.task_path).or_default().push(item);
    }
    for (task, items) in by_task {
        let mut command = Command::new(python);
        command.arg(dir.join("do_bench.py")).arg(task).args(items.iter().map(|i| &i.path));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output =
            timeout(DO_BENCH, command.output()).await.map_err(|_| std::io::Error::other("do_bench hangs"))??;
        let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|l| l.starts_with('{'))
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect();
        if lines.len() != items.len() {
            let log = String::from_utf8_lossy(&output.stderr);
            return Err(std::io::Error::other(format!("do_bench.py gave {} lines: {log}", lines.len())));
        }
        for (item, line) in items.iter().zip(&lines) {
            let Some(do_bench) = line["speedup"].as_f64() else { continue };
            let ours = ours[&item.name];
            let difference = 100.0 * (ours / do_bench - 1.0);
            found.push(Equivalence { name: item.name.clone(), ours, do_bench, difference });
        }
    }
    Ok(found)
}

/// Evaluations of each candidate whose median is compared.
const EVALUATIONS: usize = 5;

/// Name to the median speed-up of what passes.
async fn medians(items: &[Item], lanes: &Lanes) -> std::collections::BTreeMap<String, f64> {
    let good: Vec<&Item> = items.iter().filter(|i| i.expect.verdict == "passed").collect();
    let work = (0..EVALUATIONS).flat_map(|n| good.iter().map(move |i| (i.task.clone(), numbered(&i.candidate, n))));
    let judged = lanes.run(Arc::new(work.collect()), 2).await;
    let mut all: std::collections::BTreeMap<String, Vec<f64>> = Default::default();
    for j in &judged {
        if let Some(x) = j.result.as_ref().ok().and_then(speedup) {
            all.entry(good[j.item % good.len()].name.clone()).or_default().push(x);
        }
    }
    all.into_iter().map(|(name, mut found)| (name, quantile(&mut found, 0.5))).collect()
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
    /// Largest distance of an accepted number from `idle`, percent.
    pub off: Option<f64>,
    /// Why measurements were refused, each reason once.
    pub reasons: Vec<String>,
}

/// `item` so often on one lane, the rest idle.
pub async fn fairness(item: &Item, lanes: &Lanes, repeats: usize, idle: Option<f64>) -> Fairness {
    let work = (0..repeats).map(|n| (item.task.clone(), numbered(&item.candidate, n))).collect();
    let judged = lanes.run(Arc::new(work), 0).await;
    let (mut found, mut refused, mut faults, mut reasons) = (Vec::new(), 0, 0, Vec::new());
    for j in &judged {
        match &j.result {
            Ok(report) if matches!(report.outcome, Outcome::Passed { .. }) => {
                found.extend(speedup(report));
                let why = report.timing.iter().flat_map(|t| &t.refused);
                refused += why.clone().count();
                reasons.extend(why.cloned());
            }
            Ok(report) => reasons.push(format!("{:?}", report.outcome)),
            Err(fault) => {
                faults += 1;
                reasons.push(fault.to_string());
            }
        }
    }
    let (mean, cv) = spread(&found);
    let off = idle.map(|idle| found.iter().map(|x| 100.0 * (x / idle - 1.0).abs()).fold(0.0, f64::max));
    reasons.sort();
    reasons.dedup();
    reasons.truncate(5);
    let (min, max) = (quantile(&mut found, 0.0), quantile(&mut found, 1.0));
    Fairness { name: item.name.clone(), repeats, mean, min, max, cv, refused, faults, off, reasons }
}
