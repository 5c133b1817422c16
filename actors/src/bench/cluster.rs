//! Executors as processes of their own, with stand-in candidates: how the executors' stage scales, and what the head carries.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use rollout::id::{Attempt, Digest, RolloutId, TaskId};
use rollout::outcome::{Candidate, Ruling};
use rollout::task::{Split, TaskSpec};
use serde::Serialize;

use crate::cluster::kit::{Kit, Work, stand_in};
use crate::cluster::{Cookie, Head, HeadConfig};
use crate::config::Cluster;
use crate::errors::UserError;
use crate::executor::ExecJob;
use crate::observe::Silent;
use crate::orchestrator::OrchestratorMsg;
use crate::pool::{Pool, PoolArgs, PoolMsg};
use crate::stop::StopToken;

/// Longest wait for nodes to join, or for one answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Characters of a candidate's text.
const TEXT: usize = 2000;

#[derive(Clone, Copy, Debug)]
pub struct ClusterBench {
    pub port: u16,
    /// Milliseconds of one candidate.
    pub takes_ms: u64,
    /// Candidates an executor.
    pub each: u64,
    pub nodes: u32,
    /// Executors of a node.
    pub workers: u32,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterFigures {
    pub nodes: u32,
    pub executors: u32,
    pub candidates: u64,
    pub seconds: f64,
    pub candidates_per_s: f64,
    /// Share of the executors' time that was spent on candidates.
    pub efficiency: f64,
    /// From `troupe join` until the last node was ready, and until the first was.
    pub joined_ms: u64,
    pub first_joined_ms: u64,
    /// Processor time of the head's process per second, and per candidate in microseconds; memory.
    pub head_cpu: f64,
    pub head_us_each: f64,
    pub head_rss_mib: f64,
    pub faults: u64,
}

/// Says when each evaluation has ended, and whether well.
struct Collector;

impl Actor for Collector {
    type Msg = OrchestratorMsg;
    type State = Sender<bool>;
    type Arguments = Sender<bool>;

    async fn pre_start(
        &self,
        _: ActorRef<OrchestratorMsg>,
        to: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(to)
    }

