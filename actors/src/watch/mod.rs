//! `troupe watch`: a run in the terminal, over ssh too, through the same reader as the web page, or through a dashboard. It
//! reads only.

mod app;
mod draw;
mod pages;
pub mod source;

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use app::{After, App, View};
use source::Source;

/// How long a key is waited for before the run is looked at again.
const EVERY: Duration = Duration::from_millis(250);

/// How often a run is asked for what is new, and a dashboard whether there is something new. Where an answer took long, after
/// this many times as long.
const NEW: Duration = Duration::from_millis(500);
const ASK: Duration = Duration::from_secs(1);
const REST: u32 = 8;
/// What is shown of a run that says nothing new is not older than this: that it wrote nothing for a while is news too.
const AGE: Duration = Duration::from_secs(5);

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
    let mut seen = None;
    let mut refreshed = Instant::now();
    let mut next = Instant::now();
    let mut drawn = false;
    loop {
        if Instant::now() >= next {
            let began = Instant::now();
            match source.pulse() {
                Ok(pulse) if seen != Some(pulse.version) || is_old(app.view, refreshed.elapsed()) => {
                    app.refresh(source);
                    (seen, refreshed) = (Some(pulse.version), Instant::now());
                    drawn = false;
                }
                Ok(_) if !app.is_told(app::ALARMS) => {
                    app.refresh_alarms(source);
                    drawn = false;
                }
                Ok(_) => {}
                Err(error) => {
                    drawn &= app.error.as_ref() == Some(&error);
                    app.error = Some(error);
                }
            }
            let pause = if matches!(source, Source::Url(_)) { ASK } else { NEW };
            next = Instant::now() + pause.max(began.elapsed() * REST);
        }
        if !drawn {
            terminal.draw(|frame| draw::draw(frame, &mut app))?;
            drawn = true;
        }
        if !event::poll(EVERY)? {
            continue;
        }
        // A key, or another size.
        drawn = false;
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

/// Overview, executors and actors say how the run stands; a search would be asked again for nothing.
fn is_old(view: View, age: Duration) -> bool {
    matches!(view, View::Overview | View::Executors | View::Actors) && age >= AGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overview_of_a_run_that_says_nothing_is_asked_for_again() {
        assert!(!is_old(View::Overview, Duration::from_secs(4)) && is_old(View::Overview, AGE));
        assert!(is_old(View::Executors, AGE) && is_old(View::Actors, AGE));
        assert!(!is_old(View::Rollouts, 2 * AGE) && !is_old(View::Rollout(1), 2 * AGE));
    }
}
