//! The JSON behind the pages. Questions to the store are asked on threads that may block, few at once.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Shared;
use crate::inspect::query::{Page, Query as Wanted};
use crate::inspect::{InspectError, Run, diff};
use crate::store::StoreError;

/// Longest wait of a question for its turn.
pub const TURN: Duration = Duration::from_secs(10);
/// While the run has nothing new, an answer serves everybody who asks the same within the longer time. Where there is something
/// new it is asked for again, but not sooner than after the shorter one: nobody is told of a change and then shown what was before.
const FRESH: Duration = Duration::from_millis(50);
const STALE: Duration = Duration::from_secs(2);
/// Rows of a page where none are asked for.
const LIMIT: usize = 100;
/// Seconds of the timeline where none are asked for, and at most.
const WINDOW_S: u64 = 120;
const WINDOW_MAX_S: u64 = 24 * 3600;

type Asked = State<Arc<Shared>>;

/// The JSON of the reader's answer; its error, or 503 when too many ask.
async fn body<T: Serialize + Send + 'static>(
    shared: &Arc<Shared>,
    question: impl FnOnce(&Run) -> Result<Option<T>, InspectError> + Send + 'static,
) -> Result<Bytes, Box<Response>> {
    let error = |status, what: &str| Box::new(error(status, what));
    let busy = || error(StatusCode::SERVICE_UNAVAILABLE, "too many questions at once; ask again in a moment");
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN, shared.questions.acquire()).await else { return Err(busy()) };
    let run = shared.run.clone();
    let answer = move || -> Result<Option<Bytes>, InspectError> {
        let answer = question(&run)?;
        Ok(answer.map(|answer| serde_json::to_vec(&answer)).transpose().map_err(StoreError::from)?.map(Bytes::from))
    };
    match tokio::task::spawn_blocking(answer).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(error(StatusCode::NOT_FOUND, "this run has no such thing")),
        Ok(Err(InspectError::User(e))) => {
            let parts = json!({
                "what": e.what, "where": e.place, "found": e.found, "expected": e.expected, "hint": e.hint,
            });
            Err(Box::new((StatusCode::BAD_REQUEST, Json(json!({ "error": parts }))).into_response()))
        }
        Ok(Err(InspectError::Store(e))) => Err(error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string())),
        Err(_) => Err(error(StatusCode::INTERNAL_SERVER_ERROR, "the question could not be answered")),
    }
}

fn json_response(body: Result<Bytes, Box<Response>>) -> Response {
    body.map_or_else(|error| *error, |body| ([(CONTENT_TYPE, "application/json")], body).into_response())
}

async fn ask<T: Serialize + Send + 'static>(
    shared: Arc<Shared>,
    question: impl FnOnce(&Run) -> Result<Option<T>, InspectError> + Send + 'static,
) -> Response {
    json_response(body(&shared, question).await)
}

/// As [`body`], for a question that every viewer asks alike: one answer serves all of them until there is something new, and
/// for a while in any case. Who asks while it is being answered waits for that answer.
async fn body_once<T: Serialize + Send + 'static>(
    shared: &Arc<Shared>,
    name: &'static str,
    question: impl FnOnce(&Run) -> Result<Option<T>, InspectError> + Send + 'static,
) -> Result<Bytes, Box<Response>> {
    // Whatever is known of the run now has to be in the answer; what comes while this waits for its turn does not.
    let asked = shared.run.pulse().version;
    let place = shared.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone();
    // Whoever holds it waits for its turn for as long at most.
    let mut known = place.lock().await;
    if let Some(answer) = known.as_ref() {
        let age = answer.at.elapsed();
        if answer.version >= asked && age < STALE {
            return Ok(answer.body.clone());
        }
        tokio::time::sleep(FRESH.saturating_sub(age)).await;
    }
    // Everything up to here is in the answer.
    let version = shared.run.pulse().version;
    let body = body(shared, question).await?;
    *known = Some(Answer { at: Instant::now(), version, body: body.clone() });
    Ok(body)
}

async fn ask_once<T: Serialize + Send + 'static>(
    shared: Arc<Shared>,
    name: &'static str,
    question: impl FnOnce(&Run) -> Result<Option<T>, InspectError> + Send + 'static,
) -> Response {
    json_response(body_once(&shared, name, question).await)
}

/// What was answered last to a question that everybody asks.
pub struct Answer {
    at: Instant,
    version: u64,
    body: Bytes,
}

/// By the question's name.
pub type Answers = HashMap<&'static str, Arc<tokio::sync::Mutex<Option<Answer>>>>;

fn error(status: StatusCode, what: &str) -> Response {
    (status, Json(json!({ "error": { "what": what } }))).into_response()
}

