//! A head's parts in their own threads: gateway, ractor_cluster's server, side channel. They live as long as the `Head`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ractor::Actor as _;
use ractor_cluster::node::NodeConnectionMode;
use ractor_cluster::{NodeServer, NodeServerMessage};
use tokio::runtime::Runtime;

use super::generators::{Generating, Source};
use super::{HeadArgs, HeadGateway, HeadMsg, Refusals};
use crate::cluster::Link;
use crate::cluster::bulk;
use crate::cluster::cookie::Cookie;
use crate::cluster::kit::Kit;
use crate::cluster::peer::FRAME_SLACK;
use crate::cluster::recipe::Recipe;
use crate::cluster::session::{Watcher, node_name};
use crate::cluster::shelf::Shelf;
use crate::cluster::tls;
use crate::cluster::weights::small_files;
use crate::cluster::wire::{Beat, NodeRow};
use crate::errors::UserError;
use crate::observe::Observer;

/// For the nodes to hear the last words and hang up, and for each part of the head to end.
const LET_GO: Duration = Duration::from_secs(5);
/// One answer of the gateway.
const ANSWER: Duration = Duration::from_secs(5);
/// A gateway that keeps dying is not started again.
const GATEWAYS: u32 = 5;

/// What a head is made of.
pub struct HeadConfig {
    /// `HOST:PORT`.
    pub listen: String,
    /// 0: the port after.
    pub bulk_port: u16,
    pub cookie: Cookie,
    /// Counts up with every start of the same run.
    pub epoch: u64,
    pub beat: Beat,
    /// Bytes of one message.
    pub limit: usize,
    pub kit: Kit,
    pub observer: Arc<dyn Observer>,
}

/// A running head.
pub struct Head {
    runtime: Runtime,
    link: Link,
    shelf: Arc<Shelf>,
    server: ractor::ActorRef<NodeServerMessage>,
    keeper: tokio::task::JoinHandle<()>,
}

impl Head {
    /// Listens, and takes nodes in from now on.
    ///
    /// # Errors
    /// An address that is not of this machine, or a port that is taken.
    pub fn start(config: HeadConfig) -> Result<Head, UserError> {
        Head::start_with(config, None)
    }

    /// As [`Head::start`]; generators may join as well. The recipe's files are filled in here, from the folder `policy`.
    ///
    /// # Errors
    /// As [`Head::start`], or a folder that cannot be read.
    pub fn start_with(config: HeadConfig, generating: Option<(Generating, &Path)>) -> Result<Head, UserError> {
        let complain = |what: &str, found: String| {
            UserError::new(format!("the cluster's {what} cannot be opened"))
                .at(format!("cluster.listen = {:?}, cluster.bulk_port = {}", config.listen, config.bulk_port))
                .found(found)
                .expected("an address of this machine and two free ports")
                .hint("`ss -ltnp` shows who holds a port; set cluster.bulk_port where the next port is taken")
        };
        let address: SocketAddr = config
            .listen
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next())
            .ok_or_else(|| complain("port", "no such address".into()))?;
        let bulk_port = match config.bulk_port {
            0 => address.port().checked_add(1).ok_or_else(|| complain("side channel", "no port after it".into()))?,
            port => port,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("cluster")
            .enable_all()
            .build()
            .map_err(|e| complain("threads", e.to_string()))?;
        let shelf = Arc::<Shelf>::default();
        let kit = serde_json::to_vec(&config.kit).map_err(|e| complain("kit", e.to_string()))?;
        let places = generating.as_ref().map(|(generating, _)| generating.places_here);
        let source = generating.map(|(generating, policy)| offered(generating, policy, &shelf)).transpose()?;
        let args = HeadArgs {
            link: places.map_or_else(Link::default, Link::with_generators),
            epoch: config.epoch,
            beat: config.beat,
            evaluation_ms: config.kit.deadline_ms,
            limit: config.limit,
            bulk_port,
            kit: shelf.put(kit),
            source,
            shelf: shelf.clone(),
            observer: config.observer.clone(),
        };
        let link = args.link.clone();
        let (server, keeper) = runtime.block_on(async {
            let side = SocketAddr::new(address.ip(), bulk_port);
            let listener = tokio::net::TcpListener::bind(side).await;
            let listener = listener.map_err(|e| complain("side channel", format!("{side}: {e}")))?;
            tokio::spawn(bulk::serve(listener, shelf.clone(), config.cookie.clone()));
            let acceptor = config.cookie.tls().and_then(|tls| tls.acceptor()).cloned();
            let (bind, port) = match &acceptor {
                None => (address.ip(), address.port()),
                // Ours is the port that is known; ractor_cluster's own is on the loopback and nobody is told of it.
                Some(_) => (IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            };
            let server = NodeServer::new(
                port,
                config.cookie.text().to_string(),
                node_name(0),
                "head".into(),
                None,
                Some(NodeConnectionMode::Isolated),
            )
            .with_listen_addr(bind)
            .with_max_inbound_frame_size(config.limit as u64 + FRAME_SLACK);
            let started = NodeServer::spawn(None, server, ()).await;
            let (server, _) = started.map_err(|e| complain("port", format!("{address}: {e}")))?;
            if let Some(acceptor) = acceptor {
                let listener = tokio::net::TcpListener::bind(address).await;
                let listener = listener.map_err(|e| complain("port", format!("{address}: {e}")))?;
                let link = args.link.clone();
                let refused = move |from, why| {
                    if let Some(gateway) = link.gateway() {
                        let _ = gateway.cast(HeadMsg::NoTls(format!("a connection from {from}: {why}")));
                    }
                };
                tokio::spawn(tls::welcome(listener, acceptor, server.clone(), refused));
            }
            let gateway = HeadGateway::spawn(None, HeadGateway, args.clone()).await;
            let first = gateway.map_err(|e| complain("gateway", e.to_string()))?;
            let keeper = tokio::spawn(keep(first, args, server.clone()));
            Ok((server, keeper))
        })?;
        Ok(Head { runtime, link, shelf, server, keeper })
    }

    /// For the pool.
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// What nodes can fetch.
    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// Who is here.
    pub fn rows(&self) -> Vec<NodeRow> {
        self.ask(HeadMsg::Rows).unwrap_or_default()
    }

    /// What was turned away.
    pub fn refusals(&self) -> Refusals {
        self.ask(HeadMsg::Refusals).unwrap_or_default()
    }

    fn ask<T: Send + 'static>(&self, question: impl FnOnce(ractor::RpcReplyPort<T>) -> HeadMsg) -> Option<T> {
        let gateway = self.link.gateway()?;
        match self.runtime.block_on(gateway.call(question, Some(ANSWER))) {
            Ok(ractor::rpc::CallResult::Success(answer)) => Some(answer),
            _ => None,
        }
    }

