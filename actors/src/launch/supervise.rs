//! A head and its nodes as children of this process (`local`; with `ssh` the nodes are children that talk to other hosts).
//!
//! ```text
//!   node ends by itself   -> again, after a pause, within limits        head ends       -> nodes are untied, then killed
//!   all nodes given up    -> head is asked to stop, where it has        Ctrl-C          -> head is asked to stop (checkpoint), then
//!                            no executors of its own                                       as above; once more: all are killed
//! ```
//! Each wait has a limit; whoever is still there after it is killed with its process group. If this process itself is killed, stdin of
//! all of them ends, which they are tied to.

use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::child::{Child, Tell, Told};
use super::restarts::{Next, Restarts};
use super::{Part, Place, Plan, Role, ssh};
use crate::cluster::Cookie;
use crate::config::Config;
use crate::errors::UserError;

/// For a process that was asked twice to end.
const LAST_CALL: Duration = Duration::from_secs(5);
/// Signals so close to each other are one wish: `timeout`, for one, sends its to the process and to its group.
const ONE_WISH: Duration = Duration::from_millis(500);
/// More than the processes' own patience with their work.
const MARGIN: Duration = Duration::from_secs(10);

/// What became of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head's exit code; it has said why.
    Head(u8),
    /// A signal ended the head, or it had to be killed.
    HeadKilled,
    /// Nobody was left to evaluate candidates; the head's checkpoint is written.
    NoNodes,
    /// Asked twice to stop.
    Interrupted,
}

pub struct Launched {
    pub config: Config,
    pub plan: Plan,
    pub cookie: Cookie,
    pub tell: Tell,
}

/// How a node's keeper ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Drained, or the run is over.
    Rests,
    GivenUp,
}

/// Starts everything and stays until all of it has ended.
///
/// # Errors
/// The head cannot be started, or signals cannot be listened for.
pub async fn run(launched: Launched) -> Result<Outcome, UserError> {
    let launched = Arc::new(launched);
    let mut asked = Asked::new().map_err(|e| UserError::new("signals cannot be listened for").found(e))?;
    let head = &launched.plan.head;
    let started = Child::start(command_of(head), &head.name, None, true, &launched.tell).await;
    let mut child = started.map_err(|e| UserError::io("start the head", std::path::Path::new(&head.program), &e))?;
    let (end, ending) = watch::channel(false);
    let mut keepers = JoinSet::new();
    for node in launched.plan.nodes.clone() {
        keepers.spawn(keep(launched.clone(), node, ending.clone()));
    }
    drop(ending);
    let outcome = launched.watch(&mut child, &mut keepers, &mut asked).await;
    drop(child);
    if outcome == Outcome::Interrupted {
        // Their keepers' children are killed as they are dropped.
        keepers.shutdown().await;
        return Ok(outcome);
    }
    let _ = end.send(true);
    loop {
        tokio::select! {
            ended = keepers.join_next() => if ended.is_none() { break },
            // A first one may have ended the head.
            () = asked.next() => if asked.times > 1 {
                keepers.shutdown().await;
                return Ok(Outcome::Interrupted);
            },
        }
    }
    Ok(outcome)
}

impl Launched {
    fn say(&self, text: String) {
        (self.tell)(Told::Err(text));
    }

    fn stop_limit(&self) -> Duration {
        Duration::from_secs(self.config.launch.stop_s)
    }

    /// Until the head has ended.
    async fn watch(&self, head: &mut Child, keepers: &mut JoinSet<(Role, Kept)>, asked: &mut Asked) -> Outcome {
        let executors = |plan: &Plan| plan.nodes.iter().filter(|n| n.role == Role::Executor).count();
        let mut working = executors(&self.plan);
        loop {
            tokio::select! {
                status = head.wait() => return outcome_of(status.ok()),
                () = asked.next() => {
                    self.say(format!("stopping: the head has {} s for its checkpoint (once more to end at once)", self.config.launch.stop_s));
                    return self.stop(head, asked).await;
                }
                Some(kept) = keepers.join_next() => {
                    // One that rests has been drained: that was somebody's will, and others may join.
                    let Ok((Role::Executor, kept)) = kept else { continue };
                    working -= 1;
                    if kept == Kept::GivenUp && working == 0 && self.config.executor.workers == 0 {
                        self.say("no node is left to evaluate candidates, and the head has no executors: stopping".into());
                        return match self.stop(head, asked).await {
                            Outcome::Head(130) => Outcome::NoNodes,
                            other => other,
                        };
                    }
                }
            }
        }
    }

    /// The head writes its checkpoint, or is killed.
    async fn stop(&self, head: &mut Child, asked: &mut Asked) -> Outcome {
        head.signal(Signal::INT);
        tokio::select! {
            status = head.wait_for(self.stop_limit() + MARGIN) => {
                if status.is_some() {
                    return outcome_of(status);
                }
            }
            () = asked.next() => {
                head.kill_group();
                let _ = head.wait_for(LAST_CALL).await;
                return Outcome::Interrupted;
            }
        }
        self.say(format!("the head has not ended within {} s of being asked; it is killed", self.config.launch.stop_s));
        head.kill_group();
        let _ = head.wait_for(LAST_CALL).await;
        Outcome::HeadKilled
    }

