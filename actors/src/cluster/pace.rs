//! When a connection last moved a byte: whoever is slow is served, whoever stands still is not.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Shared with the connection.
#[derive(Clone)]
pub struct Pace {
    began: Instant,
    /// Milliseconds after that.
    moved: Arc<AtomicU64>,
}

impl Pace {
    fn now(&self) {
        self.moved.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Since it moved.
    pub fn still(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.moved.load(Ordering::Relaxed)))
    }
}

/// A connection that tells.
pub struct Paced<S> {
    stream: S,
    pace: Pace,
}

impl<S> Paced<S> {
    pub fn new(stream: S) -> (Paced<S>, Pace) {
        let pace = Pace { began: Instant::now(), moved: Arc::default() };
        (Paced { stream, pace: pace.clone() }, pace)
    }

    fn noted<T>(&self, ended: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(ended, Poll::Ready(Ok(_))) {
            self.pace.now();
        }
        ended
    }
}

impl<S: Read + Unpin> Read for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.noted(ended)
    }
}

impl<S: Write + Unpin> Write for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let ended = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.noted(ended)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let ended = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.noted(ended)
    }
}
