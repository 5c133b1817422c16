//! The viewers of a bench.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Attached, InspectBench, page, process};
use crate::run::RunError;

const OVERVIEW: &str = "api/overview";
const ROLLOUTS: &str = "api/rollouts?limit=100";
/// A viewer reads everything that is there before it is attached.
const READS: Duration = Duration::from_secs(120);

pub struct Viewers {
    processes: Vec<process::Process>,
    updates: Vec<Arc<AtomicU64>>,
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
        let program = bench.program.as_deref();
        let pages: &[&[&'static str]] = match bench.attached {
            Attached::None => return Ok(Viewers { processes: Vec::new(), updates: Vec::new(), _runtime: None }),
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
                runtime.spawn(page::keep(base.clone(), path, count));
            }
        }
        if bench.attached == Attached::Shared {
            processes.push(process::watch(program, run_dir).map_err(failed)?);
        }
        Ok(Viewers { processes, updates, _runtime: Some(runtime) })
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(process::Process::cpu_seconds).sum()
    }

    /// Stops them where they are, or lets them go on.
    ///
    /// # Errors
    /// One is gone.
    pub fn let_go_on(&self, go: bool) -> Result<(), RunError> {
        let failed = |source| RunError::Io { doing: "cannot stop a viewer at", path: std::env::temp_dir(), source };
        self.processes.iter().try_for_each(|viewer| viewer.let_go_on(go).map_err(failed))
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
