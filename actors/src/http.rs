//! What every client of an OpenAI-compatible endpoint shares: addresses, the key, bounded bodies, pauses between tries.
//! The LLM judge and the generation server are both asked through it.

use std::error::Error;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use tokio::time::Duration;

use crate::errors::UserError;

/// Largest response that is read whole, bytes.
const BODY_MAX: usize = 1 << 20;
/// Longest pause of our own before a repeated request.
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// What is quoted of an endpoint's own words, characters.
const QUOTE: usize = 200;

/// The key in the environment variable `name`, which the run file's `key` names; `None` for an empty name.
///
/// # Errors
/// The variable is not set, or empty.
pub fn secret(whose: &str, key: &str, name: &str) -> Result<Option<String>, UserError> {
    if name.is_empty() {
        return Ok(None);
    }
    match std::env::var(name) {
        Ok(secret) if !secret.trim().is_empty() => Ok(Some(secret.trim().to_string())),
        _ => Err(UserError::new(format!("{whose}'s key is not there"))
            .at(format!("{key} = \"{name}\""))
            .found(format!("no environment variable `{name}`, or an empty one"))
            .expected("the key of the endpoint in this variable")
            .hint(format!("export {name}=.., or set {key} = \"\" for an endpoint without keys"))),
    }
}

/// A client that sends `secret` as a bearer token to `url`'s host and nowhere else.
///
/// # Errors
/// A key that no header can hold, or no client: in words.
pub fn client(url: &Url, secret: Option<&str>, connect: Duration) -> Result<reqwest::Client, String> {
    let mut headers = HeaderMap::new();
    if let Some(secret) = secret {
        let mut value = HeaderValue::from_str(&format!("Bearer {secret}"))
            .map_err(|_| "a key with characters that no HTTP header can hold".to_string())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    // Fails when it was done before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .default_headers(headers)
        .user_agent(concat!("troupe/", env!("CARGO_PKG_VERSION")))
        // The key and the program go where the run file says, and nowhere else.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect);
    if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| chain(&e))
}

/// `<base_url>/<path>`.
///
/// # Errors
/// What was found instead of a usable base URL.
pub fn endpoint(base_url: &str, path: &str) -> Result<Url, String> {
    // By itself first: in `http:///chat/completions` the path would be taken for a host.
    Url::parse(base_url).map_err(|e| format!("\"{base_url}\": {e}"))?;
    let whole = format!("{}/{path}", base_url.trim_end_matches('/'));
    let url = Url::parse(&whole).map_err(|e| format!("\"{base_url}\": {e}"))?;
    let usable = matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|h| !h.is_empty());
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    match (usable, plain) {
        (true, true) => Ok(url),
        (false, _) => Err(format!("\"{base_url}\", which is no http or https address")),
        (true, false) => Err("a URL with a user, a password or a query".to_string()),
    }
}

/// The body, up to its limit.
///
/// # Errors
/// Too large, or the connection broke: in words.
pub async fn limited(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= BODY_MAX => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(format!("a response of more than {BODY_MAX} bytes")),
            Err(e) => return Err(chain(&e.without_url())),
        }
    }
}

/// Whether the same request may do better than this answer.
pub fn may_pass(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT)
}

/// Seconds; the form with a date is rare and is left to our own pause.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Doubles with `tries` (from 1), and is drawn from its upper half: many that failed together do not come back together.
pub fn backoff(first: Duration, tries: u32) -> Duration {
    let full = first.saturating_mul(1 << (tries - 1).min(16)).min(BACKOFF_MAX);
    full.mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

/// An error with its causes.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |e: &&dyn Error| (*e).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// One short line without the key.
pub fn blot(secret: Option<&str>, text: &str) -> String {
    let text = match secret {
        Some(secret) => text.replace(secret, "***"),
        None => text.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_below_the_base_url_and_to_http_alone() {
        let url = |base: &str| endpoint(base, "chat/completions").map(|u| u.to_string());
        assert_eq!(url("http://h:8000/v1/").unwrap(), "http://h:8000/v1/chat/completions");
        assert_eq!(url("https://h").unwrap(), "https://h/chat/completions");
        for base in ["", "h/v1", "file:///v1", "http://", "http://u:p@h/v1", "http://h/v1?key=1"] {
            assert!(url(base).is_err(), "{base}");
        }
        assert!(!url("http://u:sesame@h/v1").unwrap_err().contains("sesame"));
    }

    #[test]
    fn pauses_double_with_jitter_up_to_their_limit() {
        let first = Duration::from_millis(500);
        for tries in 1..40 {
            let full = first.saturating_mul(1 << (tries - 1).min(10)).min(BACKOFF_MAX);
            let pause = backoff(first, tries);
            assert!(pause >= full / 2 && pause <= full, "{tries}: {pause:?}");
        }
        assert_ne!(backoff(first, 3), backoff(first, 3));
    }

    #[test]
    fn an_endpoints_wish_is_read_in_seconds() {
        let wish = |text: &str| retry_after(&[(RETRY_AFTER, text.parse().unwrap())].into_iter().collect());
        assert_eq!((wish("2"), wish("0.5")), (Some(Duration::from_secs(2)), Some(Duration::from_millis(500))));
        for odd in ["-1", "NaN", "inf", "1e300", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(wish(odd), None, "{odd}");
        }
    }
}
