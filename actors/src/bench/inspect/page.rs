//! A page of the dashboard as a browser keeps it: it listens, and asks for what it shows when there is something new, as
//! often as `dashboard/assets/app.js` does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Client;

use crate::http::{client, endpoint};

const CONNECT: Duration = Duration::from_secs(5);
/// One answer, at most: a dashboard is stopped for a window in between.
const ANSWER: Duration = Duration::from_secs(700);
/// As in `app.js`, of whose work this one does only the waiting.
const PAUSE: Duration = Duration::from_millis(100);
const CALM: Duration = Duration::from_millis(300);
const LONGEST: Duration = Duration::from_millis(250);
const REST: u32 = 4;
const WAIT: u32 = 2;
const SLOW: Duration = Duration::from_millis(300);

/// For how long dashboards were stopped so far: no page waited for its answer then, as `app.js` would count it.
#[derive(Default)]
pub struct Stops(Mutex<(Duration, Option<Instant>)>);

impl Stops {
    pub fn begin(&self) {
        self.lock().1.get_or_insert_with(Instant::now);
    }

    pub fn end(&self) {
        let mut stops = self.lock();
        if let Some(since) = stops.1.take() {
            stops.0 += since.elapsed();
        }
    }

    fn so_far(&self) -> Duration {
        let stops = self.lock();
        stops.0 + stops.1.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, (Duration, Option<Instant>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until a dashboard has read everything that is there.
pub async fn loaded(base: &str, deadline: Duration) -> Result<(), String> {
    let url = endpoint(base, "api/pulse")?;
    let client = client(&url, None, CONNECT)?;
    let wait = async {
        loop {
            let body = get(&client, &url).await?;
            let pulse: crate::inspect::Pulse = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            if pulse.loaded {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(deadline, wait).await.map_err(|_| "it was not read in time".to_string())?
}

async fn get(client: &Client, url: &reqwest::Url) -> Result<Vec<u8>, String> {
    let asked = async {
        let response = client.get(url.clone()).send().await.map_err(|e| e.to_string())?;
        if !response.status().is_success() {
            return Err(format!("HTTP {}", response.status()));
        }
        Ok(response.bytes().await.map_err(|e| e.to_string())?.to_vec())
    };
    tokio::time::timeout(ANSWER, asked).await.map_err(|_| "no answer".to_string())?
}

fn is_pulse(bytes: &[u8]) -> bool {
    bytes.windows(5).any(|w| w == b"pulse")
}

/// Keeps a page open until it is dropped; counts its updates. What is told while its dashboard is stopped is told after it.
pub async fn keep(base: String, path: &'static str, updates: Arc<AtomicU64>, stops: Arc<Stops>) -> Result<(), String> {
    let (live, data) = (endpoint(&base, "api/live")?, endpoint(&base, path.split('?').next().unwrap_or(path))?);
    let mut data = data;
    data.set_query(path.split_once('?').map(|(_, query)| query));
    let client = client(&live, None, CONNECT)?;
    let mut stream = client.get(live).send().await.map_err(|e| e.to_string())?;
    let calm = !path.starts_with("api/rollouts");
    let (mut due, mut last, mut pause) = (Some(Instant::now()), None::<Instant>, PAUSE);
    loop {
        let next = tokio::time::Instant::from_std(due.unwrap_or_else(Instant::now));
        tokio::select! {
            chunk = stream.chunk() => match chunk.map_err(|e| e.to_string())? {
                None => return Err("the stream ended".into()),
                Some(bytes) if is_pulse(&bytes) && due.is_none() => {
                    let now = Instant::now();
                    due = Some(last.map_or(now, |at| now.max(at + pause)));
                }
                Some(_) => {}
            },
            () = tokio::time::sleep_until(next), if due.is_some() => {
                let (began, stopped) = (Instant::now(), stops.so_far());
                let asked = get(&client, &data);
                tokio::pin!(asked);
                // Messages come while it waits for its answer: they lead to one more round, after a rest.
                let mut news = false;
                loop {
                    tokio::select! {
                        answer = &mut asked => {
                            answer?;
                            break;
                        }
                        chunk = stream.chunk() => match chunk.map_err(|e| e.to_string())? {
                            None => return Err("the stream ended".into()),
                            Some(bytes) => news |= is_pulse(&bytes),
                        },
                    };
                }
                updates.fetch_add(1, Ordering::Relaxed);
                let took = began.elapsed().saturating_sub(stops.so_far() - stopped);
                pause = match calm || took > SLOW {
                    true => (took * REST).max(CALM),
                    false => (took * WAIT).clamp(PAUSE, LONGEST),
                };
                let now = Instant::now();
                (due, last) = (news.then(|| now + pause), Some(now));
            }
        }
    }
}
