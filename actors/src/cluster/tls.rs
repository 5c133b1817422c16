//! TLS on every port of the cluster, where `cluster.tls_cert`, `tls_key` and `tls_ca` say so.
//!
//! Whoever listens shows a certificate; whoever dials believes only the authority of `tls_ca`, and the name that it dialled. Who may
//! come in is still decided by the cookie. A handshake is awaited beside others and has a deadline: ractor_cluster's own would keep
//! everybody out behind one that is silent, so that connections are taken in here and handed to it when they are encrypted.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::ActorRef;
use ractor_cluster::{NetworkStream, NodeServerMessage};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::crowd::{host, victim};
use crate::config::Cluster;
use crate::errors::UserError;

/// One handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once; one more ends the oldest of the host that has most, so that a flood from one host keeps no other out.
const HANDSHAKES: usize = 64;

/// What this process shows, and whom it believes.
#[derive(Clone)]
pub struct Tls {
    /// Where it listens.
    acceptor: Option<TlsAcceptor>,
    /// Where it dials; and the same authority for HTTP.
    connector: Option<(TlsConnector, Arc<Vec<u8>>)>,
}

impl Tls {
    /// `None` where no key is set.
    ///
    /// # Errors
    /// Files that are missing or are not what they should be, or a certificate without a key.
    pub fn find(config: &Cluster) -> Result<Option<Tls>, UserError> {
        let (cert, key, ca) = config.tls_paths();
        if (cert, key, ca) == (None, None, None) {
            return Ok(None);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let acceptor = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(acceptor(cert, key, provider.clone())?),
            _ => {
                return Err(UserError::new("a certificate and its key belong together")
                    .at("cluster.tls_cert, cluster.tls_key")
                    .found("one of the two")
                    .expected("both, or neither")
                    .hint("whoever listens needs both; whoever only dials needs cluster.tls_ca alone"));
            }
        };
        let connector = ca.map(|ca| connector(ca, provider)).transpose()?;
        Ok(Some(Tls { acceptor, connector }))
    }

    pub fn acceptor(&self) -> Option<&TlsAcceptor> {
        self.acceptor.as_ref()
    }

    /// The authority that is believed, PEM.
    pub fn authority(&self) -> Option<&[u8]> {
        self.connector.as_ref().map(|(_, pem)| pem.as_slice())
    }

    /// Dials `HOST:PORT` for ractor_cluster; `None` where this process believes no authority, and dials without TLS.
    ///
    /// # Errors
    /// No connection, or not that host: in words.
    pub async fn dial(&self, address: &str) -> Option<Result<NetworkStream, String>> {
        let (connector, _) = self.connector.as_ref()?;
        Some(encrypted(connector, address).await)
    }
}

async fn encrypted(connector: &TlsConnector, address: &str) -> Result<NetworkStream, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_string()).map_err(|e| format!("{host}: {e}"))?;
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (peer_addr, local_addr) = ends(&stream).map_err(|e| e.to_string())?;
    let stream = connector.connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
    Ok(NetworkStream::TlsClient { peer_addr, local_addr, stream })
}

fn ends(stream: &TcpStream) -> std::io::Result<(SocketAddr, SocketAddr)> {
    Ok((stream.peer_addr()?, stream.local_addr()?))
}

/// Takes connections in for ractor_cluster until the task is dropped; `refused` is told of each that was no TLS.
pub async fn welcome(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    server: ActorRef<NodeServerMessage>,
    refused: impl Fn(SocketAddr, String) + Clone + Send + 'static,
) {
    let mut handshakes = tokio::task::JoinSet::new();
    // Those that may still be silent.
    let mut here: Vec<(tokio::task::AbortHandle, SocketAddr, Instant)> = Vec::new();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the cluster's port cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while handshakes.try_join_next().is_some() {}
        here.retain(|(task, ..)| !task.is_finished());
        let others = here.iter().enumerate().map(|(n, (_, from, since))| (n, host(from.ip()), *since));
        if let Some(n) = victim(others, HANDSHAKES - 1) {
            let (task, from, _) = here.remove(n);
            task.abort();
            refused(from, "too many connections without a handshake".into());
        }
        let (acceptor, server, refused) = (acceptor.clone(), server.clone(), refused.clone());
        let task = handshakes.spawn(async move {
            let handshake = async {
                stream.set_nodelay(true)?;
                let (peer_addr, local_addr) = ends(&stream)?;
                let stream = acceptor.accept(stream).await?;
                Ok::<_, std::io::Error>(NetworkStream::TlsServer { peer_addr, local_addr, stream })
            };
            match tokio::time::timeout(HANDSHAKE, handshake).await {
                Ok(Ok(stream)) => {
                    let opened = NodeServerMessage::ConnectionOpened { stream: Box::new(stream), is_server: true };
                    let _ = server.cast(opened);
                }
                Ok(Err(error)) => refused(from, error.to_string()),
                Err(_) => refused(from, format!("no handshake within {} s", HANDSHAKE.as_secs())),
            }
        });
        here.push((task, from, Instant::now()));
    }
}

fn unusable(key: &str, path: &Path, found: impl std::fmt::Display, expected: &str) -> UserError {
    UserError::new("the cluster's TLS cannot be set up")
        .at(format!("cluster.{key} = {}", path.display()))
        .found(found)
        .expected(expected)
        .hint("docs/cluster.md has the openssl commands that make an authority and a certificate")
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, UserError> {
    let expected = "PEM with at least one CERTIFICATE";
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(|found| found.collect());
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(unusable(key, path, "none", expected)),
        Err(error) => Err(unusable(key, path, error, expected)),
    }
}

fn acceptor(cert: &Path, key: &Path, provider: Arc<CryptoProvider>) -> Result<TlsAcceptor, UserError> {
    let chain = certificates("tls_cert", cert)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| unusable("tls_key", key, e, "PEM with the private key of cluster.tls_cert"))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|e| unusable("tls_cert", cert, e, "a certificate that cluster.tls_key belongs to"))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector(ca: &Path, provider: Arc<CryptoProvider>) -> Result<(TlsConnector, Arc<Vec<u8>>), UserError> {
    let expected = "PEM with the certificate of the authority that signed the head's";
    let mut roots = RootCertStore::empty();
    for authority in certificates("tls_ca", ca)? {
        roots.add(authority).map_err(|e| unusable("tls_ca", ca, e, expected))?;
    }
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable("tls_ca", ca, e, expected))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let pem = std::fs::read(ca).map_err(|e| UserError::io("read `cluster.tls_ca`", ca, &e))?;
    Ok((TlsConnector::from(Arc::new(config)), Arc::new(pem)))
}
