//! What every measurement of the cluster stands on: a head with a pool and no executors of its own, and nodes as processes.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorRef};
use rollout::id::{Attempt, Digest, RolloutId, TaskId};
use rollout::outcome::{Candidate, Ruling};
use rollout::task::{Split, TaskSpec};
use tokio::runtime::Runtime;

use crate::bench::ear;
use crate::cluster::kit::{Kit, Work, stand_in};
use crate::cluster::{Cookie, Head, HeadConfig};
use crate::config::Cluster;
use crate::errors::UserError;
use crate::executor::ExecJob;
use crate::observe::Observer;
use crate::orchestrator::OrchestratorMsg;
use crate::pool::{Pool, PoolArgs, PoolMsg};
use crate::stop::StopToken;

/// Longest wait for nodes to join, or for one answer.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Characters of a candidate's text.
pub const TEXT: usize = 2000;
/// Of one evaluation, on the node.
const DEADLINE_MS: u64 = 60_000;

/// One evaluation has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub rollout: RolloutId,
    pub attempt: Attempt,
    /// The fault's code where there is no verdict.
    pub verdict: Result<bool, String>,
    pub at: Instant,
}

/// Processes that are killed when they are dropped.
#[derive(Default)]
pub struct Nodes(pub Vec<Child>);

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.0 {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// How a stage is set.
#[derive(Clone, Copy, Debug)]
pub struct StageConfig {
    pub port: u16,
    pub takes_ms: u64,
    pub nodes: u32,
    pub workers: u32,
}

/// Head, pool and nodes at work.
pub struct Stage {
    pub head: Head,
    pub pool: ActorRef<PoolMsg>,
    pub ended: Receiver<Ended>,
    pub nodes: Nodes,
    pub joined_ms: u64,
    pub first_joined_ms: u64,
    pub address: String,
    config: StageConfig,
    cookie: String,
    runtime: Runtime,
}

fn broken(config: &StageConfig, what: &str, found: String) -> UserError {
    UserError::new(format!("the cluster cannot be measured: {what}"))
        .at(format!("{} nodes, port {}", config.nodes, config.port))
        .found(found)
        .expected("two free ports and memory for the nodes (about 20 MiB each)")
        .hint("try fewer --nodes, or another --port")
}

impl Stage {
    /// One head, and so many nodes that are ready.
    ///
    /// # Errors
    /// Ports that are taken, processes that cannot be started, nodes that do not come.
    pub fn start(config: StageConfig, observer: Arc<dyn Observer>, stop: &StopToken) -> Result<Stage, UserError> {
        let cookie = crate::sft::hex(&rand::random::<[u8; 16]>());
        let settings = Cluster::default();
        let address = format!("127.0.0.1:{}", config.port);
        let head = Head::start(HeadConfig {
            listen: address.clone(),
            bulk_port: 0,
            cookie: Cookie::new(&cookie).map_err(|e| broken(&config, "no cookie", e))?,
            epoch: 1,
            beat: settings.beat(),
            limit: settings.max_message_bytes,
            kit: Kit {
                work: Work::StandIn { takes_ms: config.takes_ms },
                tasks: vec![(*task()).clone()],
                deadline_ms: DEADLINE_MS,
                executors: config.workers,
            },
            observer,
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|e| broken(&config, "no threads", e.to_string()))?;
        let (to, ended) = channel();
        let pool = runtime.block_on(start_pool(&head, to)).map_err(|e| broken(&config, "no pool", e.to_string()))?;
        let (nodes, joined_ms, first_joined_ms) = (Nodes::default(), 0, 0);
        let mut stage =
            Stage { head, pool, ended, nodes, joined_ms, first_joined_ms, address, config, cookie, runtime };
        let began = Instant::now();
        for n in 0..config.nodes {
            let node = stage.join(&format!("node-{n}"))?;
            stage.nodes.0.push(node);
        }
        loop {
            let ready = stage.ready();
            if ready > 0 && stage.first_joined_ms == 0 {
                stage.first_joined_ms = began.elapsed().as_millis() as u64;
            }
            if ready == config.nodes as usize {
                break;
            }
            if began.elapsed() > PATIENCE || stop.asked() {
                let ended = stage.nodes.0.iter_mut().filter_map(|node| node.try_wait().ok().flatten());
                let ended: Vec<String> = ended.map(|status| status.to_string()).collect();
                let here = stage.head.rows().len();
                let found = format!(
                    "{ready} of {} ready after {} s, {here} have reported, processes that ended: {ended:?}",
                    config.nodes,
                    began.elapsed().as_secs()
                );
                return Err(broken(&config, "nodes do not join", found));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        stage.joined_ms = began.elapsed().as_millis() as u64;
        Ok(stage)
    }

    /// One more `troupe join`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn join(&self, name: &str) -> Result<Child, UserError> {
        let failed = |e: std::io::Error| broken(&self.config, "no process", e.to_string());
        let exe = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(&exe);
        command.args(["join", &self.address, "--role", "executor", "--name", name]);
        command.args(["--workers", &self.config.workers.to_string()]).env("TROUPE_COOKIE", &self.cookie);
        // A run file here is of another run.
        command.current_dir(std::env::temp_dir());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(failed)
    }

    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    /// Nodes that take work.
    pub fn ready(&self) -> usize {
        self.head.rows().iter().filter(|row| row.state == "ready").count()
    }

    pub fn give(&self, jobs: Vec<ExecJob>) {
        let _ = self.pool.cast(PoolMsg::Execute(jobs));
    }

    pub fn finish(self) {
        let Stage { head, pool, nodes, runtime, .. } = self;
        pool.kill();
        head.finish(true);
        drop(nodes);
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

async fn start_pool(head: &Head, to: Sender<Ended>) -> Result<ActorRef<PoolMsg>, ractor::SpawnErr> {
    let out = ear::listen(move |message| {
        let OrchestratorMsg::Executed(items) = message else { return };
        let at = Instant::now();
        for item in items {
            let verdict = item.result.map(|report| report.outcome.is_correct()).map_err(|fault| fault.code);
            // Nobody listens any more where the measurement is over.
            let _ = to.send(Ended { rollout: item.rollout, attempt: item.attempt, verdict, at });
        }
    })
    .await?;
    let args = PoolArgs {
        factory: stand_in(Duration::ZERO),
        saturated: None,
        llm_judge: None,
        workers: 0,
        workers_max: 0,
        deadline: PATIENCE,
        reuse_verdicts: false,
        verdicts_max: 0,
        logbook: Default::default(),
        cluster: Some(head.link()),
        out,
    };
    Ok(Pool::spawn(None, Pool, args).await?.0)
}

fn task() -> Arc<TaskSpec> {
    let (id, split) = (TaskId("standin".into()), Split::Train);
    Arc::new(TaskSpec { id, level: 1, split, tags: Vec::new(), source: String::new() })
}

/// The n-th candidate, as text.
pub fn source(n: u64) -> String {
    format!("n = {n}\n{}", "#".repeat(TEXT))
}

pub fn job(n: u64, attempt: u32) -> ExecJob {
    job_of(n, attempt, source(n))
}

pub fn job_of(n: u64, attempt: u32, source: String) -> ExecJob {
    let candidate = Candidate { source, digest: Digest(n.to_string()) };
    let ruling = Arc::new(Ruling::Admit { candidate, findings: Vec::new() });
    ExecJob { rollout: RolloutId(n), attempt: Attempt(attempt), task: task(), ruling }
}
