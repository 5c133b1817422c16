//! Strangers on both ports of a live head: scanners, noise, oversized frames, half-open connections, wrong cookies, and on the side channel
//! smuggled requests, endless heads, paths that climb, ranges that make no sense.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::Cookie;
use crate::cluster::bulk::PROOF;

/// Pause of each attacker: they are to be many, not to take the processor.
const PAUSE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that say nothing, on each port.
const SILENT: usize = 100;

#[derive(Default)]
struct Tally {
    over: AtomicBool,
    connections: AtomicU64,
    answers: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// Attacks for so long; in words, how often.
///
/// # Errors
/// An answer that no stranger should get.
pub fn run(program: &Path, listen: &str, cookie: &str, lasts: Duration) -> Result<String, String> {
    let (host, port) = listen.rsplit_once(':').ok_or("no port")?;
    let side = format!("{host}:{}", port.parse::<u16>().map_err(|e| e.to_string())? + 1);
    let tally = Arc::<Tally>::default();
    let insider = Cookie::new(cookie)?;
    let mut threads = Vec::new();
    for attacker in 0..6u64 {
        let (tally, listen, side, insider) = (tally.clone(), listen.to_string(), side.clone(), insider.clone());
        let program = program.to_path_buf();
        threads.push(std::thread::spawn(move || {
            let mut n = attacker;
            while !tally.over.load(Ordering::Relaxed) {
                match attacker {
                    0 | 1 => gateway(&listen, n, &tally),
                    2 | 3 => requests(&side, n, &tally),
                    4 => with_the_cookie(&side, n, &insider, &tally),
                    _ => other_cookie(&program, &listen, &tally),
                }
                n += 1;
                std::thread::sleep(PAUSE);
            }
        }));
    }
    // Half-open: they say nothing, or a byte now and then.
    let silent = |address: &str| (0..SILENT).filter_map(|_| TcpStream::connect(address).ok()).collect::<Vec<_>>();
    let (mut slow, held) = (silent(&side), silent(listen));
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(b"G")));
        std::thread::sleep(Duration::from_millis(500));
    }
    tally.over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    drop((slow, held));
    let wrong = tally.wrong.lock().unwrap_or_else(PoisonError::into_inner);
    match wrong.first() {
        Some(first) => Err(format!("{} answers that no stranger should get, the first: {first}", wrong.len())),
        None => Ok(format!(
            "{} connections and {} refusals in {} s, {} silent connections beside them",
            tally.connections.load(Ordering::Relaxed),
            tally.answers.load(Ordering::Relaxed),
            lasts.as_secs(),
            2 * SILENT
        )),
    }
}

fn noise(n: u64, bytes: usize) -> Vec<u8> {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Sends bytes, and reads what comes until the other side has had enough.
fn send(address: &str, bytes: &[u8], tally: &Tally) -> Vec<u8> {
    tally.connections.fetch_add(1, Ordering::Relaxed);
    let mut answer = Vec::new();
    let _ = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(bytes)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.take(1 << 20).read_to_end(&mut answer)
    });
    answer
}

fn gateway(address: &str, n: u64, tally: &Tally) {
    let mut long = 200_000u64.to_be_bytes().to_vec();
    long.resize(100_000, 1);
    let mut short = 40u64.to_be_bytes().to_vec();
    short.extend(noise(n, 40));
    let bytes = match n % 6 {
        // A port scanner.
        0 => {
            tally.connections.fetch_add(1, Ordering::Relaxed);
            return drop(TcpStream::connect(address));
        }
        1 => noise(n, 4096),
        2 => u64::MAX.to_be_bytes().to_vec(),
        3 => long,
        4 => short,
        _ => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    };
    send(address, &bytes, tally);
}

/// Requests without a proof: whatever they are, nothing is shown.
fn requests(address: &str, n: u64, tally: &Tally) {
    let digest = "a".repeat(64);
    let zeros = "0".repeat(64);
    let request = match n % 10 {
        0 => format!("GET /blob/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"),
        1 => "GET /blob/../../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        2 => "GET /blob/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        3 => format!("GET /blob/{digest} HTTP/1.1\r\nHost: x\r\n{PROOF}: {zeros}\r\nRange: bytes=0-\r\n\r\n"),
        // Two lengths, and a second request in the body of the first.
        4 => format!(
            "POST /blob/{digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /blob/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"
        ),
        5 => format!("PUT /blob/{digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 400\r\n\r\nabcd"),
        6 => format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(300_000)),
        7 => format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(2000)),
        8 => format!(
            "PUT /blob/{digest} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc"
        ),
        _ => String::from_utf8_lossy(&noise(n, 3000)).into_owned(),
    };
    let answer = send(address, request.as_bytes(), tally);
    judge(&answer, &request, &["HTTP/1.1 4", "HTTP/1.0 4"], tally);
}

/// Whoever has the cookie may ask for nonsense, too: refused, and nothing dies of it.
fn with_the_cookie(address: &str, n: u64, cookie: &Cookie, tally: &Tally) {
    let name = match n % 4 {
        0 => "../../../etc/passwd".to_string(),
        1 => "%2e%2e%2fetc%2fpasswd".to_string(),
        2 => "b".repeat(64),
        _ => "c".repeat(20_000),
    };
    let proof = cookie.proof("GET", &format!("/blob/{name}")).to_hex();
    let ranges =
        ["bytes=0-0,1-1,2-2", "bytes=18446744073709551615-", "bytes=-1", "bytes=5-1", "bytes=0-18446744073709551615"];
    let range = ranges[(n / 4) as usize % ranges.len()];
    let request = format!("GET /blob/{name} HTTP/1.1\r\nHost: x\r\n{PROOF}: {proof}\r\nRange: {range}\r\n\r\n");
    let answer = send(address, request.as_bytes(), tally);
    judge(&answer, &request, &["HTTP/1.1 4"], tally);
}

/// An answer is none at all, or one of these refusals; of several, each is.
fn judge(answer: &[u8], request: &str, refusals: &[&str], tally: &Tally) {
    let text = String::from_utf8_lossy(answer);
    let statuses: Vec<&str> = text.split("\r\n").filter(|line| line.starts_with("HTTP/")).collect();
    tally.answers.fetch_add(statuses.len() as u64, Ordering::Relaxed);
    let refused = statuses.iter().all(|status| refusals.iter().any(|refusal| status.starts_with(refusal)));
    if !refused || text.contains("root:") {
        let start = |text: &str| text.chars().take(120).collect::<String>();
        tally.wrong(format!("{:?} to {:?}", start(&text), start(request)));
    }
}

/// An operator with another cookie, as the program does it.
fn other_cookie(program: &Path, listen: &str, tally: &Tally) {
    tally.connections.fetch_add(1, Ordering::Relaxed);
    let mut command = Command::new(program);
    command.args(["nodes", "--head", listen]).env("TROUPE_COOKIE", "another cookie of good length");
    command.current_dir(std::env::temp_dir()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status().map(|status| status.code()) {
        Ok(Some(0)) => tally.wrong("`troupe nodes` with another cookie is answered".into()),
        _ => {
            tally.answers.fetch_add(1, Ordering::Relaxed);
        }
    }
    std::thread::sleep(Duration::from_millis(500));
}
