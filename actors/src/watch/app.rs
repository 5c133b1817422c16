//! What `troupe watch` shows and what each key does. Pure but for `refresh`, which asks the reader.

use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;

use super::source::Source;
use crate::inspect::crew::Crew;
use crate::inspect::notes::Timeline;
use crate::inspect::overview::Overview;
use crate::inspect::query::{Page, Query};
use crate::inspect::tasks::TaskRow;

/// Rows of a page.
pub const ROWS: usize = 200;
/// Lines that PageUp and PageDown move.
const LEAP: i64 = 20;
/// Seconds over which executors are looked at.
const WINDOW_S: u64 = 120;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    #[default]
    Overview,
    Rollouts,
    Tasks,
    Executors,
    Actors,
    Rollout(u64),
}

/// Alarms are not older than this, whatever is shown.
pub const ALARMS: Duration = Duration::from_secs(5);

/// What the views of executors and actors show.
pub struct Work {
    pub crew: Crew,
    pub timeline: Timeline,
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Nothing,
    /// The reader has to be asked.
    Ask,
    Leave,
}

#[derive(Default)]
pub struct App {
    pub view: View,
    pub query: Query,
    /// The filter while it is being written.
    pub writing: Option<String>,
    pub error: Option<String>,
    pub overview: Option<Overview>,
    /// When it was asked for.
    pub told: Option<Instant>,
    pub page: Option<Page>,
    /// Those of which most is asked first.
    pub tasks: Option<Vec<TaskRow>>,
    pub work: Option<Work>,
    /// Of the rollout that is shown: harmless lines.
    pub lines: Vec<String>,
    pub scroll: u16,
    pub table: TableState,
}

impl App {
    /// Asks for what the view needs. An error is shown and what was known stays.
    pub fn refresh(&mut self, source: &Source) {
        source.together(|| self.ask(source));
    }

    /// Alarms are told on every page, of which some are not asked for again while nothing of them changes.
    pub fn refresh_alarms(&mut self, source: &Source) {
        let told = source.together(|| self.tell(source));
        if let Err(error) = told {
            self.error = Some(error);
        }
    }

    /// True when the alarms that are shown are younger than that.
    pub fn is_told(&self, age: Duration) -> bool {
        self.told.is_some_and(|at| at.elapsed() < age)
    }

    fn tell(&mut self, source: &Source) -> Result<(), String> {
        // An error is not asked for at once again.
        self.told = Some(Instant::now());
        self.overview = Some(source.overview()?);
        Ok(())
    }

    fn ask(&mut self, source: &Source) {
        self.query.limit = ROWS;
        let asked = match self.view {
            View::Overview => self.tell(source),
            View::Rollouts => source.page(&self.query).map(|p| self.page = Some(p)),
            View::Tasks => source.tasks().map(|mut all| {
                all.sort_by(|a, b| b.answers.cmp(&a.answers).then(a.task.cmp(&b.task)));
                self.tasks = Some(all);
            }),
            View::Executors | View::Actors => source.crew().and_then(|crew| {
                self.work = Some(Work { crew, timeline: source.timeline(WINDOW_S)? });
                Ok(())
            }),
            View::Rollout(id) => match source.text(id) {
                Ok(Some(text)) => {
                    // Made harmless there: nothing in it can move the cursor or turn the text.
                    self.lines = text.lines().map(|line| line.replace('\t', "    ")).collect();
                    Ok(())
                }
                Ok(None) => Err(format!("no rollout {id}")),
                Err(e) => Err(e),
            },
        };
        let asked = asked.and_then(|()| match self.is_told(ALARMS) {
            true => Ok(()),
            false => self.tell(source),
        });
        self.error = asked.err();
    }

