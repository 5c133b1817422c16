//! `[cluster]`: where nodes may join this run, and how their life is watched.

use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, Settings, check::place};
use crate::cluster::wire::Beat;
use crate::errors::UserError;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `HOST:PORT`; empty: nobody can join.
    pub listen: String,
    /// 0: the next after the port of `listen`.
    pub bulk_port: u16,
    /// Empty: the cookie is in the variable. See [`Cluster::cookie_path`].
    pub cookie_file: PathBuf,
    /// A variable's name, never the cookie itself: the configuration is printed and stored.
    pub cookie_env: String,
    pub heartbeat_ms: u64,
    pub suspect_ms: u64,
    pub dead_ms: u64,
    pub lease_ms: u64,
    pub max_message_bytes: usize,
    pub reconnect_s: u64,
    pub reconnect_pause_ms: u64,
    /// A folder; empty: over the side channel. See [`Cluster::weights_path`].
    pub object_store: PathBuf,
    /// `HOST:PORT`; empty: this node offers nothing to others.
    pub peer_listen: String,
    /// PEM files; empty: no TLS. See [`Cluster::tls_paths`].
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    pub tls_ca: PathBuf,
}

/// The built-in default, for tests and for parts that have no run file.
impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            listen: String::new(),
            bulk_port: 0,
            cookie_file: PathBuf::new(),
            cookie_env: "TROUPE_COOKIE".into(),
            heartbeat_ms: 1000,
            suspect_ms: 3000,
            dead_ms: 5000,
            lease_ms: 10_000,
            max_message_bytes: 64 * 1024,
            reconnect_s: 600,
            reconnect_pause_ms: 5000,
            object_store: PathBuf::new(),
            peer_listen: String::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_ca: PathBuf::new(),
        }
    }
}

impl Cluster {
    pub fn is_on(&self) -> bool {
        !self.listen.is_empty()
    }

    /// Host and port of `listen`.
    pub fn endpoint(&self) -> Option<(&str, u16)> {
        let (host, port) = self.listen.rsplit_once(':')?;
        Some((host, port.parse().ok()?))
    }

    /// True for an address that stands for every interface, which nobody can be told to join at.
    pub fn listens_everywhere(&self) -> bool {
        matches!(self.endpoint(), Some(("0.0.0.0" | "[::]", _)))
    }

    /// `listen` as this machine itself reaches it.
    pub fn here(&self) -> String {
        self.listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
    }

    /// The port of the side channel.
    pub fn side_port(&self) -> u16 {
        match (self.bulk_port, self.endpoint()) {
            (0, Some((_, port))) => port.saturating_add(1),
            (port, _) => port,
        }
    }

    /// The user's cookie file, if one is set.
    pub fn cookie_path(&self) -> Option<&Path> {
        super::set_path(&self.cookie_file)
    }

    /// Certificate, its key, and the authority that is believed.
    pub fn tls_paths(&self) -> (Option<&Path>, Option<&Path>, Option<&Path>) {
        let set = super::set_path;
        (set(&self.tls_cert), set(&self.tls_key), set(&self.tls_ca))
    }

    /// The folder that head and generators share, if one is set.
    pub fn weights_path(&self) -> Option<&Path> {
        super::set_path(&self.object_store)
    }

    pub fn beat(&self) -> Beat {
        Beat {
            period_ms: self.heartbeat_ms,
            suspect_ms: self.suspect_ms,
            dead_ms: self.dead_ms,
            lease_ms: self.lease_ms,
        }
    }
}

/// Address and times have to make sense together.
pub(super) fn check(config: &Config, settings: &Settings) -> Result<(), UserError> {
    let c = &config.cluster;
    if c.is_on() && c.listen.to_socket_addrs().is_err() {
        return Err(UserError::new("the cluster has no address to listen at")
            .at(place(settings, &["cluster.listen"]))
            .found(format!("cluster.listen = {:?}", c.listen))
            .expected("HOST:PORT, for example \"10.0.0.5:7440\", or \"0.0.0.0:7440\" for every interface")
            .hint("an address of this machine: `ip address` lists them"));
    }
    let store = c.object_store.to_string_lossy();
    if store.contains("://") {
        return Err(UserError::new("the shared folder is a URL")
            .at(place(settings, &["cluster.object_store"]))
            .found(format!("cluster.object_store = {store:?}"))
            .expected("a folder that head and generators see")
            .hint("mount the bucket (rclone, s3fs, gcsfuse) and name the folder"));
    }
    let in_order = c.heartbeat_ms < c.suspect_ms && c.suspect_ms < c.dead_ms && c.heartbeat_ms * 2 <= c.lease_ms;
    if in_order {
        return Ok(());
    }
    let keys = ["cluster.heartbeat_ms", "cluster.suspect_ms", "cluster.dead_ms", "cluster.lease_ms"];
    Err(UserError::new("the cluster's times are in no order in which a living node would be kept")
        .at(place(settings, &keys))
        .found(format!(
            "cluster.heartbeat_ms = {}, suspect_ms = {}, dead_ms = {}, lease_ms = {}",
            c.heartbeat_ms, c.suspect_ms, c.dead_ms, c.lease_ms
        ))
        .expected("heartbeat_ms < suspect_ms < dead_ms, and lease_ms of at least twice heartbeat_ms")
        .hint("1000, 3000, 5000 and 10000 are the defaults"))
}
