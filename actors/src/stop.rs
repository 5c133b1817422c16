//! The wish to stop: Ctrl-C, or whoever embeds a run. Long work on threads looks at it between steps.

use std::io::{BufRead as _, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Of the first line of stdin.
const LINE_BYTES: u64 = 8192;
const FIRST_LINE: Duration = Duration::from_secs(10);

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

    /// Asked, too, when stdin ends: whoever started this process holds its other end, and is gone or wants it to end. With `first_line`
    /// the first line comes back.
    ///
    /// # Errors
    /// No thread, or no first line within 10 s.
    pub fn on_stdin_end(&self, first_line: bool) -> std::io::Result<Option<String>> {
        let asked = self.clone();
        let (to, first) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            let mut stdin = std::io::stdin().lock();
            if first_line {
                let mut line = String::new();
                // A cookie is shorter; what goes on and on is none.
                let _ = (&mut stdin).take(LINE_BYTES).read_line(&mut line);
                let _ = to.send(line.trim().to_string());
            }
            let _ = std::io::copy(&mut stdin, &mut std::io::sink());
            asked.ask();
        })?;
        if !first_line {
            return Ok(None);
        }
        first.recv_timeout(FIRST_LINE).map(Some).map_err(|_| std::io::ErrorKind::TimedOut.into())
    }
}
