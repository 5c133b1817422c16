//! The viewers of a bench.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Attached, InspectBench, page, process};
use crate::run::RunError;

const OVERVIEW: &str = "api/overview";
const ROLLOUTS: &str = "api/rollouts?limit=100";
/// A viewer reads everything that is there before it is attached.
const READS: Duration = Duration::from_secs(120);

pub struct Viewers {
    processes: Vec<process::Process>,
    updates: Vec<Arc<AtomicU64>>,
    stops: Arc<page::Stops>,
    /// The store's index of its log, whose locks tell who reads.
    index: PathBuf,
    /// Its tasks keep the pages open.
    _runtime: Option<tokio::runtime::Runtime>,
}

impl Viewers {
    /// Attaches them and waits until each has read what is there.
    ///
    /// # Errors
    /// One does not come up.
    pub fn attach(bench: &InspectBench, run_dir: &Path) -> Result<Viewers, RunError> {
        let failed = |source| RunError::Io { doing: "cannot attach a viewer to", path: run_dir.into(), source };
        let mut index = crate::store::path(run_dir).into_os_string();
        index.push("-shm");
        let (index, stops) = (PathBuf::from(index), Arc::<page::Stops>::default());
        let program = bench.program.as_deref();
        let pages: &[&[&'static str]] = match bench.attached {
            Attached::None => {
                return Ok(Viewers { processes: Vec::new(), updates: Vec::new(), stops, index, _runtime: None });
            }
            Attached::Shared => &[&[OVERVIEW, ROLLOUTS]],
            Attached::Apart => &[&[OVERVIEW], &[ROLLOUTS], &[ROLLOUTS]],
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failed)?;
        let (mut processes, mut updates) = (Vec::new(), Vec::new());
        for pages in pages {
            let (process, base) = process::dashboard(program, run_dir).map_err(failed)?;
            processes.push(process);
            runtime.block_on(page::loaded(&base, READS)).map_err(|e| failed(std::io::Error::other(e)))?;
            for path in *pages {
                let count = Arc::new(AtomicU64::new(0));
                updates.push(count.clone());
                runtime.spawn(page::keep(base.clone(), path, count, stops.clone()));
            }
        }
        if bench.attached == Attached::Shared {
            processes.push(process::watch(program, run_dir).map_err(failed)?);
        }
        Ok(Viewers { processes, updates, stops, index, _runtime: Some(runtime) })
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(process::Process::cpu_seconds).sum()
    }

    /// Stops them, none of them within a read of the store (which would keep its log from beginning anew), or lets them go on.
    ///
    /// # Errors
    /// One is gone, or reads without end.
    pub fn let_go_on(&mut self, go: bool) -> Result<(), RunError> {
        let failed = |source| RunError::Io { doing: "cannot stop a viewer at", path: std::env::temp_dir(), source };
        for viewer in &mut self.processes {
            if !viewer.is_alive() {
                return Err(failed(std::io::ErrorKind::NotFound.into()));
            }
            let until = Instant::now() + READS;
            loop {
                viewer.let_go_on(go).map_err(failed)?;
                if go || !process::reads(viewer.id(), &self.index) {
                    break;
                }
                if Instant::now() >= until {
                    return Err(failed(std::io::ErrorKind::TimedOut.into()));
                }
                viewer.let_go_on(true).map_err(failed)?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if go {
            self.stops.end()
        } else {
            self.stops.begin()
        }
        Ok(())
    }

    /// Updates of each page so far.
    pub fn updates(&self) -> Vec<u64> {
        self.updates.iter().map(|n| n.load(Ordering::Relaxed)).collect()
    }

    /// # Errors
    /// A viewer is gone, or a page was never updated: the figures would be of something else.
    pub fn check(mut self) -> Result<(), RunError> {
        let alive = self.processes.iter_mut().all(process::Process::is_alive);
        if alive && self.updates.iter().all(|n| n.load(Ordering::Relaxed) > 0) {
            return Ok(());
        }
        let source = std::io::Error::other("a viewer ended, or a page was never updated");
        Err(RunError::Io { doing: "cannot keep viewers at", path: std::env::temp_dir(), source })
    }
}
