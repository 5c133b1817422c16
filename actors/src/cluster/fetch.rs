//! The side channel's client: fetches a blob piece by piece, goes on where it was cut off, and believes only the digest.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use reqwest::header::RANGE;
use reqwest::{StatusCode, Url};

use super::bulk::{PIECE_MAX, PROOF};
use super::cookie::Cookie;
use super::shelf;
use super::wire::BlobRef;
use crate::http;

/// Largest blob that is kept in memory, bytes.
const MEMORY_MAX: u64 = 256 << 20;
const CONNECT: Duration = Duration::from_secs(5);
/// Without a byte, until a request is given up. A packet that is lost five times in a row takes as long.
const IDLE: Duration = Duration::from_secs(20);
/// Bytes a second that a request has to have on the whole: slower lines are none.
const SLOWEST: u64 = 4 << 10;
/// Of one that is not the only source: a piece in 16 s.
const PEER_SLOWEST: u64 = 256 << 10;
/// For an upload, all its tries together: nobody waits for an answer that is later. Below the server's limit for a connection.
const UPLOAD: Duration = Duration::from_secs(600);
/// What has come is written to its file in such pieces, so that little is lost with a connection, or with this process.
const WRITTEN: usize = 256 << 10;
/// Tries in a row that were slower than the slowest line: what comes in a trickle ends, too.
const TRIES: usize = 6;

/// Of one that is not the only source: silence until it is given up.
const PEER_SILENT: Duration = Duration::from_secs(3);

/// One side channel.
pub struct Client {
    base: Url,
    http: reqwest::Client,
    cookie: Cookie,
    tries: usize,
    idle: Duration,
    slowest: u64,
    pulse: Arc<Pulse>,
}

/// Since when a fetch waits for the network without a byte, while it does.
#[derive(Default)]
pub struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    fn is(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Nothing while it does something else: disks may take their time.
    pub fn silent(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A wait for the network; over when it is dropped.
struct Waiting<'a>(&'a Pulse);

impl Waiting<'_> {
    fn begun(pulse: &Pulse) -> Waiting<'_> {
        pulse.is(Some(Instant::now()));
        Waiting(pulse)
    }

    fn heard(&self) {
        self.0.is(Some(Instant::now()));
    }

    /// With the disk.
    fn busy(&self) {
        self.0.is(None);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.is(None);
    }
}

impl Client {
    /// # Errors
    /// In words.
    pub fn new(host: &str, port: u16, cookie: Cookie) -> Result<Client, String> {
        Client::built(host, port, cookie, TRIES, CONNECT, IDLE, SLOWEST)
    }

    /// One of several sources: asked once, and given up when it says nothing for 3 s, or less than 256 KiB a second.
    ///
    /// # Errors
    /// In words.
    pub fn of_peer(host: &str, port: u16, cookie: Cookie) -> Result<Client, String> {
        Client::built(host, port, cookie, 0, PEER_SILENT, PEER_SILENT, PEER_SLOWEST)
    }

    /// The same, and its silence is told there.
    pub fn watched(self, pulse: Arc<Pulse>) -> Client {
        Client { pulse, ..self }
    }

