//! One answer asked for: requests, repeated within bounds until one brings a whole answer. Dropping the future closes
//! the connection, by which both servers end the request.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use rollout::completion::Finish;
use rollout::id::PolicyVersion;
use rollout::outcome::Fault;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Answer, End, Unusable};
use super::dialect::{self, Ask, Said};
use super::line::{Line, Silent};
use super::sse::Events;
use crate::config::ServerKind;
use crate::http::{backoff, chain, limited, may_pass, retry_after};
use crate::supervise::{SERVER_UNAVAILABLE, SERVER_UNUSABLE, fault};

/// How long a finished answer's connection may take to be free for the next one.
const TAIL: Duration = Duration::from_millis(200);

/// Why a request brought no answer.
enum Failed {
    /// The same request may do better.
    Passing {
        why: String,
        after: Option<Duration>,
    },
    /// It would not.
    Refused(String),
    Unusable(Unusable),
}

impl From<Unusable> for Failed {
    fn from(unusable: Unusable) -> Failed {
        Failed::Unusable(unusable)
    }
}

fn passing(why: impl Into<String>) -> Failed {
    Failed::Passing { why: why.into(), after: None }
}

/// A whole, verified answer, asked for when `least` or a newer version counts.
///
/// # Errors
/// `SERVER_UNAVAILABLE` when none could be had, `SERVER_UNUSABLE` when it breaks a bound.
pub async fn answer(
    line: Arc<Line>,
    prompt: Vec<u32>,
    seed: u64,
    least: PolicyVersion,
) -> Result<(Answer, Finish), Fault> {
    // The gate is still open while weights that were announced are written.
    line.counted(least).await;
    // Whoever asked gives up a queue that does not move: its own deadline covers it.
    let _seat = line.seats.acquire().await.map_err(|e| fault(SERVER_UNAVAILABLE, e))?;
    let limit = line.setup.deadline;
    let until = Instant::now() + limit;
    match timeout_at(until, asked(&line, &prompt, seed)).await {
        Ok(result) => result,
        Err(_) => {
            let why = format!("no whole answer within rollout.sample_deadline_s = {}", limit.as_secs_f64());
            Err(fault(SERVER_UNAVAILABLE, why))
        }
    }
}

async fn asked(line: &Line, prompt: &[u32], seed: u64) -> Result<(Answer, Finish), Fault> {
    let setup = &line.setup;
    let mut tries = 0;
    loop {
        line.opened().await;
        tries += 1;
        let (why, after) = match attempt(line, prompt, seed).await {
            Ok(answer) => return Ok(answer),
            Err(Failed::Unusable(error)) => return Err(fault(SERVER_UNUSABLE, setup.blot(&error.to_string()))),
            Err(Failed::Refused(why)) => return Err(fault(SERVER_UNAVAILABLE, setup.blot(&why))),
            Err(Failed::Passing { why, after }) => (setup.blot(&why), after),
        };
        let pause = after.unwrap_or_else(|| backoff(setup.backoff, tries));
        tracing::debug!(tries, %why, ?pause, "the generation server gave no answer");
        if tries > setup.retries {
            return Err(fault(SERVER_UNAVAILABLE, format!("{why} (tries: {tries})")));
        }
        tokio::time::sleep(pause).await;
    }
}

/// One request. What it had of an answer when it failed is dropped: a new one starts from the prompt.
async fn attempt(line: &Line, prompt: &[u32], seed: u64) -> Result<(Answer, Finish), Failed> {
    let setup = &line.setup;
    let silent = |_: Silent| passing(format!("silent for generator.timeout_s = {}", setup.timeout.as_secs_f64()));
    let ask = Ask {
        model: &setup.model,
        prompt,
        sampling: &line.sampling,
        max_new_tokens: line.bounds.max_new_tokens,
        eos: &line.bounds.eos,
        seed,
    };
    let body = dialect::body(setup.server, &ask).to_string();
    let url = setup.url(dialect::path(setup.server));
    let send = setup.http.post(url).header(CONTENT_TYPE, "application/json").body(body).send();
    let sent = line.patient(send).await.map_err(silent)?;
    let mut response = sent.map_err(|e| {
        if e.is_connect() {
            line.lose();
        }
        passing(chain(&e.without_url()))
    })?;
    let status = response.status();
    let after = retry_after(response.headers());
    // What stands before a server that starts anew says one of these. SGLang says the last when it has much to do, and names the weights of
    // every answer; vLLM does neither. With a time to come back it is whoever holds requests back that have become too many.
    let away = match status {
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => true,
        StatusCode::SERVICE_UNAVAILABLE => setup.server == ServerKind::Vllm && after.is_none(),
        _ => false,
    };
    if away {
        line.lose();
    }
    if !status.is_success() {
        let said = line.patient(limited(response)).await.map_err(silent)?;
        let said = said.map_or_else(|e| e, |body| String::from_utf8_lossy(&body).into_owned());
        let why = format!("HTTP status {status}: {said}");
        return Err(if may_pass(status) { Failed::Passing { why, after } } else { Failed::Refused(why) });
    }
    let (mut events, mut answer) = (Events::default(), Answer::default());
    loop {
        let chunk = line.patient(response.chunk()).await.map_err(silent)?;
        let bytes = chunk.map_err(|e| passing(format!("the stream broke: {}", chain(&e.without_url()))))?;
        let Some(bytes) = bytes else { return Err(passing("the stream ended before the answer did")) };
        let policy = line.heard();
        for event in events.push(&bytes).map_err(Unusable::Form)? {
            let piece = match dialect::read(setup.server, &event, &answer, prompt.len())? {
                Said::Piece(piece) => piece,
                Said::Nothing => continue,
                Said::Done => return Err(passing("the stream ended before the answer did")),
                Said::Error(said) => return Err(passing(format!("the server's error in the stream: {said}"))),
            };
            if let (Some(label), Some(_)) = (&piece.foreign, &setup.reload) {
                line.lose();
                return Err(passing(format!(
                    "the server samples from weights that it calls \"{label}\", none of this run's"
                )));
            }
            answer.extend(&piece, policy, &line.bounds)?;
            match piece.end {
                None => {}
                Some(End::Aborted(why)) => return Err(passing(format!("the server ended the answer: {why}"))),
                Some(end) => {
                    let finish = answer.finish(&end, &line.bounds)?;
                    // Read to its end, the connection serves the next answer.
                    let _ = timeout(TAIL, async { while let Ok(Some(_)) = response.chunk().await {} }).await;
                    return Ok((answer, finish));
                }
            }
        }
    }
}