    pub fn key(&mut self, key: KeyEvent) -> After {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return After::Leave;
        }
        if let Some(text) = &mut self.writing {
            match key.code {
                KeyCode::Char(c) => text.push(c),
                KeyCode::Backspace => drop(text.pop()),
                KeyCode::Esc => self.writing = None,
                KeyCode::Enter => {
                    self.query.filter = self.writing.take().unwrap_or_default();
                    self.query.offset = 0;
                    self.table.select(None);
                    return After::Ask;
                }
                _ => {}
            }
            return After::Nothing;
        }
        match (self.view, key.code) {
            (_, KeyCode::Char('q')) => After::Leave,
            (_, KeyCode::Char('1')) => self.go(View::Overview),
            (_, KeyCode::Char('2')) => self.go(View::Rollouts),
            (_, KeyCode::Char('3')) => self.go(View::Tasks),
            (_, KeyCode::Char('4')) => self.go(View::Executors),
            (_, KeyCode::Char('5')) => self.go(View::Actors),
            (View::Overview, KeyCode::Enter) => self.go(View::Rollouts),
            (view, KeyCode::Tab) => self.go(match view {
                View::Overview => View::Rollouts,
                View::Rollouts | View::Rollout(_) => View::Tasks,
                View::Tasks => View::Executors,
                View::Executors => View::Actors,
                View::Actors => View::Overview,
            }),
            (View::Tasks, KeyCode::Enter) => match self.picked_task() {
                Some(filter) => {
                    (self.query.filter, self.query.offset) = (filter, 0);
                    self.go(View::Rollouts)
                }
                None => After::Nothing,
            },
            (View::Rollout(_), KeyCode::Esc) => self.go(View::Rollouts),
            (_, KeyCode::Esc) => self.go(View::Overview),
            (_, KeyCode::Char('/')) => {
                self.writing = Some(self.query.filter.clone());
                self.go(View::Rollouts)
            }
            (View::Rollouts, KeyCode::Enter) => match self.selected() {
                Some(id) => self.go(View::Rollout(id)),
                None => After::Nothing,
            },
            (View::Rollouts, KeyCode::Char('n')) => self.turn(ROWS as i64),
            (View::Rollouts, KeyCode::Char('p')) => self.turn(-(ROWS as i64)),
            (_, KeyCode::Char('j') | KeyCode::Down) => self.step(1),
            (_, KeyCode::Char('k') | KeyCode::Up) => self.step(-1),
            (_, KeyCode::PageDown | KeyCode::Char(' ')) => self.step(LEAP),
            (_, KeyCode::PageUp) => self.step(-LEAP),
            _ => After::Nothing,
        }
    }

    fn go(&mut self, view: View) -> After {
        if self.view != view {
            self.table.select(None);
        }
        (self.view, self.scroll) = (view, 0);
        After::Ask
    }

    fn turn(&mut self, by: i64) -> After {
        self.query.offset = (self.query.offset as i64 + by).max(0) as usize;
        self.table.select(Some(0));
        After::Ask
    }

    fn step(&mut self, by: i64) -> After {
        match self.view {
            View::Rollouts | View::Tasks => {
                let rows = match self.view {
                    View::Tasks => self.tasks.as_ref().map_or(0, Vec::len),
                    _ => self.page.as_ref().map_or(0, |p| p.rollouts.len()),
                };
                let last = (rows as i64 - 1).max(0);
                let at = self.table.selected().map_or(if by > 0 { -1 } else { 1 }, |at| at as i64);
                self.table.select(Some((at + by).clamp(0, last) as usize));
            }
            View::Rollout(_) => {
                let last = self.lines.len().saturating_sub(1) as i64;
                self.scroll = (i64::from(self.scroll) + by).clamp(0, last).min(i64::from(u16::MAX)) as u16;
            }
            View::Executors | View::Actors => {
                self.scroll = (i64::from(self.scroll) + by).clamp(0, i64::from(u16::MAX)) as u16;
            }
            View::Overview => {}
        }
        After::Nothing
    }

    /// A filter for the rollouts of the task that is selected.
    fn picked_task(&self) -> Option<String> {
        let task = &self.tasks.as_ref()?.get(self.table.selected()?)?.task;
        // The filter language has two kinds of quotes and no escapes.
        let quote = if task.contains('\'') { '"' } else { '\'' };
        Some(format!("task = {quote}{task}{quote}"))
    }

    fn selected(&self) -> Option<u64> {
        self.page.as_ref()?.rollouts.get(self.table.selected()?).map(|r| r.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(app: &mut App, keys: &str) -> After {
        let mut after = After::Nothing;
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                c => KeyCode::Char(c),
            };
            after = app.key(KeyEvent::from(code));
        }
        after
    }

    #[test]
    fn keys_lead_from_view_to_view_and_a_filter_may_hold_any_letter() {
        let mut app = App::default();
        assert_eq!(press(&mut app, "2"), After::Ask);
        assert_eq!(app.view, View::Rollouts);
        press(&mut app, "/task ~ q");
        assert_eq!(app.writing.as_deref(), Some("task ~ q"), "q is a letter here");
        assert_eq!(press(&mut app, "\n"), After::Ask);
        assert_eq!((app.query.filter.as_str(), &app.writing), ("task ~ q", &None));
        assert_eq!(press(&mut app, "\n"), After::Nothing, "no row is selected");
        press(&mut app, "/x\u{1b}");
        assert_eq!(app.query.filter, "task ~ q", "Esc gives the filter up");
        press(&mut app, "\u{1b}");
        assert_eq!(app.view, View::Overview);
        assert_eq!(press(&mut app, "q"), After::Leave);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        app.writing = Some(String::new());
        assert_eq!(app.key(control), After::Leave, "even while a filter is written");
    }
}
