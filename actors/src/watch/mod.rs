//! `troupe watch`: a run in the terminal, over ssh too, through the same reader as the web page. It reads only.

mod app;
mod draw;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::inspect::Run;
use app::{After, App};

/// How long a key is waited for before the run is looked at again.
const EVERY: Duration = Duration::from_millis(250);

/// Why watching ended early.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("no terminal")]
    NoTerminal,
    #[error("the terminal failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Shows the run until the user leaves.
///
/// # Errors
/// Stdin or stdout is no terminal, or it fails.
pub fn watch(run: Arc<Run>) -> Result<(), WatchError> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(WatchError::NoTerminal);
    }
    let stop = Arc::new(AtomicBool::new(false));
    run.follow(stop.clone())?;
    // Also puts the terminal back when something panics.
    let mut terminal = ratatui::try_init()?;
    let left = drive(&mut terminal, &run);
    let restored = ratatui::try_restore();
    stop.store(true, Ordering::Relaxed);
    left?;
    Ok(restored?)
}

fn drive(terminal: &mut ratatui::DefaultTerminal, run: &Run) -> std::io::Result<()> {
    let mut app = App::default();
    let mut seen = None;
    loop {
        let version = run.pulse().version;
        if seen != Some(version) {
            app.refresh(run);
            seen = Some(version);
        }
        terminal.draw(|frame| draw::draw(frame, &mut app))?;
        if !event::poll(EVERY)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            match app.key(key) {
                After::Leave => return Ok(()),
                After::Ask => app.refresh(run),
                After::Nothing => {}
            }
        }
    }
}
