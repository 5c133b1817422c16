//! What the LLM judge may spend and what it did: request and token budget, requests a minute, counts. It outlives the
//! actor, so that a restart is no new budget.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// What the judge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Candidates that passed everything before.
    pub asked: u64,
    /// Of these, answered without a request: asked before, or at the same time.
    pub cached: u64,
    pub rejected: u64,
    /// Without an opinion: masked, never scored.
    pub faults: u64,
    /// HTTP requests, repeated ones too.
    pub requests: u64,
    /// As the endpoint counts; an estimate where it did not say.
    pub tokens: u64,
}

/// Limits of `[judge]`; 0 = none.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub requests_per_minute: usize,
    pub max_requests: u64,
    pub max_tokens: u64,
}

/// Why a request may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0} requests were made, judge.max_requests")]
    Requests(u64),
    #[error("{0} tokens were used and the next request could pass judge.max_tokens")]
    Tokens(u64),
    #[error("judge.requests_per_minute leaves no room before judge.deadline_s")]
    Late,
}

#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    counts: Counts,
    /// When the last requests were sent, or will be: `requests_per_minute` of them at most.
    sent: VecDeque<Instant>,
}

impl Ledger {
    pub fn new(limits: Limits) -> Ledger {
        Ledger { limits, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn counts(&self) -> Counts {
        self.books().counts
    }

    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.books().counts);
    }

    /// Pays for one request of up to `tokens` and says when it may be sent, if that is before `until`.
    ///
    /// # Errors
    /// `Refused`, and nothing is paid.
    pub fn pay(&self, now: Instant, until: Instant, tokens: u64) -> Result<Instant, Refused> {
        let Limits { requests_per_minute: rate, max_requests, max_tokens } = self.limits;
        let mut books = self.books();
        let free = if rate == 0 || books.sent.len() < rate { None } else { books.sent.front().map(|at| *at + MINUTE) };
        let at = free.map_or(now, |free| free.max(now));
        let counts = &mut books.counts;
        if max_requests > 0 && counts.requests >= max_requests {
            return Err(Refused::Requests(counts.requests));
        }
        if max_tokens > 0 && counts.tokens.saturating_add(tokens) > max_tokens {
            return Err(Refused::Tokens(counts.tokens));
        }
        if at >= until {
            return Err(Refused::Late);
        }
        counts.requests += 1;
        counts.tokens = counts.tokens.saturating_add(tokens);
        if rate > 0 {
            books.sent.push_back(at);
            let old = books.sent.len().saturating_sub(rate);
            books.sent.drain(..old);
        }
        Ok(at)
    }

    /// What was paid as `paid` tokens was `used`.
    pub fn settle(&self, paid: u64, used: u64) {
        let counts = &mut self.books().counts;
        counts.tokens = counts.tokens.saturating_sub(paid).saturating_add(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(requests_per_minute: usize, max_requests: u64, max_tokens: u64) -> Ledger {
        Ledger::new(Limits { requests_per_minute, max_requests, max_tokens })
    }

    /// Planted: `tokens` is compared without the next request. Seen: a request that would pass the budget is paid.
    #[test]
    fn a_budget_is_never_passed() {
        let (now, ledger) = (Instant::now(), ledger(0, 3, 100));
        let pay = |tokens| ledger.pay(now, now + MINUTE, tokens);
        assert_eq!(pay(60), Ok(now));
        assert_eq!(pay(60), Err(Refused::Tokens(60)), "it could pass the budget");
        ledger.settle(60, 30);
        assert_eq!(pay(60), Ok(now));
        ledger.settle(60, u64::MAX);
        assert_eq!(pay(0), Err(Refused::Tokens(u64::MAX)), "an endpoint that counts too high stops us");
        ledger.settle(u64::MAX, 0);
        assert_eq!(pay(1), Ok(now));
        assert_eq!(pay(1), Err(Refused::Requests(3)));
        assert_eq!(ledger.counts().requests, 3, "what was refused is not counted");
    }

    /// Planted: the oldest entry is not waited for. Seen: four requests in the first minute.
    #[test]
    fn no_minute_has_more_requests_than_allowed() {
        let (start, ledger) = (Instant::now(), ledger(2, 0, 0));
        let second = Duration::from_secs(1);
        let at: Vec<u64> = [0, 10, 11, 12, 200, 201]
            .map(|s| (ledger.pay(start + s * second, start + 10 * MINUTE, 1).unwrap() - start).as_secs())
            .into();
        assert_eq!(at, [0, 10, 60, 70, 200, 201]);
        // Nothing is paid for what would come too late.
        let paid = ledger.counts();
        assert_eq!(ledger.pay(start + 202 * second, start + 260 * second, 1), Err(Refused::Late));
        assert_eq!(ledger.counts(), paid);
        assert!(ledger.pay(start + 202 * second, start + 261 * second, 1).is_ok());
    }
}
