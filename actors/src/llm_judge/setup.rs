//! The LLM judge as the run file describes it: where to ask, how, and within which limits.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use super::ledger::{Counts, Ledger, Limits};
use crate::config::Judge;
use crate::errors::UserError;
use crate::http;

/// All that the judge needs; shared, also over restarts.
pub struct Setup {
    pub(super) http: reqwest::Client,
    pub(super) url: Url,
    /// Kept to be blotted out of messages.
    pub(super) secret: Option<String>,
    pub(super) model: String,
    pub(super) temperature: f64,
    pub(super) answer_tokens: u64,
    pub(super) timeout: Duration,
    pub(super) deadline: Duration,
    pub(super) concurrency: usize,
    pub(super) retries: u32,
    pub(super) backoff: Duration,
    pub(super) ledger: Ledger,
}

/// What the run file does not say.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// The first pause before a repeated request; it doubles.
    pub backoff: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { backoff: Duration::from_millis(500) }
    }
}

impl Setup {
    /// `None` when the judge is off. The key is read from the environment here and goes nowhere but into a header.
    ///
    /// # Errors
    /// The variable for the key is not set, or a value that `config::check` would have found.
    pub fn new(section: &Judge) -> Result<Option<Arc<Setup>>, UserError> {
        if !section.enabled {
            return Ok(None);
        }
        let secret = http::secret("the LLM judge", "judge.api_key_env", &section.api_key_env)?;
        Setup::with(section, secret, Tuning::default()).map(Some)
    }

    /// As [`Setup::new`], with everything given.
    ///
    /// # Errors
    /// A value that makes no request.
    pub fn with(section: &Judge, secret: Option<String>, tuning: Tuning) -> Result<Arc<Setup>, UserError> {
        let url = http::endpoint(&section.base_url, "chat/completions").map_err(|found| {
            UserError::new("the LLM judge has no address")
                .at("judge.base_url")
                .found(found)
                .expected("a URL such as \"http://127.0.0.1:8000/v1\"")
                .hint("the part before `/chat/completions`")
        })?;
        let timeout = Duration::from_secs(section.timeout_s);
        let client = http::client(&url, secret.as_deref(), timeout)
            .map_err(|found| UserError::new("the LLM judge's endpoint cannot be asked").at("[judge]").found(found))?;
        Ok(Arc::new(Setup {
            http: client,
            url,
            secret,
            model: section.model.clone(),
            temperature: section.temperature,
            answer_tokens: section.answer_tokens as u64,
            timeout,
            deadline: Duration::from_secs(section.deadline_s),
            concurrency: section.concurrency,
            retries: section.retries,
            backoff: tuning.backoff,
            ledger: Ledger::new(Limits {
                requests_per_minute: section.requests_per_minute,
                max_requests: section.max_requests,
                max_tokens: section.max_tokens,
            }),
        }))
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.ledger.counts()
    }

    /// Goes on from what an earlier process of the run did: the budget is the run's.
    pub fn restore(&self, counts: Counts) {
        self.ledger.count(|present| *present = counts);
    }
}
