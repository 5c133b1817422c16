//! A chat-completion endpoint that plays: scripted answers, errors, stalls. One thread a connection; it ends with the test.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actors::config::{Config, Judge};
use serde_json::{Value, json};

/// What the endpoint does with one request.
pub enum Play {
    /// A chat completion with this content.
    Says(String),
    Responds {
        status: &'static str,
        headers: &'static str,
        body: String,
    },
    /// Nothing for this long, then the connection is closed.
    Stalls(Duration),
    /// The content after a while.
    Waits(Duration, String),
    /// A body without an end, as fast as it is read.
    Floods,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub line: String,
    pub headers: Vec<String>,
    pub body: Value,
    pub at: Instant,
}

impl Received {
    pub fn message(&self, n: usize) -> &str {
        self.body["messages"][n]["content"].as_str().unwrap()
    }

    /// The mark that the request says it uses.
    pub fn mark(&self) -> String {
        let tail = self.message(0).rsplit("The mark of this request is ").next().unwrap();
        tail.trim().trim_end_matches('.').to_string()
    }

    /// What stands between the marks: the task and the program.
    pub fn part(&self, name: &str) -> String {
        let (from, to) = (format!("<<< {name} {}\n", self.mark()), format!("\n>>> {name} {}", self.mark()));
        let rest = self.message(1).split_once(&from).unwrap().1;
        rest.split_once(&to).unwrap().0.to_string()
    }
}

type Script = dyn Fn(usize, &Received) -> Play + Send + Sync;

pub struct Endpoint {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    most_at_once: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Endpoint {
    /// `script` is called with the number of each request, from 0.
    pub fn start(script: impl Fn(usize, &Received) -> Play + Send + Sync + 'static) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (received, most_at_once) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let over = Arc::new(AtomicBool::new(false));
        let script: Arc<Script> = Arc::new(script);
        let (log, most, stop) = (received.clone(), most_at_once.clone(), over.clone());
        std::thread::spawn(move || {
            let now = Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (script, log, most, now) = (script.clone(), log.clone(), most.clone(), now.clone());
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || {
                    let Ok(Some(request)) = receive(&stream) else { return };
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let open = Open(now);
                    // A client that hangs up is part of the play.
                    let _ = serve(stream, request, open, &*script, &log);
                });
            }
        });
        Endpoint { address, received, most_at_once, over }
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The most requests that were open together.
    pub fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn section(&self) -> Judge {
        section(&self.base_url())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// `[judge]`, on, with short limits.
pub fn section(base_url: &str) -> Judge {
    let builtin = Config::builtin().unwrap().judge;
    let (base_url, model) = (base_url.to_string(), "played".to_string());
    Judge { enabled: true, base_url, model, timeout_s: 10, deadline_s: 20, retries: 2, ..builtin }
}

/// An address where nobody listens.
pub fn nobody() -> String {
    // A port that was free a moment ago may be somebody's.
    "http://127.0.0.1:1/v1".into()
}

pub fn opinion(objection: &str, evidence: &str, why: &str) -> String {
    json!({ "why": why, "evidence": evidence, "objection": objection }).to_string()
}

pub fn no_objection() -> Play {
    Play::Says(opinion("none", "", ""))
}

/// Used by the answers: what each completion says it cost.
pub const TOKENS: u64 = 700;

/// One request; `None` when the client hung up instead.
pub fn receive(stream: &TcpStream) -> std::io::Result<Option<Received>> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_string()),
        }
    }
    let length = lines.iter().find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let line = lines.remove(0);
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Some(Received { line, headers: lines, body, at: Instant::now() }))
}

/// One of those that are open, until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(
    mut stream: TcpStream,
    request: Received,
    open: Open,
    script: &Script,
    log: &Mutex<Vec<Received>>,
) -> std::io::Result<()> {
    let number = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    let completion = |content: &str| {
        json!({
            "id": "x", "object": "chat.completion", "model": "played",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": content }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": TOKENS - 50, "completion_tokens": 50, "total_tokens": TOKENS },
        })
        .to_string()
    };
    let (status, headers, body) = match script(number, &request) {
        Play::Says(content) => ("200 OK", "", completion(&content)),
        Play::Responds { status, headers, body } => (status, headers, body),
        Play::Waits(time, content) => {
            std::thread::sleep(time);
            ("200 OK", "", completion(&content))
        }
        Play::Stalls(time) => {
            std::thread::sleep(time);
            return Ok(());
        }
        Play::Floods => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 65536])?;
            }
        }
    };
    // Before the last bytes, after which the client may ask for the next.
    drop(open);
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
