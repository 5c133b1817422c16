//! Server-sent events: one short message whenever the run has something new. The pages then ask for what they show.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use tokio::time::Instant;

use super::Shared;

/// Viewers that are told at once.
const STREAMS_MAX: usize = 64;
/// Between two messages of one stream, at least.
const PAUSE: Duration = Duration::from_millis(100);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// One open stream; counted while it lives.
struct Listener(Arc<Shared>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

pub async fn live(State(shared): State<Arc<Shared>>) -> Response {
    let open = shared.streams.fetch_add(1, Ordering::Relaxed);
    let listener = Listener(shared);
    if open >= STREAMS_MAX {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many live viewers\n").into_response();
    }
    let mut pulses = listener.0.run.watch();
    // The present state is the first message.
    pulses.mark_changed();
    let stream = unfold((listener, pulses, None::<Instant>), |(listener, mut pulses, last)| async move {
        pulses.changed().await.ok()?;
        // The first of several changes is told at once, the others together.
        if let Some(last) = last {
            tokio::time::sleep_until(last + PAUSE).await;
        }
        let pulse = pulses.borrow_and_update().clone();
        let data = serde_json::to_string(&pulse).ok()?;
        let event = Ok::<Event, Infallible>(Event::default().event("pulse").data(data));
        Some((event, (listener, pulses, Some(Instant::now()))))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}