    fn built(
        host: &str,
        port: u16,
        cookie: Cookie,
        tries: usize,
        connect: Duration,
        idle: Duration,
        slowest: u64,
    ) -> Result<Client, String> {
        // An IPv6 address needs its brackets.
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_string() };
        let authority = cookie.tls().and_then(|tls| tls.authority());
        let scheme = if authority.is_some() { "https" } else { "http" };
        let base = Url::parse(&format!("{scheme}://{host}:{port}/")).map_err(|e| format!("{host}:{port}: {e}"))?;
        // Fails when it was done before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A proxy is for the world outside; nodes are next to each other.
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = match authority {
            Some(pem) => {
                let believed = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| http::chain(&e))?;
                http.tls_certs_only(believed).https_only(true)
            }
            None => http,
        };
        // What is sent and not acknowledged is silence, too: only TCP knows of it.
        let http = http.connect_timeout(connect).tcp_user_timeout(idle).build().map_err(|e| http::chain(&e))?;
        Ok(Client { base, http, cookie, tries, idle, slowest, pulse: Arc::default() })
    }

    /// `bytes`: what it moves at most.
    fn request(&self, method: reqwest::Method, digest: &str, bytes: u64) -> Result<reqwest::RequestBuilder, String> {
        let path = format!("/blob/{digest}");
        let url = self.base.join(&path).map_err(|e| e.to_string())?;
        let proof = self.cookie.proof(method.as_str(), &path).to_hex().to_string();
        let limit = self.idle + Duration::from_secs(bytes / self.slowest);
        Ok(self.http.request(method, url).header(PROOF, proof).timeout(limit))
    }

    /// The whole blob, in memory.
    ///
    /// # Errors
    /// Refused, too long, not reachable any more, or another content than its digest says: in words.
    pub async fn get(&self, blob: &BlobRef) -> Result<Vec<u8>, String> {
        if blob.bytes > MEMORY_MAX {
            return Err(format!("{} bytes, the limit is {MEMORY_MAX}", blob.bytes));
        }
        let Sink::Memory(whole) = self.pull(blob, Sink::Memory(Vec::new())).await? else {
            return Err("it is not in memory".into());
        };
        match shelf::digest(&whole) {
            found if found == blob.digest => Ok(whole),
            found => Err(format!("its BLAKE3 is {found}, expected {}", blob.digest)),
        }
    }

    /// The whole blob, as the file `to`; a part of it at a time is in memory. What a cut-off try left in `to` is kept.
    ///
    /// # Errors
    /// As [`Client::get`], or a file that cannot be written. Wrong content is removed.
    pub async fn get_file(&self, blob: &BlobRef, to: &Path) -> Result<(), String> {
        let told = |e: std::io::Error| format!("{}: {e}", to.display());
        let copy = Copy::begun(to.to_path_buf()).await.map_err(told)?;
        let Sink::File(copy) =
            self.pull(blob, Sink::File(copy)).await.map_err(|why| format!("{}: {why}", to.display()))?
        else {
            return Err("it is in no file".into());
        };
        let (found, bytes) = (copy.hasher.finalize().to_hex().to_string(), copy.bytes());
        if found == blob.digest && bytes == blob.bytes {
            return Ok(());
        }
        let _ = std::fs::remove_file(to);
        Err(format!("its BLAKE3 is {found} over {bytes} bytes, expected {} over {}", blob.digest, blob.bytes))
    }

    /// Piece by piece until it is there. After a cut it goes on at the next byte, also inside a piece.
    async fn pull(&self, blob: &BlobRef, mut sink: Sink) -> Result<Sink, String> {
        let mut pauses = pauses(self.tries);
        while sink.bytes() < blob.bytes {
            let (start, began) = (sink.bytes(), Instant::now());
            let ended;
            (sink, ended) = self.piece(&blob.digest, start, blob.bytes, sink).await?;
            let come = sink.bytes() - start;
            // One that ends after a few bytes at once is no progress either.
            if come > 0 && come as f64 >= self.slowest as f64 * began.elapsed().as_secs_f64().max(1.0) {
                pauses = self::pauses(self.tries);
            }
            let whole = come == PIECE_MAX.min(blob.bytes - start);
            let Refusal { why, again } = match ended {
                Ok(()) if whole => continue,
                Ok(()) => Refusal { why: "the side channel ends in the middle of a piece".into(), again: true },
                Err(refusal) => refusal,
            };
            match pauses.next().filter(|_| again) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(why),
            }
        }
        Ok(sink)
    }

    /// One request: what came of it is in the sink, however it ended.
    async fn piece(
        &self,
        digest: &str,
        start: u64,
        bytes: u64,
        mut sink: Sink,
    ) -> Result<(Sink, Result<(), Refusal>), String> {
        let most = PIECE_MAX.min(bytes - start);
        let request = self.request(reqwest::Method::GET, digest, most)?;
        let request = request.header(RANGE, format!("bytes={start}-{}", start + most - 1));
        let waiting = Waiting::begun(&self.pulse);
        let mut response = match self.within(request.send()).await {
            Ok(response) => response,
            Err(refusal) => return Ok((sink, Err(refusal))),
        };
        waiting.heard();
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
            status => {
                let why = format!("the side channel says {status}");
                return Ok((sink, Err(Refusal { why, again: status.is_server_error() })));
            }
        }
        let (mut come, mut held) = (0, Vec::new());
        let ended = loop {
            let some = match self.within(response.chunk()).await {
                Ok(Some(some)) => some,
                Ok(None) if come == 0 => break Err(Refusal::of_nature("an empty answer".into())),
                Ok(None) => break Ok(()),
                Err(refusal) => break Err(refusal),
            };
            waiting.heard();
            come += some.len() as u64;
            // Whoever answers has proved nothing yet: no more than was asked for.
            if come > most {
                break Err(Refusal::of_nature(format!("more than the {most} bytes that were asked for")));
            }
            held.extend_from_slice(&some);
            if held.len() >= WRITTEN {
                waiting.busy();
                sink = sink.with(std::mem::take(&mut held)).await?;
                waiting.heard();
            }
        };
        drop(waiting);
        Ok((sink.with(held).await?, ended))
    }

    async fn within<T>(&self, waited: impl Future<Output = reqwest::Result<T>>) -> Result<T, Refusal> {
        match tokio::time::timeout(self.idle, waited).await {
            Ok(ended) => ended.map_err(Refusal::of_network),
            Err(_) => {
                Err(Refusal { why: format!("the side channel is silent for {} s", self.idle.as_secs()), again: true })
            }
        }
    }

    /// Leaves bytes at the head.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put(&self, bytes: Vec<u8>) -> Result<BlobRef, String> {
        let late = |_| Err(format!("it has not arrived within {} s", UPLOAD.as_secs()));
        tokio::time::timeout(UPLOAD, self.leave(bytes)).await.unwrap_or_else(late)
    }

    async fn leave(&self, bytes: Vec<u8>) -> Result<BlobRef, String> {
        let blob = BlobRef { digest: shelf::digest(&bytes), bytes: bytes.len() as u64 };
        let mut pauses = pauses(self.tries);
        loop {
            let request = self.request(reqwest::Method::PUT, &blob.digest, blob.bytes)?.body(bytes.clone());
            let refusal = match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(blob),
                Ok(response) => {
                    let status = response.status();
                    Refusal { why: format!("the side channel says {status}"), again: status.is_server_error() }
                }
                Err(error) => Refusal::of_network(error),
            };
            match pauses.next().filter(|_| refusal.again) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(refusal.why),
            }
        }
    }
}

