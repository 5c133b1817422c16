//! The side channel's server: HTTP/1.1, ranges of blobs by digest, and uploads of long reports.
//!
//! Every request proves the cookie (`cookie`), encrypted or not (`tls`). One response holds at most `PIECE_MAX` bytes, so that memory is
//! bounded by connections times pieces, and a client that was cut off goes on where it stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{ACCEPT_RANGES, CONNECTION, CONTENT_RANGE, RANGE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use super::cookie::Cookie;
use super::guests::{Guests, Proved};
use super::pace::{Pace, Paced};
use super::shelf::{Shelf, UPLOAD_MAX};

/// The header of a request's proof.
pub const PROOF: &str = "x-troupe-proof";
/// Bytes of one response at most.
pub const PIECE_MAX: u64 = 4 << 20;
/// A connection that has not sent its request's head by then is closed.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// And one over which no byte has gone for so long: slow lines are served as long as they move.
const IDLE: Duration = Duration::from_secs(30);
/// After that, or when somebody waits for its place, it is closed with its present answer.
const TURN: Duration = Duration::from_secs(120);
/// Whatever moves: a client opens another. A piece at the slowest rate that clients put up with takes 1024 s, an upload has 600 s.
const CONNECTION_LIMIT: Duration = Duration::from_secs(1200);

/// Refused requests are told together, at most so often: a flood of them must not fill a log.
const TELL_EVERY: Duration = Duration::from_secs(10);

struct Shared {
    shelf: Arc<Shelf>,
    cookie: Cookie,
    /// Refused since they were last told, and when that was.
    refused: Mutex<(u64, Option<Instant>)>,
}

impl Shared {
    fn note_refusal(&self) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.0 += 1;
        if refused.1.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            let count = std::mem::take(&mut refused.0);
            refused.1 = Some(Instant::now());
            tracing::warn!(count, "requests to the side channel without a proof of the cookie are refused");
        }
    }
}

/// What a connection can ask for.
pub fn router(shelf: Arc<Shelf>, cookie: Cookie) -> Router {
    let shared = Shared { shelf, cookie, refused: Mutex::default() };
    let blob = get(piece).put(upload).fallback(nothing);
    Router::new().route("/blob/{digest}", blob).fallback(nothing).with_state(Arc::new(shared))
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, shelf: Arc<Shelf>, cookie: Cookie) {
    let acceptor = cookie.tls().and_then(|tls| tls.acceptor()).cloned();
    let router = router(shelf, cookie);
    let mut guests = Guests::default();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the side channel cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        guests.make_room().await;
        let proved = Proved::default();
        let (router, acceptor, shown) = (router.clone(), acceptor.clone(), proved.clone());
        guests.admit(proved, from.ip(), async move {
            let Some(acceptor) = acceptor else { return converse(TokioIo::new(stream), router, shown).await };
            match tokio::time::timeout(HEAD_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => converse(TokioIo::new(stream), router, shown).await,
                Ok(Err(error)) => tracing::debug!(%error, "a connection to the side channel is no TLS"),
                Err(_) => tracing::debug!("a connection to the side channel has no handshake in time"),
            }
        });
    }
}

/// One connection, until it ends or has had its time.
pub async fn converse<S>(stream: S, router: Router, proved: Proved)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let turn = proved.clone();
    let service = TowerToHyperService::new(router.layer(Extension(proved)));
    let (stream, pace) = Paced::new(stream);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(64 << 10)
        .serve_connection(stream, service);
    let in_turns = async {
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return ended,
            _ = tokio::time::timeout(TURN, turn.over()) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    tokio::select! {
        ended = tokio::time::timeout(CONNECTION_LIMIT, in_turns) => match ended {
            Ok(Err(error)) => tracing::debug!(%error, "a connection to the side channel"),
            Ok(Ok(())) => {}
            Err(_) => tracing::debug!("a connection to the side channel took too long"),
        },
        () = stands_still(&pace) => tracing::debug!("a connection to the side channel stands still"),
    }
}

async fn stands_still(pace: &Pace) {
    loop {
        let left = IDLE.saturating_sub(pace.still());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

fn refuse(shared: &Shared, proved: &Proved, method: &str, digest: &str, headers: &HeaderMap) -> Option<Response> {
    let proof = headers.get(PROOF).and_then(|proof| proof.to_str().ok()).unwrap_or_default();
    if shared.cookie.proves(method, &format!("/blob/{digest}"), proof) {
        proved.now();
        return None;
    }
    shared.note_refusal();
    // What follows on this connection is not read.
    Some((StatusCode::UNAUTHORIZED, [(CONNECTION, "close")]).into_response())
}

/// What is not there, for anybody: no proof is looked for, and what follows on this connection is not read.
async fn nothing(State(shared): State<Arc<Shared>>) -> Response {
    shared.note_refusal();
    (StatusCode::NOT_FOUND, [(CONNECTION, "close")]).into_response()
}

async fn piece(
    State(shared): State<Arc<Shared>>,
    Extension(proved): Extension<Proved>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = refuse(&shared, &proved, "GET", &digest, &headers) {
        return refusal;
    }
    let Some(bytes) = shared.shelf.bytes(&digest) else { return StatusCode::NOT_FOUND.into_response() };
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let Some((start, count)) = range.map_or(Some((0, bytes)), |range| within(range, bytes)) else {
        let whole = [(CONTENT_RANGE, format!("bytes */{bytes}"))];
        return (StatusCode::RANGE_NOT_SATISFIABLE, whole).into_response();
    };
    let count = count.min(PIECE_MAX) as usize;
    let shelf = shared.shelf.clone();
    let read = tokio::task::spawn_blocking(move || shelf.read(&digest, start, count)).await;
    let Ok(Ok(piece)) = read else {
        tracing::warn!(?read, "something on the side channel cannot be read");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if piece.len() as u64 == bytes {
        return ([(ACCEPT_RANGES, "bytes")], piece).into_response();
    }
    let last = (start + piece.len() as u64).saturating_sub(1);
    (StatusCode::PARTIAL_CONTENT, [(CONTENT_RANGE, format!("bytes {start}-{last}/{bytes}"))], piece).into_response()
}

/// `bytes=A-B` or `bytes=A-` as start and count, within a length.
fn within(range: &str, bytes: u64) -> Option<(u64, u64)> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.parse().ok()?;
    let last = bytes.checked_sub(1)?;
    let end = if end.is_empty() { last } else { end.parse::<u64>().ok()?.min(last) };
    (start <= end).then(|| (start, end - start + 1))
}

async fn upload(
    State(shared): State<Arc<Shared>>,
    Extension(proved): Extension<Proved>,
    Path(digest): Path<String>,
    request: Request<Body>,
) -> Response {
    if let Some(refusal) = refuse(&shared, &proved, "PUT", &digest, request.headers()) {
        return refusal;
    }
    let Ok(bytes) = to_bytes(request.into_body(), UPLOAD_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    match shared.shelf.upload(&digest, bytes.to_vec()) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, why).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn ranges_are_cut_to_the_length_and_nonsense_is_none() {
        assert_eq!(within("bytes=0-", 10), Some((0, 10)));
        assert_eq!(within("bytes=4-6", 10), Some((4, 3)));
        assert_eq!(within("bytes=4-99", 10), Some((4, 6)));
        for nonsense in ["bytes=10-", "bytes=6-4", "bytes=-4", "4-6", "bytes=a-b", ""] {
            assert_eq!(within(nonsense, 10), None, "{nonsense}");
        }
        assert_eq!(within("bytes=0-", 0), None);
    }
}
