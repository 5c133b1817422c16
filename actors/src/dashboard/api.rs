//! The JSON behind the pages. Questions to the store are asked on threads that may block, few at once.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Shared, diff};
use crate::inspect::query::Query as Wanted;
use crate::inspect::{InspectError, Run, yield_to_the_run};

/// Longest wait of a question for its turn.
pub const TURN: Duration = Duration::from_secs(10);
/// An answer serves everybody who asks the same within this time, and, while the run has nothing new, within the longer one.
const FRESH: Duration = Duration::from_millis(300);
const STALE: Duration = Duration::from_secs(2);
/// Rows of a page where none are asked for.
const LIMIT: usize = 100;
/// Seconds of the timeline where none are asked for, and at most.
const WINDOW_S: u64 = 120;
const WINDOW_MAX_S: u64 = 24 * 3600;

type Asked = State<Arc<Shared>>;

/// An answer of the reader, its error, or 503 when too many ask.
async fn ask<T: Serialize + Send + 'static>(
    shared: Arc<Shared>,
    question: impl FnOnce(&Run) -> Result<Option<T>, InspectError> + Send + 'static,
) -> Response {
    let busy = || error(StatusCode::SERVICE_UNAVAILABLE, "too many questions at once; ask again in a moment");
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN, shared.questions.acquire()).await else { return busy() };
    let run = shared.run.clone();
    let answer = move || {
        // These threads do nothing but answer; the server itself stays quick.
        yield_to_the_run();
        question(&run)
    };
    match tokio::task::spawn_blocking(answer).await {
        Ok(Ok(Some(answer))) => Json(answer).into_response(),
        Ok(Ok(None)) => error(StatusCode::NOT_FOUND, "this run has no such thing"),
        Ok(Err(InspectError::User(e))) => {
            let parts = json!({
                "what": e.what, "where": e.place, "found": e.found, "expected": e.expected, "hint": e.hint,
            });
            (StatusCode::BAD_REQUEST, Json(json!({ "error": parts }))).into_response()
        }
        Ok(Err(InspectError::Store(e))) => error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the question could not be answered"),
    }
}

/// As [`ask`], for a question that every viewer asks alike: one answer serves all of them until there is something new, and
/// for a while in any case.
async fn ask_once<T: Serialize + Send + 'static>(
    shared: Arc<Shared>,
    name: &'static str,
    question: impl FnOnce(&Run) -> Result<Option<T>, InspectError> + Send + 'static,
) -> Response {
    let version = shared.run.pulse().version;
    let known = {
        let answers = shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers
            .get(name)
            .filter(|a| {
                let age = a.at.elapsed();
                age < FRESH || (a.version == version && age < STALE)
            })
            .map(|a| a.body.clone())
    };
    let kind = [(CONTENT_TYPE, "application/json")];
    if let Some(body) = known {
        return (kind, body).into_response();
    }
    let response = ask(shared.clone(), question).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    // Made by us just now, so it is of a size that fits.
    let Ok(body) = axum::body::to_bytes(response.into_body(), usize::MAX).await else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be read");
    };
    let answer = Answer { at: Instant::now(), version, body: body.clone() };
    shared.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(name, answer);
    (kind, body).into_response()
}

/// What was answered last to a question that everybody asks.
pub struct Answer {
    at: Instant,
    version: u64,
    body: axum::body::Bytes,
}

fn error(status: StatusCode, what: &str) -> Response {
    (status, Json(json!({ "error": { "what": what } }))).into_response()
}

pub async fn overview(State(shared): Asked) -> Response {
    ask_once(shared, "overview", |run| Ok(Some(run.overview()?))).await
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
    let wanted = Wanted { filter, sort, offset, limit: limit.unwrap_or(LIMIT), deep };
    ask(shared, move |run| Ok(Some(run.page(&wanted)?))).await
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