    /// Ends. `over`: the nodes are told to go; otherwise they wait for the run to be resumed.
    pub fn finish(self, over: bool) {
        self.keeper.abort();
        self.runtime.block_on(async {
            let gateway = self.link.gateway();
            if let Some(gateway) = gateway.as_ref().filter(|_| over) {
                // One that did not hear it would look for a head that is gone.
                let _ = gateway.call(HeadMsg::Dismiss, Some(LET_GO)).await;
            }
            // In order, so that process groups forget them.
            if let Some(gateway) = gateway {
                let _ = gateway.stop_and_wait(None, Some(LET_GO)).await;
            }
            let _ = self.server.stop_and_wait(None, Some(LET_GO)).await;
        });
        self.runtime.shutdown_timeout(LET_GO);
    }
}

/// The recipe and its files on the shelf.
fn offered(generating: Generating, policy: &Path, shelf: &Shelf) -> Result<Source, UserError> {
    let unreadable = |e: &std::io::Error| UserError::io("read the policy for generators", policy, e);
    let files = small_files(policy, shelf).map_err(|e| unreadable(&e))?;
    let Generating { recipe, press, sample_ms, vocab, .. } = generating;
    let max_new_tokens = recipe.max_new_tokens;
    let recipe = serde_json::to_vec(&Recipe { files, ..recipe }).map_err(|e| unreadable(&e.into()))?;
    Ok(Source { recipe: shelf.put(recipe), press, sample_ms, vocab, max_new_tokens })
}

type Running = (ractor::ActorRef<HeadMsg>, ractor::concurrency::JoinHandle<()>);

/// Starts another gateway when one dies.
async fn keep(mut running: Running, args: HeadArgs, server: ractor::ActorRef<NodeServerMessage>) {
    for _ in 0..GATEWAYS {
        let to = running.0.clone();
        let subscription = Box::new(Watcher(move |event| drop(to.cast(HeadMsg::Session(event)))));
        // The same name: the new one takes the place of the old one.
        let _ = server.cast(NodeServerMessage::SubscribeToEvents { id: "gateway".into(), subscription });
        let _ = running.1.await;
        tracing::error!("the cluster's gateway died; a new one starts");
        running = match HeadGateway::spawn(None, HeadGateway, args.clone()).await {
            Ok(running) => running,
            Err(error) => return tracing::error!(%error, "no gateway can be started"),
        };
    }
    tracing::error!("the cluster's gateway keeps dying: nobody can join any more");
}