#[derive(Deserialize)]
pub struct Have {
    /// The last step whose curves the page has.
    have: Option<u64>,
}

/// With `have`, and where no step is newer, without the curves of steps (null): they are most of it and change least.
pub async fn overview(State(shared): Asked, Query(Have { have }): Query<Have>) -> Response {
    if have.is_some_and(|have| shared.run.last_step_known() == Some(have)) {
        let short = body_once(&shared, "overview, short", |run| {
            let mut overview = run.overview_without_curves()?;
            overview.for_a_page();
            let mut short = serde_json::to_value(overview).map_err(StoreError::from)?;
            short["steps"] = serde_json::Value::Null;
            Ok(Some(short))
        });
        return json_response(short.await);
    }
    ask_once(shared, "overview", |run| {
        let mut overview = run.overview()?;
        overview.for_a_page();
        Ok(Some(overview))
    })
    .await
}

#[derive(Deserialize)]
pub struct List {
    #[serde(default)]
    filter: String,
    #[serde(default)]
    sort: String,
    #[serde(default)]
    offset: usize,
    limit: Option<usize>,
    #[serde(default)]
    deep: bool,
}

pub async fn rollouts(State(shared): Asked, Query(list): Query<List>) -> Response {
    let List { filter, sort, offset, limit, deep } = list;
    let limit = limit.unwrap_or(LIMIT);
    let first = filter.is_empty() && sort.is_empty() && offset == 0 && limit == LIMIT;
    let wanted = Wanted { filter, sort, offset, limit, deep };
    let question = move |run: &Run| -> Result<Option<Page>, InspectError> { Ok(Some(run.page(&wanted)?)) };
    // What everybody sees who opens the page.
    if first { ask_once(shared, "rollouts", question).await } else { ask(shared, question).await }
}

pub async fn rollout(State(shared): Asked, Path(id): Path<u64>) -> Response {
    ask(shared, move |run| Ok(run.rollout_page(id)?)).await
}

/// The same as text, for a terminal.
pub async fn rollout_text(State(shared): Asked, Path(id): Path<u64>) -> Response {
    ask(shared, move |run| {
        let detail = run.reader()?.rollout(id)?;
        Ok(detail.map(|detail| crate::cli::show::text(&detail, run.config())))
    })
    .await
}

/// Whether there is something new, for those who cannot listen.
pub async fn pulse(State(shared): Asked) -> Response {
    Json(shared.run.pulse()).into_response()
}

pub async fn compare(State(shared): Asked, Path((id, other)): Path<(u64, u64)>) -> Response {
    ask(shared, move |run| Ok(diff::compare(run, id, other)?)).await
}

pub async fn tasks(State(shared): Asked) -> Response {
    ask_once(shared, "tasks", |run| Ok(Some(run.task_rows()))).await
}

pub async fn task(State(shared): Asked, Path(name): Path<String>) -> Response {
    ask(shared, move |run| Ok(run.task(&name)?)).await
}

pub async fn crew(State(shared): Asked) -> Response {
    ask_once(shared, "crew", |run| Ok(Some(run.crew()?))).await
}

#[derive(Deserialize)]
pub struct Window {
    window_s: Option<u64>,
}

pub async fn timeline(State(shared): Asked, Query(window): Query<Window>) -> Response {
    let window = window.window_s.unwrap_or(WINDOW_S).min(WINDOW_MAX_S);
    ask(shared, move |run| Ok(Some(run.timeline(window)?))).await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::dashboard::{Access, Guard};

    /// Something new comes while the first answer is made. With the version read when it is one's turn each asks anew.
    #[tokio::test]
    async fn viewers_that_ask_at_once_are_served_by_one_answer_while_the_run_writes() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::store::StoreConfig::new(dir.path().to_path_buf());
        crate::store::Writer::start(config, Box::new(|_| {})).unwrap().stop().unwrap();
        let run = Arc::new(Run::open(dir.path()).unwrap());
        let guard = Guard::new("127.0.0.1:1".parse().unwrap(), Access::default());
        let shared = Arc::new(Shared::new(run, guard));
        let asked = Arc::new(AtomicUsize::new(0));
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let ask = || {
            let (shared, asked, gate) = (shared.clone(), asked.clone(), gate.clone());
            async move {
                let question = move |run: &Run| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    // Until all have asked.
                    gate.lock().unwrap().recv_timeout(TURN).unwrap();
                    run.touch();
                    Ok(Some(run.pulse().version))
                };
                body_once(&shared, "touched", question).await.is_ok()
            }
        };
        let open = async { go.send(()).is_ok() };
        assert_eq!(tokio::join!(ask(), ask(), ask(), ask(), open), (true, true, true, true, true));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // Whoever asks after something new is not shown what was before.
        go.send(()).unwrap();
        assert!(ask().await);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
