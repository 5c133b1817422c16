//! The run as the head of a cluster, where `cluster.listen` says so.

use std::sync::Arc;
use std::time::Duration;

use rollout::task::TaskSpec;

use crate::cluster::kit::Work;
use crate::cluster::{Cookie, Head, HeadConfig, Kit};
use crate::config::Config;
use crate::observe::{Observer, Progress};
use crate::run::RunError;
use crate::store::rows::Op;
use crate::store::{Reader, StoreError, StoreHandle};

/// The store's key of the last epoch in which nodes were taken in.
const EPOCH: &str = "cluster_epoch";
const FLUSH: Duration = Duration::from_secs(60);

/// One more than the last process of this run had; 0 where nobody can join.
pub fn next_epoch(config: &Config, reader: &Reader) -> Result<u64, StoreError> {
    if !config.cluster.is_on() {
        return Ok(0);
    }
    let last = reader.meta(EPOCH)?.and_then(|text| text.parse::<u64>().ok());
    Ok(last.unwrap_or(0) + 1)
}

/// Listens, if the run file says so. The epoch is durable before the first node can hear it.
pub fn start(
    config: &Config,
    tasks: &[TaskSpec],
    secret: [u8; 32],
    epoch: u64,
    store: &StoreHandle,
    observer: &Arc<dyn Observer>,
) -> Result<Option<Head>, RunError> {
    let cluster = &config.cluster;
    if !cluster.is_on() {
        return Ok(None);
    }
    store.send(vec![Op::Meta { key: EPOCH, value: epoch.to_string() }])?;
    store.flush(FLUSH)?;
    let kit = Kit {
        work: Work::Sandbox { config: config.to_toml(), secret },
        tasks: tasks.to_vec(),
        deadline_ms: config.rollout.execute_deadline_s * 1000,
        executors: config.executor.workers.max(1) as u32,
    };
    let head = Head::start(HeadConfig {
        listen: cluster.listen.clone(),
        bulk_port: cluster.bulk_port,
        cookie: Cookie::find(cluster)?,
        epoch,
        beat: cluster.beat(),
        limit: cluster.max_message_bytes,
        kit,
        observer: observer.clone(),
    })?;
    observer.on(Progress::Note(format!("nodes can join at {} (`troupe join`, epoch {epoch})", cluster.listen)));
    Ok(Some(head))
}