    async fn handle(
        &self,
        _: ActorRef<OrchestratorMsg>,
        message: OrchestratorMsg,
        to: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let OrchestratorMsg::Executed(items) = message {
            items.into_iter().try_for_each(|item| to.send(item.result.is_ok()))?;
        }
        Ok(())
    }
}

struct Nodes(Vec<Child>);

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.0 {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// One head, so many nodes, all candidates at once.
///
/// # Errors
/// Ports that are taken, processes that cannot be started, nodes or answers that do not come.
pub fn run(bench: ClusterBench, stop: &StopToken) -> Result<ClusterFigures, UserError> {
    let broken = |what: &str, found: String| {
        UserError::new(format!("the cluster cannot be measured: {what}"))
            .at(format!("{} nodes, port {}", bench.nodes, bench.port))
            .found(found)
            .expected("two free ports and memory for the nodes (about 20 MiB each)")
            .hint("try fewer --nodes, or another --port")
    };
    let cookie = crate::sft::hex(&rand::random::<[u8; 16]>());
    let (settings, executors) = (Cluster::default(), bench.nodes * bench.workers);
    let address = format!("127.0.0.1:{}", bench.port);
    let head = Head::start(HeadConfig {
        listen: address.clone(),
        bulk_port: 0,
        cookie: Cookie::new(&cookie).map_err(|e| broken("no cookie", e))?,
        epoch: 1,
        beat: settings.beat(),
        limit: settings.max_message_bytes,
        kit: Kit {
            work: Work::StandIn { takes_ms: bench.takes_ms },
            tasks: vec![(*task()).clone()],
            deadline_ms: 60_000,
            executors: bench.workers,
        },
        observer: Arc::new(Silent),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|e| broken("no threads", e.to_string()))?;
    let (to, ended) = channel();
    let pool = runtime.block_on(start_pool(&head, to)).map_err(|e| broken("no pool", e.to_string()))?;
    let began = Instant::now();
    let exe = std::env::current_exe().map_err(|e| broken("no program", e.to_string()))?;
    let mut nodes = Nodes(Vec::new());
    for n in 0..bench.nodes {
        let mut command = Command::new(&exe);
        command.args(["join", &address, "--role", "executor", "--name", &format!("node-{n}")]);
        command.args(["--workers", &bench.workers.to_string()]).env("TROUPE_COOKIE", &cookie);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        nodes.0.push(command.spawn().map_err(|e| broken("no process", e.to_string()))?);
    }
    let mut first_joined_ms = 0;
    loop {
        let ready = head.rows().iter().filter(|row| row.state == "ready").count();
        if ready > 0 && first_joined_ms == 0 {
            first_joined_ms = began.elapsed().as_millis() as u64;
        }
        if ready == bench.nodes as usize {
            break;
        }
        if began.elapsed() > PATIENCE || stop.asked() {
            return Err(broken("nodes do not join", format!("{ready} after {} s", began.elapsed().as_secs())));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let joined_ms = began.elapsed().as_millis() as u64;
    let candidates = bench.each * u64::from(executors);
    let (began, cpu) = (Instant::now(), cpu_s());
    let _ = pool.cast(PoolMsg::Execute((0..candidates).map(job).collect()));
    let faults = collect(&ended, candidates, stop).map_err(|found| broken("answers do not come", found))?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_s() - cpu);
    let figures = ClusterFigures {
        nodes: bench.nodes,
        executors,
        candidates,
        seconds,
        candidates_per_s: candidates as f64 / seconds,
        efficiency: candidates as f64 * bench.takes_ms as f64 / 1000.0 / (f64::from(executors) * seconds),
        joined_ms,
        first_joined_ms,
        head_cpu: cpu / seconds,
        head_us_each: 1e6 * cpu / candidates as f64,
        head_rss_mib: crate::bench::orchestrator::rss_mib(),
        faults,
    };
    pool.kill();
    head.finish(true);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(figures)
}

async fn start_pool(head: &Head, to: Sender<bool>) -> Result<ActorRef<PoolMsg>, ractor::SpawnErr> {
    let (out, _) = Collector::spawn(None, Collector, to).await?;
    let args = PoolArgs {
        factory: stand_in(Duration::ZERO),
        llm_judge: None,
        workers: 0,
        workers_max: 0,
        deadline: PATIENCE,
        reuse_verdicts: false,
        verdicts_max: 0,
        cluster: Some(head.link()),
        logbook: Default::default(),
        out,
    };
    Ok(Pool::spawn(None, Pool, args).await?.0)
}

fn collect(ended: &Receiver<bool>, candidates: u64, stop: &StopToken) -> Result<u64, String> {
    let (mut faults, mut last) = (0, Instant::now());
    for n in 0..candidates {
        loop {
            match ended.recv_timeout(Duration::from_millis(200)) {
                Ok(well) => {
                    faults += u64::from(!well);
                    last = Instant::now();
                    break;
                }
                Err(_) if last.elapsed() > PATIENCE || stop.asked() => return Err(format!("{n} of {candidates}")),
                Err(_) => {}
            }
        }
    }
    Ok(faults)
}

fn task() -> Arc<TaskSpec> {
    let (id, split) = (TaskId("standin".into()), Split::Train);
    Arc::new(TaskSpec { id, level: 1, split, tags: Vec::new(), source: String::new() })
}

fn job(n: u64) -> ExecJob {
    let candidate = Candidate { source: format!("n = {n}\n{}", "#".repeat(TEXT)), digest: Digest(n.to_string()) };
    let ruling = Arc::new(Ruling::Admit { candidate, findings: Vec::new() });
    ExecJob { rollout: RolloutId(n), attempt: Attempt(1), task: task(), ruling }
}

/// Processor time of this process, seconds: user and system, in ticks of 10 ms.
fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
