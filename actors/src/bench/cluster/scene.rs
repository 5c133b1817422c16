//! A whole run in processes for the drills: a head that can be killed and started again, nodes, what each of them says and when, and
//! how many rollouts were trained by when.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::whole;
use crate::run::RunError;
use crate::store::Reader;
use crate::store::rows::PhaseTag;

/// Longest wait for anything that has to happen.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Of one stand-in evaluation.
const TAKES_MS: u64 = 40;
const CREDITS: u32 = 256;
/// Executors of a node.
const WORKERS: u32 = 4;

type Lines = Arc<Mutex<Vec<(Instant, String)>>>;

/// A process and what it has said on stderr.
pub struct Process {
    child: Child,
    lines: Lines,
}

impl Process {
    fn start(mut command: Command) -> Result<Process, String> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let stderr = child.stderr.take().ok_or("no stderr")?;
        let lines = Lines::default();
        let told = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                told.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), line));
            }
        });
        Ok(Process { child, lines })
    }

    /// `KILL`, `STOP`, `CONT`, `TERM`.
    pub fn signal(&self, name: &str) -> Result<(), String> {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        status.map_err(|e| format!("kill: {e}"))?.success().then_some(()).ok_or(format!("kill -{name} {pid} failed"))
    }

    /// When it first said this, after `since`.
    fn said(&self, text: &str, since: Instant) -> Option<Instant> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|(at, line)| *at >= since && line.contains(text)).map(|(at, _)| *at)
    }

    /// How often it has said this after `since`.
    pub fn count(&self, text: &str, since: Instant) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|(at, line)| *at >= since && line.contains(text)).count()
    }

    /// Its exit code, if it has ended.
    pub fn poll(&mut self) -> Result<Option<i32>, String> {
        // A process that a signal ended has no code.
        Ok(self.child.try_wait().map_err(|e| e.to_string())?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Its last words.
    pub fn last(&self) -> String {
        self.tail()
    }

    /// The last lines.
    fn tail(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let from = lines.len().saturating_sub(6);
        lines[from..].iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join(" | ")
    }

    /// Waits for its end; the exit code.
    pub fn ended(&mut self) -> Result<Option<i32>, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Ok(status.code());
            }
            if Instant::now() >= until {
                return Err(format!("a process does not end: {}", self.tail()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where head and nodes run.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Troupe's program: heads and nodes are processes of it.
    pub program: PathBuf,
    /// The run directory.
    pub dir: PathBuf,
    /// `HOST:PORT`.
    pub listen: String,
    /// Of the head, and of each node: a program and its arguments in front of ours (`ip netns exec NAME`).
    pub head_inside: Vec<String>,
    pub inside: Vec<Vec<String>>,
    /// So many nodes, the first, are generators: the head samples nothing then.
    pub generators: usize,
    /// Variables of every process.
    pub environment: Vec<(String, String)>,
}

pub struct Scene {
    pub place: Place,
    pub head: Process,
    pub nodes: Vec<Process>,
    pub cookie: String,
    began: Instant,
    counts: Arc<Mutex<Vec<(Instant, u64)>>>,
    over: Arc<AtomicBool>,
    counter: Option<JoinHandle<()>>,
}

impl Scene {
    /// Head and nodes at work, the rate steady.
    ///
    /// # Errors
    /// In words.
    pub fn start(place: Place, nodes: usize) -> Result<Scene, String> {
        let cookie = crate::sft::hex(&rand::random::<[u8; 16]>());
        let began = Instant::now();
        let head = start_head(&place, &cookie)?;
        let (counts, over) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (to, flag, dir) = (counts.clone(), over.clone(), place.dir.clone());
        let counter = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                if let Some(n) = trained(&dir) {
                    to.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), n));
                }
                std::thread::sleep(LOOK);
            }
        });
        let counter = Some(counter);
        let mut scene = Scene { place, head, nodes: Vec::new(), cookie, began, counts, over, counter };
        for n in 0..nodes {
            let node = scene.join(n, None)?;
            scene.nodes.push(node);
        }
        scene.heard(began, "joined with", nodes)?;
        std::thread::sleep(Duration::from_secs(3));
        Ok(scene)
    }

    /// A `troupe join` as `node-N`, through another address where one is given.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn join(&self, n: usize, through: Option<&str>) -> Result<Process, String> {
        let exe = &self.place.program;
        let mut command = inside(self.place.inside.get(n).map_or(&[], Vec::as_slice), exe);
        let address = through.unwrap_or(&self.place.listen);
        let role = if n < self.place.generators { "generator" } else { "executor" };
        command.args(["join", address, "--role", role, "--name", &format!("node-{n}")]);
        command.args(["--workers", &WORKERS.to_string(), "--set", "cluster.reconnect_pause_ms=500"]);
        command.env("TROUPE_COOKIE", &self.cookie).envs(self.place.environment.iter().cloned());
        command.current_dir(std::env::temp_dir());
        Process::start(command)
    }

    /// The head again, in the same folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn head_again(&mut self) -> Result<(), String> {
        self.head = start_head(&self.place, &self.cookie)?;
        Ok(())
    }

    /// The head has said this so often since then; when it was enough.
    ///
    /// # Errors
    /// It has not, for a long time.
    pub fn heard(&self, since: Instant, text: &str, times: usize) -> Result<Instant, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let (1, Some(at)) = (times, self.head.said(text, since)) {
                return Ok(at);
            }
            if self.head.count(text, since) >= times {
                return Ok(Instant::now());
            }
            if Instant::now() >= until {
                return Err(format!("the head does not say `{text}`: {}", self.head.tail()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the head has said this since then.
    pub fn has_said(&self, since: Instant, text: &str) -> bool {
        self.head.said(text, since).is_some()
    }

    /// When the head first said this, if it has.
    pub fn said(&self, since: Instant, text: &str) -> Option<Instant> {
        self.head.said(text, since)
    }

    /// When the last of all nodes said this.
    ///
    /// # Errors
    /// One has not, for a long time.
    pub fn nodes_say(&self, since: Instant, text: &str) -> Result<Instant, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let told: Option<Vec<Instant>> = self.nodes.iter().map(|node| node.said(text, since)).collect();
            if let Some(last) = told.and_then(|told| told.into_iter().max()) {
                return Ok(last);
            }
            if Instant::now() >= until {
                let tails: Vec<String> = self.nodes.iter().map(Process::tail).collect();
                return Err(format!("not all nodes say `{text}`: {tails:?}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Rollouts trained per second between two moments.
    pub fn rate(&self, from: Instant, to: Instant) -> f64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |when: Instant| counts.iter().rev().find(|(at, _)| *at <= when).copied();
        match (at(from), at(to)) {
            (Some((a, x)), Some((b, y))) if b > a => y.saturating_sub(x) as f64 / (b - a).as_secs_f64(),
            _ => 0.0,
        }
    }

    /// From then until the end of the first second at this rate.
    ///
    /// # Errors
    /// It does not come back.
    pub fn back(&self, since: Instant, rate: f64) -> Result<Duration, String> {
        let second = Duration::from_secs(1);
        let until = Instant::now() + PATIENCE;
        loop {
            let looks: Vec<Instant> = {
                let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
                counts.iter().map(|(at, _)| *at).filter(|at| *at >= since + second).collect()
            };
            if let Some(found) = looks.into_iter().find(|at| self.rate(*at - second, *at) >= rate) {
                return Ok(found - since);
            }
            if Instant::now() >= until {
                return Err(format!("a rate of {rate:.0}/s does not come back: {}", self.head.tail()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Rollouts per second, second by second, from a moment on.
    pub fn curve(&self, from: Instant, seconds: u32) -> Vec<u32> {
        let at = |n: u32| from + Duration::from_secs(u64::from(n));
        (0..seconds).map(|n| self.rate(at(n), at(n + 1)).round() as u32).collect()
    }

    /// Ends the run in order and reads its books.
    ///
    /// # Errors
    /// It does not end, or the books cannot be read.
    pub fn finish(mut self) -> Result<whole::Books, String> {
        self.head.signal("TERM")?;
        self.head.ended()?;
        self.close();
        let mut books = whole::books(&self.place.dir, CREDITS).map_err(|e: RunError| e.to_string())?;
        if self.began.elapsed() > Duration::from_secs(3) && books.trained == 0 {
            books.wrong.push("nothing was trained".into());
        }
        Ok(books)
    }

    fn close(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(counter) = self.counter.take() {
            let _ = counter.join();
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.close();
    }
}

fn trained(dir: &Path) -> Option<u64> {
    Reader::open(dir).ok()?.endings(PhaseTag::Train).ok()?.get("trained").copied()
}

/// `program`, behind what has to stand before it.
fn inside(inside: &[String], program: &Path) -> Command {
    let Some((first, rest)) = inside.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

fn start_head(place: &Place, cookie: &str) -> Result<Process, String> {
    let mut command = inside(&place.head_inside, &place.program);
    command.args(["bench", "cluster", "--head-in"]).arg(&place.dir).args(["--listen", &place.listen]);
    if place.generators > 0 {
        command.arg("--sampled");
    }
    command.env("TROUPE_COOKIE", cookie).envs(place.environment.iter().cloned());
    Process::start(command)
}

/// What a head's process is told.
///
/// # Errors
/// No cookie.
pub fn whole(dir: &Path, listen: &str, sampled: bool) -> Result<whole::Whole, crate::errors::UserError> {
    let cookie = crate::cluster::Cookie::find(&crate::config::Cluster::default())?;
    let (dir, listen) = (dir.to_path_buf(), listen.to_string());
    Ok(whole::Whole { dir, listen, cookie, takes_ms: TAKES_MS, credits: CREDITS, sampled })
}