/// Where the bytes go.
enum Sink {
    Memory(Vec<u8>),
    File(Copy),
}

impl Sink {
    fn bytes(&self) -> u64 {
        match self {
            Sink::Memory(whole) => whole.len() as u64,
            Sink::File(copy) => copy.bytes(),
        }
    }

    async fn with(self, some: Vec<u8>) -> Result<Sink, String> {
        match self {
            Sink::Memory(mut whole) => {
                whole.extend_from_slice(&some);
                Ok(Sink::Memory(whole))
            }
            Sink::File(copy) if some.is_empty() => Ok(Sink::File(copy)),
            Sink::File(copy) => copy.with(some).await.map(Sink::File).map_err(|e| e.to_string()),
        }
    }
}

/// A file that grows by pieces, and the digest of what is in it. Disk and digest are no work for an async thread.
struct Copy {
    file: File,
    hasher: Box<blake3::Hasher>,
}

impl Copy {
    /// What is there already is read again.
    async fn begun(path: PathBuf) -> std::io::Result<Copy> {
        let read = tokio::task::spawn_blocking(move || {
            let file = File::options().create(true).read(true).append(true).open(path)?;
            let mut hasher = Box::new(blake3::Hasher::new());
            hasher.update_reader(&file)?;
            Ok(Copy { file, hasher })
        });
        read.await.map_err(std::io::Error::other)?
    }

    fn bytes(&self) -> u64 {
        self.hasher.count()
    }

    async fn with(mut self, piece: Vec<u8>) -> std::io::Result<Copy> {
        let written = tokio::task::spawn_blocking(move || {
            self.file.write_all(&piece)?;
            self.hasher.update(&piece);
            Ok(self)
        });
        written.await.map_err(std::io::Error::other)?
    }
}

struct Refusal {
    why: String,
    again: bool,
}

impl Refusal {
    fn of_nature(why: String) -> Refusal {
        Refusal { why, again: false }
    }

    fn of_network(error: reqwest::Error) -> Refusal {
        Refusal { why: format!("the side channel cannot be reached: {}", http::chain(&error)), again: true }
    }
}

fn pauses(tries: usize) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(tries)
        .with_jitter()
        .build()
}
