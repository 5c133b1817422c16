//! One question to the endpoint: requests, repeated within bounds until an answer can be read.

use std::error::Error;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reward::rubric::{MARK_BYTES, Opinion, Question, SCHEMA, Texts, read};
use rollout::outcome::Fault;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::ledger::Refused;
use super::setup::Setup;
use crate::supervise::{LLM_JUDGE_BUDGET, LLM_JUDGE_UNAVAILABLE, fault};

/// Largest response that is read, bytes.
const BODY_MAX: usize = 1 << 20;
/// Longest pause of our own before a repeated request.
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// Bytes of a prompt that make a token at most: on the safe side for code.
const BYTES_PER_TOKEN: u64 = 3;
/// What is quoted of an endpoint's own words, characters.
const QUOTE: usize = 200;

/// Why a request brought no opinion.
struct Trouble {
    why: String,
    /// Whether the same request may do better.
    again: bool,
    /// The endpoint's own wish.
    after: Option<Duration>,
    /// Tokens it cost; `None` where nobody knows, and the estimate stands.
    used: Option<u64>,
}

impl Trouble {
    fn again(why: impl Into<String>, used: Option<u64>) -> Trouble {
        Trouble { why: why.into(), again: true, after: None, used }
    }
}

/// The parts of a response that matter; endpoints add others.
#[derive(Deserialize)]
struct Envelope {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    total_tokens: u64,
}

/// Asks until there is an opinion, the tries are used up, or the answer could not come before `until`.
pub async fn ask(setup: &Setup, question: &Question<'_>, until: Instant) -> Result<Opinion, Fault> {
    let mut tries = 0;
    loop {
        // A new mark each time: an answer to a request tells nothing about the next one.
        let texts = question.texts(rand::random::<[u8; MARK_BYTES]>());
        let texts = texts.map_err(|e| fault(LLM_JUDGE_UNAVAILABLE, e))?;
        let paid = (texts.system.len() + texts.user.len()) as u64 / BYTES_PER_TOKEN + setup.answer_tokens;
        let at = setup.ledger.pay(Instant::now(), until, paid).map_err(|e| match e {
            Refused::Late => fault(LLM_JUDGE_UNAVAILABLE, e),
            Refused::Requests(_) | Refused::Tokens(_) => fault(LLM_JUDGE_BUDGET, e),
        })?;
        sleep_until(at).await;
        tries += 1;
        let trouble = match timeout(setup.timeout, request(setup, question, &texts)).await {
            Ok(Ok((opinion, used))) => {
                setup.ledger.settle(paid, used.unwrap_or(paid));
                return Ok(opinion);
            }
            Ok(Err(trouble)) => trouble,
            Err(_) => {
                Trouble::again(format!("no response within judge.timeout_s = {}", setup.timeout.as_secs_f64()), None)
            }
        };
        setup.ledger.settle(paid, trouble.used.unwrap_or(paid));
        let pause = trouble.after.unwrap_or_else(|| backoff(setup.backoff, tries));
        let why = blot(setup, &trouble.why);
        tracing::debug!(tries, %why, ?pause, "the LLM judge gave no opinion");
        if !trouble.again || tries > setup.retries {
            return Err(unavailable(&format!("{why} (tries: {tries})")));
        }
        if Instant::now() + pause >= until {
            return Err(unavailable(&format!("{why}; the next try would be past judge.deadline_s")));
        }
        tokio::time::sleep(pause).await;
    }
}

/// One request: the opinion and what it cost.
async fn request(setup: &Setup, question: &Question<'_>, texts: &Texts) -> Result<(Opinion, Option<u64>), Trouble> {
    let schema: serde_json::Value =
        serde_json::from_str(SCHEMA).map_err(|e| Trouble { again: false, ..Trouble::again(e.to_string(), Some(0)) })?;
    let body = json!({
        "model": setup.model,
        "messages": [
            { "role": "system", "content": texts.system },
            { "role": "user", "content": texts.user },
        ],
        "temperature": setup.temperature,
        "max_completion_tokens": setup.answer_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": { "name": "opinion", "strict": true, "schema": schema },
        },
    });
    let request = setup.http.post(setup.url.clone()).header(CONTENT_TYPE, "application/json").body(body.to_string());
    let response = request.send().await.map_err(|e| {
        let used = e.is_connect().then_some(0);
        Trouble::again(chain(&e.without_url()), used)
    })?;
    let status = response.status();
    let after = retry_after(response.headers());
    let body = limited(response).await;
    if !status.is_success() {
        let again = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT);
        let said = body.map_or_else(|e| e.why, |body| String::from_utf8_lossy(&body).into_owned());
        return Err(Trouble { why: format!("HTTP status {status}: {said}"), again, after, used: Some(0) });
    }
    let envelope: Envelope = serde_json::from_slice(&body?)
        .map_err(|e| Trouble::again(format!("the response is no chat completion: {e}"), None))?;
    let used = envelope.usage.map(|u| u.total_tokens);
    let [choice] = &envelope.choices[..] else {
        return Err(Trouble::again(format!("{} choices in the response, not one", envelope.choices.len()), used));
    };
    if choice.finish_reason.as_deref() == Some("length") {
        return Err(Trouble::again("the answer was cut off (judge.answer_tokens)", used));
    }
    let content = choice.message.content.as_deref().unwrap_or_default();
    match read(content, question) {
        Ok(opinion) => Ok((opinion, used)),
        Err(error) => Err(Trouble::again(format!("malformed answer: {error}"), used)),
    }
}

/// The body, up to its limit.
async fn limited(mut response: reqwest::Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= BODY_MAX => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(Trouble::again(format!("a response of more than {BODY_MAX} bytes"), None)),
            Err(e) => return Err(Trouble::again(chain(&e.without_url()), None)),
        }
    }
}

/// Seconds; the form with a date is rare and is left to our own pause.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Doubles, and is drawn from its upper half: many that failed together do not come back together.
fn backoff(first: Duration, tries: u32) -> Duration {
    let full = first.saturating_mul(1 << (tries - 1).min(16)).min(BACKOFF_MAX);
    full.mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

fn unavailable(why: &str) -> Fault {
    fault(LLM_JUDGE_UNAVAILABLE, why)
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |e: &&dyn Error| (*e).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// One short line without the key.
fn blot(setup: &Setup, text: &str) -> String {
    let text = match &setup.secret {
        Some(secret) => text.replace(secret.as_str(), "***"),
        None => text.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
