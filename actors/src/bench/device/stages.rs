//! How many candidates pass through a minute, and where their time goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollout::outcome::Fault;
use serde::Serialize;

use super::{Item, Lanes, quantile};

/// How often the GPUs are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(200);

/// Milliseconds that candidates spent in a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    pub name: String,
    pub candidates: usize,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// One pass over the set.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    pub candidates: usize,
    pub lanes: usize,
    pub gpus: usize,
    pub checks: usize,
    pub seconds: f64,
    /// Per GPU.
    pub per_minute: f64,
    pub timed: usize,
    /// What came to something else than the set says: name, expected, found.
    pub unexpected: Vec<(String, String, String)>,
    /// Shares of the time in which somebody was let onto a GPU (checks or timing), and alone. Whether it computed meanwhile is another
    /// matter: `utilisation`.
    pub occupied: f64,
    pub timing: f64,
    /// NVML's share of the time in which a kernel ran, the mean of looks meanwhile, percent; `None` where there is none.
    pub utilisation: Option<f64>,
    pub stages: Vec<Stage>,
    /// Verdict to how many.
    pub verdicts: BTreeMap<String, usize>,
    /// Name to speed-up of what passed.
    pub speedups: BTreeMap<String, f64>,
    pub faults: Vec<String>,
}

/// One right candidate of each task, so that what is made once a task or once a process has been made.
pub async fn warm_up(items: &[Item], lanes: &Lanes) {
    let mut tasks = std::collections::BTreeSet::new();
    let firsts = items.iter().filter(|i| i.expect.verdict == "passed" && tasks.insert(i.task_path.clone()));
    let work = firsts.map(|i| (i.task.clone(), super::lanes::numbered(&i.candidate, usize::MAX))).collect();
    lanes.run(Arc::new(work), 2).await;
}

/// The whole set once through `lanes`.
///
/// # Errors
/// A device's fault.
pub async fn throughput(items: &[Item], lanes: &Lanes) -> Result<Throughput, Fault> {
    let work = Arc::new(items.iter().map(|i| (i.task.clone(), i.candidate.clone())).collect::<Vec<_>>());
    let mut devices = Vec::new();
    for n in 0..lanes.gpus.count() {
        devices.push(lanes.gpus.of_executor(n).await?);
    }
    let before: Vec<_> = devices.iter().map(|d| d.busy()).collect();
    let over = tokio::sync::Notify::new();
    let began = Instant::now();
    let looks = async {
        let mut seen = Vec::new();
        loop {
            seen.extend(devices.iter().filter_map(|d| d.utilisation_percent()).map(f64::from));
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = over.notified() => return seen,
            }
        }
    };
    let work = async {
        let judged = lanes.run(work, 2).await;
        over.notify_one();
        judged
    };
    let (judged, looks) = tokio::join!(work, looks);
    let seconds = began.elapsed().as_secs_f64();
    let utilisation = (!looks.is_empty()).then(|| looks.iter().sum::<f64>() / looks.len() as f64);
    let (mut occupied, mut timing) = (0.0, 0.0);
    for (device, before) in devices.iter().zip(&before) {
        let now = device.busy();
        occupied += (now.0 - before.0).as_secs_f64();
        timing += (now.1 - before.1).as_secs_f64();
    }
    let mut stages: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut verdicts = BTreeMap::new();
    let mut speedups = BTreeMap::new();
    let mut unexpected = Vec::new();
    let mut faults = Vec::new();
    for j in &judged {
        let item = &items[j.item];
        *verdicts.entry(j.verdict().to_owned()).or_default() += 1;
        faults.extend(j.faults.iter().map(|f| format!("{}: {f}", item.name)));
        // With what was tried again; a report's own `total` is one evaluation's.
        stages.entry("candidate".into()).or_default().push(j.took.as_secs_f64() * 1e3);
        match &j.result {
            Ok(report) => {
                for (name, ms) in report.phase_ms.iter().filter(|(name, _)| *name != "total") {
                    stages.entry(name.clone()).or_default().push(*ms);
                }
                if let Some(x) = super::lanes::speedup(report) {
                    speedups.insert(item.name.clone(), x);
                }
                if j.verdict() != item.expect.verdict {
                    let found = format!("{:?}", report.outcome).chars().take(300).collect();
                    unexpected.push((item.name.clone(), item.expect.verdict.clone(), found));
                }
            }
            Err(fault) => unexpected.push((item.name.clone(), item.expect.verdict.clone(), fault.to_string())),
        }
    }
    let gpus = devices.len();
    Ok(Throughput {
        candidates: items.len(),
        lanes: lanes.executors.len(),
        gpus,
        checks: devices.first().map_or(0, |d| d.checks()),
        seconds,
        per_minute: 60.0 * items.len() as f64 / seconds / gpus as f64,
        timed: speedups.len(),
        unexpected,
        occupied: occupied / seconds / gpus as f64,
        timing: timing / seconds / gpus as f64,
        utilisation,
        stages: stages.into_iter().map(|(name, ms)| stage(name, ms)).collect(),
        verdicts,
        speedups,
        faults,
    })
}

fn stage(name: String, mut ms: Vec<f64>) -> Stage {
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| quantile(&mut ms, q));
    Stage { name, candidates: ms.len(), p50, p95, p99 }
}
