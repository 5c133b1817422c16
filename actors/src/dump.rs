//! The state of a run, or of a node, on demand: SIGUSR1 writes it as JSON into the run directory (a node: into its scratch folder) and
//! says where.
//!
//! It asks nobody who may be stuck. What is told is the newest that the watched have said by themselves, each with its age: what the
//! terminal is told (`Progress`) and what the dashboard's pages are made of (`Logbook`). Only the head's gateway is asked, for nodes and
//! errands, and its silence is part of the answer.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ractor::rpc::CallResult;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::Link;
use crate::cluster::head::HeadMsg;
use crate::flow::wall_ms;
use crate::logbook::Glance;
use crate::observe::{Observer, Progress, Source};
use crate::policy::write_atomically;

/// For the gateway's answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The last notes that were told.
const NOTES: usize = 32;

/// Watches a run for another watcher, and remembers what it was told last.
pub struct Dumper {
    /// `head` or `node`.
    what: &'static str,
    inner: Arc<dyn Observer>,
    began: Instant,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    folder: Option<PathBuf>,
    phase: Option<(Instant, Value)>,
    /// Of RL, or of an evaluation.
    live: Option<(Instant, Value)>,
    notes: VecDeque<(Instant, String)>,
    faults: BTreeMap<String, u64>,
    logbook: Glance,
    cluster: Option<Link>,
}

impl Dumper {
    /// Writes a dump at each SIGUSR1 from now on, into `folder` or where it is told to.
    ///
    /// # Errors
    /// The signal cannot be listened for.
    pub fn listen(what: &'static str, folder: Option<&Path>, inner: Arc<dyn Observer>) -> std::io::Result<Arc<Dumper>> {
        let told = Told { folder: folder.map(Path::to_path_buf), ..Told::default() };
        let dumper = Arc::new(Dumper { what, inner, began: Instant::now(), told: Mutex::new(told) });
        // A thread of its own, so that it answers where all others are busy or stuck.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut asked = {
            let _inside = runtime.enter();
            signal(SignalKind::user_defined1())?
        };
        let weak: Weak<Dumper> = Arc::downgrade(&dumper);
        std::thread::Builder::new().name("dump".into()).spawn(move || {
            runtime.block_on(async {
                while asked.recv().await.is_some() {
                    let Some(dumper) = weak.upgrade() else { return };
                    dumper.dump().await;
                }
            });
        })?;
        Ok(dumper)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dump(&self) {
        let state = self.state().await;
        let folder = self.told().folder.clone();
        let written = folder.map(|folder| {
            let path = folder.join(format!("state-{}.json", wall_ms()));
            let text = serde_json::to_vec_pretty(&state).map_err(std::io::Error::from);
            (text.and_then(|text| write_atomically(&path, &text)), path)
        });
        let said = match written {
            Some((Ok(()), path)) => format!("state written to {}", path.display()),
            // Nothing else is left to write to.
            Some((Err(error), path)) => format!("state not written to {} ({error}): {state}", path.display()),
            None => format!("state: {state}"),
        };
        self.inner.on(Progress::Note(said));
    }

    async fn state(&self) -> Value {
        let (logbook, cluster) = {
            let told = self.told();
            (told.logbook.clone(), told.cluster.clone())
        };
        let cluster = match &cluster {
            Some(link) => ask(link).await,
            None => Value::Null,
        };
        let ms = |at: &Instant| at.elapsed().as_millis() as u64;
        let told = self.told();
        let aged =
            |word: &Option<(Instant, Value)>| word.as_ref().map(|(at, v)| json!({ "age_ms": ms(at), "value": v }));
        json!({
            "what": self.what, "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id(), "at_ms": wall_ms(),
            "up_ms": ms(&self.began), "phase": aged(&told.phase), "live": aged(&told.live), "faults": told.faults,
            "notes": told.notes.iter().map(|(at, text)| json!({ "ago_ms": ms(at), "text": text })).collect::<Vec<_>>(),
            "logbook": logbook.state(), "cluster": cluster,
        })
    }
}

/// Whatever the gateway says, or that it says nothing.
async fn ask(link: &Link) -> Value {
    let Some(gateway) = link.gateway() else { return json!("no gateway has started yet") };
    match gateway.call(HeadMsg::State, Some(ANSWER)).await {
        Ok(CallResult::Success(state)) => state,
        Ok(CallResult::Timeout) => json!(format!("the gateway has not answered for {} ms", ANSWER.as_millis())),
        Ok(CallResult::SenderError) | Err(_) => json!("the gateway is dead"),
    }
}

impl Observer for Dumper {
    fn on(&self, progress: Progress) {
        {
            let (mut told, now) = (self.told(), Instant::now());
            match &progress {
                Progress::Phase(phase) => told.phase = Some((now, json!(phase))),
                Progress::Live(live) => told.live = Some((now, json!(live))),
                Progress::Eval { done, total, correct, .. } => {
                    told.live = Some((now, json!({ "done": done, "total": total, "correct": correct })));
                }
                Progress::WarmStart { step, steps, loss } => {
                    told.live = Some((now, json!({ "step": step, "steps": steps, "loss": loss })));
                }
                Progress::Fault { code, .. } => *told.faults.entry(code.clone()).or_default() += 1,
                Progress::Note(text) => {
                    if told.notes.len() >= NOTES {
                        told.notes.pop_front();
                    }
                    told.notes.push_back((now, text.clone()));
                }
                Progress::Step(_) | Progress::Stopping { .. } => {}
            }
        }
        self.inner.on(progress);
    }

    fn may_look(&self, source: Source) {
        let mut told = self.told();
        match source.clone() {
            Source::Logbook(glance) => told.logbook = glance,
            Source::Cluster(link) => told.cluster = Some(link),
            Source::Folder(folder) => told.folder = Some(folder),
        }
        drop(told);
        self.inner.may_look(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logbook::Logbook;
    use crate::observe::{RunPhase, Silent};

    /// Nobody is asked: a run whose parts are all stuck is told as they left it.
    #[test]
    fn it_tells_what_was_said_last_and_how_long_ago() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let told = Mutex::default();
        let dumper = Dumper { what: "head", inner: Arc::new(Silent), began: Instant::now(), told };
        let logbook = Logbook::in_memory();
        dumper.may_look(Source::Logbook(logbook.glance()));
        dumper.on(Progress::Phase(RunPhase::Rl));
        for n in 0..2 * NOTES {
            dumper.on(Progress::Note(format!("note {n}")));
        }
        dumper.on(Progress::Fault { code: "F103".into(), message: String::new() });
        let span = logbook.begin("executor 0", Some(7), Some(1));
        logbook.sample("run", json!({ "policy": 3 }));
        logbook.happened("executor 0", "restarted", "");
        let state = runtime.block_on(dumper.state());
        assert_eq!(
            (&state["what"], &state["phase"]["value"], &state["faults"]["F103"]),
            (&json!("head"), &json!("rl"), &json!(1))
        );
        let notes = state["notes"].as_array().unwrap();
        assert_eq!((notes.len(), &notes[NOTES - 1]["text"]), (NOTES, &json!(format!("note {}", 2 * NOTES - 1))));
        let book = &state["logbook"];
        assert_eq!(book["under_way"][0]["rollout"], 7);
        assert_eq!(book["samples"]["run"]["value"]["policy"], 3);
        assert_eq!(book["actors"]["executor 0"]["last"], "restarted");
        drop((span, logbook));
        assert_eq!(runtime.block_on(dumper.state())["logbook"], Value::Null, "the dumper does not keep it");
    }
}
