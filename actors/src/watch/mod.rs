//! `troupe watch`: a run in the terminal, over ssh too, through the same reader as the web page, or through a dashboard. It
//! reads only.

mod app;
mod draw;
pub mod source;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use app::{After, App};
use source::Source;

/// How long a key is waited for before the run is looked at again.
const EVERY: Duration = Duration::from_millis(250);

/// How often a dashboard is asked whether there is something new.
const ASK: Duration = Duration::from_secs(1);

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
pub fn watch(source: &Source) -> Result<(), WatchError> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(WatchError::NoTerminal);
    }
    let stop = Arc::new(AtomicBool::new(false));
    if let Source::Dir(run) = source {
        run.follow(stop.clone())?;
    }
    // Also puts the terminal back when something panics.
    let mut terminal = ratatui::try_init()?;
    let left = drive(&mut terminal, source);
    let restored = ratatui::try_restore();
    stop.store(true, Ordering::Relaxed);
    left?;
    Ok(restored?)
}

fn drive(terminal: &mut ratatui::DefaultTerminal, source: &Source) -> std::io::Result<()> {
    let mut app = App::default();
    let (mut seen, mut asked) = (None, None::<Instant>);
    loop {
        let pause = if matches!(source, Source::Url(_)) { ASK } else { Duration::ZERO };
        if asked.is_none_or(|at| at.elapsed() >= pause) {
            match source.pulse() {
                Ok(pulse) if seen != Some(pulse.version) => {
                    app.refresh(source);
                    seen = Some(pulse.version);
                }
                Ok(_) => {}
                Err(error) => app.error = Some(error),
            }
            asked = Some(Instant::now());
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
                After::Ask => app.refresh(source),
                After::Nothing => {}
            }
        }
    }
}
