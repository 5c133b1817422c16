//! The LLM judge as the run file describes it: where to ask, how, and within which limits.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::ledger::{Counts, Ledger, Limits};
use crate::config::Judge;
use crate::errors::UserError;

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
        let variable = section.api_key_env.as_str();
        let secret = match variable {
            "" => None,
            name => match std::env::var(name) {
                Ok(secret) if !secret.trim().is_empty() => Some(secret.trim().to_string()),
                _ => {
                    return Err(UserError::new("the LLM judge's key is not there")
                        .at(format!("judge.api_key_env = \"{name}\""))
                        .found(format!("no environment variable `{name}`, or an empty one"))
                        .expected("the key of the endpoint in this variable")
                        .hint(format!(
                            "export {name}=.., or set judge.api_key_env = \"\" for an endpoint without keys"
                        )));
                }
            },
        };
        Setup::with(section, secret, Tuning::default()).map(Some)
    }

    /// As [`Setup::new`], with everything given.
    ///
    /// # Errors
    /// A value that makes no request.
    pub fn with(section: &Judge, secret: Option<String>, tuning: Tuning) -> Result<Arc<Setup>, UserError> {
        let url = endpoint(&section.base_url).map_err(|found| {
            UserError::new("the LLM judge has no address")
                .at("judge.base_url")
                .found(found)
                .expected("a URL such as \"http://127.0.0.1:8000/v1\"")
                .hint("the part before `/chat/completions`")
        })?;
        let unusable = |what: &str, error: &dyn std::fmt::Display| {
            UserError::new(format!("the LLM judge's {what} cannot be used")).at("[judge]").found(error)
        };
        let mut headers = HeaderMap::new();
        if let Some(secret) = &secret {
            let mut value = HeaderValue::from_str(&format!("Bearer {secret}"))
                .map_err(|_| unusable("key", &"characters that no HTTP header can hold"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // Fails when it was done before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let timeout = Duration::from_secs(section.timeout_s);
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("troupe/", env!("CARGO_PKG_VERSION")))
            // The key and the program go where the run file says, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(timeout);
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        Ok(Arc::new(Setup {
            http: builder.build().map_err(|e| unusable("HTTP client", &e))?,
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

/// Where requests go.
///
/// # Errors
/// What was found instead of a usable base URL.
pub fn endpoint(base_url: &str) -> Result<Url, String> {
    // By itself first: in `http:///chat/completions` the path would be taken for a host.
    Url::parse(base_url).map_err(|e| format!("\"{base_url}\": {e}"))?;
    let whole = format!("{}/chat/completions", base_url.trim_end_matches('/'));
    let url = Url::parse(&whole).map_err(|e| format!("\"{base_url}\": {e}"))?;
    let usable = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|h| !h.is_empty());
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    match (usable, plain) {
        (true, true) => Ok(url),
        (false, _) => Err(format!("\"{base_url}\", which is no http or https address")),
        (true, false) => Err("a URL with a user, a password or a query".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_below_the_base_url_and_to_http_alone() {
        let url = |base: &str| endpoint(base).map(|u| u.to_string());
        assert_eq!(url("http://h:8000/v1/").unwrap(), "http://h:8000/v1/chat/completions");
        assert_eq!(url("https://h").unwrap(), "https://h/chat/completions");
        for base in ["", "h/v1", "file:///v1", "http://", "http://u:p@h/v1", "http://h/v1?key=1"] {
            assert!(url(base).is_err(), "{base}");
        }
        assert!(!url("http://u:sesame@h/v1").unwrap_err().contains("sesame"));
    }
}
