//! One question to the endpoint: requests, repeated within bounds until an answer can be read.

use reqwest::header::CONTENT_TYPE;
use reward::rubric::{MARK_BYTES, Opinion, Question, SCHEMA, Texts, read};
use rollout::outcome::Fault;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::ledger::Refused;
use super::setup::Setup;
use crate::http::{backoff, blot, chain, limited, may_pass, retry_after};
use crate::supervise::{LLM_JUDGE_BUDGET, LLM_JUDGE_UNAVAILABLE, fault};

/// Bytes of a prompt that make a token at most: on the safe side for code.
const BYTES_PER_TOKEN: u64 = 3;

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
        let why = blot(setup.secret.as_deref(), &trouble.why);
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
        let said = body.map_or_else(|e| e, |body| String::from_utf8_lossy(&body).into_owned());
        let why = format!("HTTP status {status}: {said}");
        return Err(Trouble { why, again: may_pass(status), after, used: Some(0) });
    }
    let envelope: Envelope = serde_json::from_slice(&body.map_err(|e| Trouble::again(e, None))?)
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

fn unavailable(why: &str) -> Fault {
    fault(LLM_JUDGE_UNAVAILABLE, why)
}