    fn command(&self, part: &Part) -> Result<Command, UserError> {
        match part.place {
            Place::Host(_) => ssh::command(&self.config, part),
            _ => Ok(command_of(part)),
        }
    }
}

fn outcome_of(status: Option<ExitStatus>) -> Outcome {
    match status.and_then(|status| status.code()) {
        Some(code) => Outcome::Head(code as u8),
        None => Outcome::HeadKilled,
    }
}

fn command_of(part: &Part) -> Command {
    let mut command = Command::new(&part.program);
    command.args(&part.args);
    command
}

/// One node's life after life, until the launch ends, it rests, or it is given up.
async fn keep(launched: Arc<Launched>, part: Part, mut ending: watch::Receiver<bool>) -> (Role, Kept) {
    let role = part.role;
    let mut restarts = Restarts::new(launched.config.launch.restarts);
    loop {
        let began = Instant::now();
        let (code, how) = match live(&launched, &part, &mut ending).await {
            Ok(None) => return (role, Kept::Rests),
            Ok(Some(status)) => (status.code(), status.to_string()),
            Err(error) => (Some(2), error.to_string()),
        };
        let pause = match restarts.ended(code, began.elapsed()) {
            Next::Rest => {
                launched.say(format!("{} has left", part.name));
                return (role, Kept::Rests);
            }
            Next::GiveUp => {
                let times = launched.config.launch.restarts;
                launched
                    .say(format!("{} ended again ({how}); it is given up after {times} restarts in a row", part.name));
                return (role, Kept::GivenUp);
            }
            Next::Again(pause) => pause,
        };
        launched.say(format!("{} ended ({how}); it is started again in {} s", part.name, pause.as_secs()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = ended(&mut ending) => return (role, Kept::Rests),
        }
    }
}

/// One life. `None`: it was ended because everything ends.
async fn live(
    launched: &Launched,
    part: &Part,
    ending: &mut watch::Receiver<bool>,
) -> Result<Option<ExitStatus>, UserError> {
    if let (Place::Host(_), true) = (&part.place, launched.config.launch.ssh_tunnel) {
        tokio::select! {
            () = listening(&launched.config) => {}
            () = ended(ending) => return Ok(None),
        }
    }
    let command = launched.command(part)?;
    let program = command.get_program().to_owned();
    let started = Child::start(command, &part.name, Some(launched.cookie.text()), false, &launched.tell).await;
    let mut child = started.map_err(|e| UserError::io("start a node", std::path::Path::new(&program), &e))?;
    tokio::select! {
        status = child.wait() => {
            return status.map(Some).map_err(|e| UserError::new("a node cannot be waited for").found(e));
        }
        () = ended(ending) => {}
    }
    child.untie();
    if child.wait_for(launched.stop_limit() + MARGIN).await.is_none() {
        launched.say(format!("{} has not ended within {} s; it is killed", part.name, launched.config.launch.stop_s));
        child.signal(Signal::TERM);
        if child.wait_for(LAST_CALL).await.is_none() {
            child.kill_group();
            let _ = child.wait_for(LAST_CALL).await;
        }
    }
    Ok(None)
}

/// Until the head listens. A tunnel takes connections before that, and ends them: a node would hold itself to be refused. Asked at the
/// side channel, where a connection without a request is no stranger. The launch, which ends with the head, is the limit.
async fn listening(config: &Config) {
    let here = config.cluster.here();
    let host = here.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host).to_string();
    let address = format!("{host}:{}", config.cluster.side_port());
    loop {
        let dialled = tokio::time::timeout(LAST_CALL, tokio::net::TcpStream::connect(&address)).await;
        if matches!(dialled, Ok(Ok(_))) {
            return;
        }
        tokio::time::sleep(ONE_WISH).await;
    }
}

/// Until everything is to end.
async fn ended(ending: &mut watch::Receiver<bool>) {
    // An error: whoever would say so is gone.
    let _ = ending.wait_for(|end| *end).await;
}

/// Ctrl-C, or the signal that a service manager sends, and how often.
struct Asked {
    interrupt: Signals,
    terminate: Signals,
    times: u32,
    last: Option<Instant>,
}

impl Asked {
    fn new() -> std::io::Result<Asked> {
        Ok(Asked {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            times: 0,
            last: None,
        })
    }

    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
            if self.last.is_none_or(|last| last.elapsed() > ONE_WISH) {
                self.last = Some(Instant::now());
                self.times += 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Planted: `side_port` without `bulk_port`. Seen: it waits for another port.
    #[tokio::test]
    async fn a_tunnel_waits_for_the_heads_side_channel() {
        let hold = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = hold.local_addr().unwrap().port();
        let mut config = Config::builtin().unwrap();
        (config.cluster.listen, config.cluster.bulk_port) = ("0.0.0.0:1".into(), port);
        drop(hold);
        let waiting = listening(&config);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "nobody listens yet");
        let _head = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
    }
}
