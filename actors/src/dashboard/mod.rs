//! `troupe dashboard`: a run in the browser. One server over the one reader (`inspect`), with its pages compiled in;
//! it reads, and has no request that changes anything.

mod api;
mod assets;
mod guard;
mod live;
mod scrape;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::inspect::Run;
pub use guard::{Access, Guard};

/// Questions that are answered at once; more wait, so that viewers stay a small part of a busy machine.
const QUESTIONS: usize = 2;

/// What every request sees.
pub struct Shared {
    run: Arc<Run>,
    guard: Guard,
    questions: Semaphore,
    /// Open live streams.
    streams: AtomicUsize,
    /// Answers that serve several viewers.
    answers: Mutex<api::Answers>,
}

impl Shared {
    fn new(run: Arc<Run>, guard: Guard) -> Shared {
        Shared {
            run,
            guard,
            questions: Semaphore::new(QUESTIONS),
            streams: AtomicUsize::new(0),
            answers: Mutex::default(),
        }
    }
}

/// A server that is bound and not serving yet.
pub struct Dashboard {
    listener: TcpListener,
    router: Router,
    stop: Arc<AtomicBool>,
}

impl Dashboard {
    /// Binds `listen` and begins to follow the run.
    ///
    /// # Errors
    /// The address cannot be bound, or no thread can be started.
    pub async fn bind(run: Arc<Run>, listen: SocketAddr, access: Access) -> std::io::Result<Dashboard> {
        let listener = TcpListener::bind(listen).await?;
        let stop = Arc::new(AtomicBool::new(false));
        run.follow(stop.clone())?;
        let guard = Guard::new(listener.local_addr()?, access);
        let shared = Arc::new(Shared::new(run, guard));
        Ok(Dashboard { listener, router: router(shared), stop })
    }

    /// The address in use: the port is the chosen one where 0 was asked for.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped.
    pub async fn serve(self) -> std::io::Result<()> {
        let _stop = Stop(self.stop);
        axum::serve(self.listener, self.router).await
    }
}

/// Ends the thread that follows the run.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let behind_the_token = Router::new()
        .route("/", get(assets::index))
        .route("/api/overview", get(api::overview))
        .route("/api/rollouts", get(api::rollouts))
        .route("/api/rollout/{id}", get(api::rollout))
        .route("/api/pulse", get(api::pulse))
        .route("/api/rollout/{id}/text", get(api::rollout_text))
        .route("/api/rollout/{id}/diff/{other}", get(api::compare))
        .route("/api/tasks", get(api::tasks))
        .route("/api/task/{name}", get(api::task))
        .route("/api/crew", get(api::crew))
        .route("/api/timeline", get(api::timeline))
        .route("/api/live", get(live::live))
        .route("/metrics", get(scrape::metrics))
        .layer(from_fn_with_state(shared.clone(), guard::known_only));
    Router::new()
        .route("/login", get(guard::form))
        .route("/login", post(guard::login))
        .route("/static/{name}", get(assets::file))
        .merge(behind_the_token)
        .fallback(assets::nothing)
        // Outermost: every answer, errors too, has the headers, and no request with a foreign name comes further.
        .layer(from_fn_with_state(shared.clone(), guard::own_name_only))
        .with_state(shared)
}
