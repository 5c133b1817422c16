//! When a node that ended by itself is started again: pure. With pauses that double from one second to half a minute, and so many times
//! without having lived for a minute (`launch.restarts`); a minute of life is a new beginning.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// A life that counts.
pub const LIFE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It ended in order: the run is over, or it was drained.
    Rest,
    Again(Duration),
    GiveUp,
}

#[derive(Clone, Debug)]
pub struct Restarts {
    limit: u32,
    in_a_row: u32,
}

impl Restarts {
    pub fn new(limit: u32) -> Restarts {
        Restarts { limit, in_a_row: 0 }
    }

    /// It ended after `lived`; `code` is its exit code, `None` after a signal.
    pub fn ended(&mut self, code: Option<i32>, lived: Duration) -> Next {
        if code == Some(0) {
            return Next::Rest;
        }
        if lived >= LIFE {
            self.in_a_row = 0;
        }
        if self.in_a_row >= self.limit {
            return Next::GiveUp;
        }
        let pause = FIRST.saturating_mul(1 << self.in_a_row.min(16)).min(LONGEST);
        self.in_a_row += 1;
        Next::Again(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    #[test]
    fn pauses_double_until_it_is_given_up() {
        let mut restarts = Restarts::new(7);
        let all: Vec<Next> = (0..8).map(|_| restarts.ended(Some(3), SHORT)).collect();
        let seconds = [1, 2, 4, 8, 16, 30, 30].map(|s| Next::Again(Duration::from_secs(s)));
        assert_eq!(all[..7], seconds);
        assert_eq!(all[7], Next::GiveUp);
    }

    #[test]
    fn a_life_is_a_new_beginning_and_an_orderly_end_is_the_end() {
        let mut restarts = Restarts::new(2);
        for _ in 0..10 {
            assert_eq!(restarts.ended(None, LIFE), Next::Again(FIRST));
        }
        assert_eq!(restarts.ended(Some(0), SHORT), Next::Rest);
        assert_eq!(restarts.ended(Some(2), SHORT), Next::Again(FIRST * 2));
        assert_eq!(restarts.ended(Some(2), SHORT), Next::GiveUp);
        assert_eq!(Restarts::new(0).ended(Some(1), SHORT), Next::GiveUp);
    }
}
