//! Where `troupe watch` gets what it shows: a run directory, or the dashboard of one, asked over HTTP.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{StatusCode, Url};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use crate::cli::show;
use crate::errors::UserError;
use crate::http::{chain, client, endpoint, limited};
use crate::inspect::crew::Crew;
use crate::inspect::notes::Timeline;
use crate::inspect::overview::Overview;
use crate::inspect::query::{Page, Query};
use crate::inspect::tasks::TaskRow;
use crate::inspect::{Pulse, Run};

/// Longest wait for a connection, and for all answers that one screen is made of. Keys wait as long.
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(5);

/// What is watched. Every error is one line for the screen.
pub enum Source {
    Dir(Arc<Run>),
    Url(Remote),
}

/// A dashboard's API.
pub struct Remote {
    base: String,
    client: reqwest::Client,
    runtime: Runtime,
    /// When what is asked for now has to be there.
    until: Cell<Option<Instant>>,
}

impl Remote {
    /// `token` is sent to this address and nowhere else.
    ///
    /// # Errors
    /// An address that is none, or nobody who answers there.
    pub fn open(address: &str, token: Option<&str>) -> Result<Remote, UserError> {
        let complain = |found: String| {
            UserError::new("the dashboard cannot be asked")
                .at(address)
                .found(found)
                .expected("the address that `troupe dashboard` printed, reachable from here")
                .hint("where it asks for a token: --token-file FILE, or TROUPE_DASHBOARD_TOKEN")
        };
        let url: Url = endpoint(address, "api/pulse").map_err(complain)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| complain(format!("no runtime: {e}")))?;
        let client = client(&url, token, CONNECT).map_err(complain)?;
        let remote =
            Remote { base: address.trim_end_matches('/').to_string(), client, runtime, until: Cell::new(None) };
        remote.get::<Pulse>("api/pulse", &[]).map_err(complain)?;
        Ok(remote)
    }

    fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, String> {
        let mut url = endpoint(&self.base, path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let asked = async {
            let response = self.client.get(url).send().await.map_err(|e| chain(&e.without_url()))?;
            let status = response.status();
            let body = limited(response).await?;
            Ok::<_, String>((status, body))
        };
        let (status, body) = self.runtime.block_on(async {
            let late = |_| format!("no answer within {} s", ANSWER.as_secs());
            let left = self.until.get().map_or(ANSWER, |until| until.saturating_duration_since(Instant::now()));
            tokio::time::timeout(left, asked).await.map_err(late)?
        })?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|e| format!("an answer of another version: {e}"));
        }
        // The dashboard's errors are JSON with their parts.
        let error: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let parts: Vec<&str> =
            ["what", "found", "expected", "hint"].iter().filter_map(|part| error["error"][part].as_str()).collect();
        Err(match status {
            StatusCode::UNAUTHORIZED => "it asks for a token, and got none or another (HTTP 401)".into(),
            StatusCode::MISDIRECTED_REQUEST => "it does not answer to this name (--host NAME there, HTTP 421)".into(),
            _ if !parts.is_empty() => parts.join("; "),
            status => format!("HTTP {status}"),
        })
    }
}

impl Source {
    /// What `asks` asks for comes within one wait, however many questions it is.
    pub fn together<T>(&self, asks: impl FnOnce() -> T) -> T {
        if let Source::Url(remote) = self {
            remote.until.set(Some(Instant::now() + ANSWER));
        }
        let answered = asks();
        if let Source::Url(remote) = self {
            remote.until.set(None);
        }
        answered
    }

    pub fn pulse(&self) -> Result<Pulse, String> {
        match self {
            Source::Dir(run) => Ok(run.pulse()),
            Source::Url(remote) => remote.get("api/pulse", &[]),
        }
    }

    pub fn overview(&self) -> Result<Overview, String> {
        match self {
            Source::Dir(run) => run.overview().map_err(|e| e.to_string()),
            Source::Url(remote) => remote.get("api/overview", &[]),
        }
    }

    pub fn tasks(&self) -> Result<Vec<TaskRow>, String> {
        match self {
            Source::Dir(run) => Ok(run.task_rows()),
            Source::Url(remote) => remote.get("api/tasks", &[]),
        }
    }

    pub fn crew(&self) -> Result<Crew, String> {
        match self {
            Source::Dir(run) => run.crew().map_err(|e| e.to_string()),
            Source::Url(remote) => remote.get("api/crew", &[]),
        }
    }

    /// The last `window_s` seconds.
    pub fn timeline(&self, window_s: u64) -> Result<Timeline, String> {
        match self {
            Source::Dir(run) => run.timeline(window_s).map_err(|e| e.to_string()),
            Source::Url(remote) => remote.get("api/timeline", &[("window_s", &window_s.to_string())]),
        }
    }

    pub fn page(&self, query: &Query) -> Result<Page, String> {
        match self {
            Source::Dir(run) => run.page(query).map_err(|e| e.to_string()),
            Source::Url(remote) => {
                let (offset, limit) = (query.offset.to_string(), query.limit.to_string());
                let pairs = [("filter", &query.filter), ("sort", &query.sort), ("offset", &offset), ("limit", &limit)];
                remote.get("api/rollouts", &pairs.map(|(name, value)| (name, value.as_str())))
            }
        }
    }

    /// Everything about one rollout as text, harmless to a terminal; `None` where there is no such rollout.
    pub fn text(&self, id: u64) -> Result<Option<String>, String> {
        match self {
            Source::Dir(run) => {
                let detail = run.reader().and_then(|reader| reader.rollout(id)).map_err(|e| e.to_string())?;
                Ok(detail.map(|detail| show::text(&detail, run.config())))
            }
            Source::Url(remote) => {
                let text: String = remote.get(&format!("api/rollout/{id}/text"), &[])?;
                // What comes from elsewhere is made harmless here once more.
                Ok(Some(text.lines().map(crate::cli::printable).collect::<Vec<_>>().join("\n")))
            }
        }
    }
}
