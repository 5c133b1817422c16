//! A generation server that plays vLLM or SGLang: the wire form of both, scripted answers, control requests on record.
//! One thread a connection; it ends with the test.
#![allow(dead_code)]

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actors::config::{Config, Generator, GeneratorKind, ServerKind};
use serde_json::{Value, json};

use crate::endpoint::{Received, receive};

/// Called with the number of requests to its path before, the request, and where to answer.
type Handler = dyn Fn(usize, &Received, &mut Reply) -> std::io::Result<()> + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    most_at_once: Arc<AtomicUsize>,
    hung_up: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Server {
    pub fn start(
        handler: impl Fn(usize, &Received, &mut Reply) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").unwrap(), handler)
    }

    pub fn on(
        listener: TcpListener,
        handler: impl Fn(usize, &Received, &mut Reply) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Server {
        let server = Server {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            most_at_once: Arc::default(),
            hung_up: Arc::default(),
            over: Arc::default(),
        };
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, most, hung_up) = (server.received.clone(), server.most_at_once.clone(), server.hung_up.clone());
        let (over, now) = (server.over.clone(), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), handler, log) = (stream, handler.clone(), log.clone()) else { continue };
                let (most, hung_up, now) = (most.clone(), hung_up.clone(), now.clone());
                std::thread::spawn(move || {
                    let Ok(Some(request)) = receive(&stream) else { return };
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(request.clone());
                        log.iter().filter(|r| path(r) == path(&request)).count() - 1
                    };
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let mut reply = Reply { stream, open: Some(now) };
                    if handler(number, &request, &mut reply).is_err() {
                        hung_up.fetch_add(1, Ordering::SeqCst);
                    }
                    reply.over();
                });
            }
        });
        server
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The paths that were asked for, in order.
    pub fn paths(&self) -> Vec<String> {
        self.received().iter().map(path).collect()
    }

    pub fn asked_for(&self, wanted: &str) -> usize {
        self.paths().iter().filter(|p| *p == wanted).count()
    }

    /// The most requests that were open together.
    pub fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }

    /// Connections that the client closed before their answer was out.
    pub fn hung_up(&self) -> usize {
        self.hung_up.load(Ordering::SeqCst)
    }

    pub fn section(&self, server: ServerKind) -> Generator {
        section(server, &format!("http://{}/v1", self.address))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// `[generator]`, on.
pub fn section(server: ServerKind, base_url: &str) -> Generator {
    let builtin = Config::builtin().unwrap().generator;
    let (base_url, model) = (base_url.to_string(), "served".to_string());
    Generator { kind: GeneratorKind::Openai, server, base_url, model, retries: 2, ..builtin }
}

/// Where answers are asked for.
pub fn answers_path(server: ServerKind) -> &'static str {
    match server {
        ServerKind::Vllm => "/v1/completions",
        ServerKind::Sglang => "/generate",
    }
}

/// With its query.
pub fn path(request: &Received) -> String {
    request.line.split(' ').nth(1).unwrap_or_default().to_string()
}

/// Waits for something the other side does; a test that hangs here fails.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "waited 20 s for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One response, written by hand.
pub struct Reply {
    stream: TcpStream,
    /// How many are open, this one among them.
    open: Option<Arc<AtomicUsize>>,
}

impl Reply {
    /// Not open any more: before its last bytes, after which the client may ask for the next.
    pub fn over(&mut self) {
        if let Some(open) = self.open.take() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    pub fn whole(&mut self, status: &str, headers: &str, body: &str) -> std::io::Result<()> {
        self.over();
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
        self.stream.write_all(format!("{head}{body}").as_bytes())
    }

    pub fn json(&mut self, body: &Value) -> std::io::Result<()> {
        self.whole("200 OK", "content-type: application/json\r\n", &body.to_string())
    }

    pub fn begin(&mut self) -> std::io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        )
    }

    /// Bytes of the stream, as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.stream.write_all(&chunk)
    }

    pub fn event(&mut self, event: &str) -> std::io::Result<()> {
        self.bytes(format!("data: {event}\n\n").as_bytes())
    }

    pub fn end(&mut self) -> std::io::Result<()> {
        self.over();
        self.event("[DONE]")?;
        self.stream.write_all(b"0\r\n\r\n")
    }

    /// Nothing more, and no proper end either.
    pub fn die(&mut self) -> std::io::Result<()> {
        self.over();
        self.stream.shutdown(std::net::Shutdown::Both)
    }
}

/// How SGLang writes its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Vllm,
    /// Each event has the whole answer so far.
    SglangWhole,
    SglangNew,
}

impl Form {
    pub const ALL: [Form; 3] = [Form::Vllm, Form::SglangWhole, Form::SglangNew];

    pub fn server(self) -> ServerKind {
        match self {
            Form::Vllm => ServerKind::Vllm,
            Form::SglangWhole | Form::SglangNew => ServerKind::Sglang,
        }
    }

    /// The event after which `tokens` (with log-probs) are out, of which the last `new` are news.
    pub fn event(self, tokens: &[(u32, f64)], new: usize, finish: Option<&str>) -> Value {
        let fresh = &tokens[tokens.len() - new..];
        if self == Form::Vllm {
            let ids: Vec<u32> = fresh.iter().map(|(t, _)| *t).collect();
            let names: Vec<String> = ids.iter().map(|t| format!("token_id:{t}")).collect();
            let logprobs: Vec<f64> = fresh.iter().map(|(_, l)| *l).collect();
            return json!({ "id": "x", "object": "text_completion", "choices": [{
                "index": 0, "text": "", "token_ids": ids, "finish_reason": finish,
                "logprobs": { "tokens": names, "token_logprobs": logprobs, "text_offset": [], "top_logprobs": [] },
            }] });
        }
        let entries = if self == Form::SglangNew { fresh } else { tokens };
        let list: Vec<Value> = entries.iter().map(|(t, l)| json!([l, t, null])).collect();
        let reason = finish.map_or(Value::Null, |kind| json!({ "type": kind }));
        json!({ "text": "", "output_ids": [], "meta_info": {
            "id": "x", "finish_reason": reason, "completion_tokens": tokens.len(), "output_token_logprobs": list,
        } })
    }
}

/// Answers a control request like a server that does as it is told.
pub fn obey(request: &Received, reply: &mut Reply) -> std::io::Result<()> {
    match path(request).as_str() {
        "/reset_prefix_cache?reset_running_requests=true" => reply.json(&json!({ "success": true })),
        "/update_weights_from_disk" => reply.json(&json!({ "success": true, "message": "", "num_paused_requests": 0 })),
        "/pause?mode=keep" | "/resume" | "/pause_generation" | "/continue_generation" => reply.json(&json!({})),
        "/collective_rpc" => reply.json(&json!({ "results": [null] })),
        _ => reply.whole("404 Not Found", "", "{\"detail\":\"Not Found\"}"),
    }
}
