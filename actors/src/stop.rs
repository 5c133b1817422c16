//! The wish to stop: Ctrl-C, or whoever embeds a run. Long work on threads looks at it between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cheap to clone; once asked, asked for good.
#[derive(Clone, Debug, Default)]
pub struct StopToken(Arc<AtomicBool>);

impl StopToken {
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl StopToken {
    /// Asked by Ctrl-C or SIGTERM from now on; the second one ends the process at once, with exit code 130.
    pub fn on_signals() -> std::io::Result<StopToken> {
        use tokio::signal::unix::{SignalKind, signal};
        let token = StopToken::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let asked = token.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if asked.asked() {
                        std::process::exit(130);
                    }
                    asked.ask();
                }
            });
        })?;
        Ok(token)
    }
}
