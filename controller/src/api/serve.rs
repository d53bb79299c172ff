//! Where the API listens: TCP addresses and unix sockets, one server each, all with the same services.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_proto::v1::agent_service_server::AgentServiceServer;
use causeway_proto::v1::config_service_server::ConfigServiceServer;
use causeway_proto::v1::fabric_service_server::FabricServiceServer;
use causeway_proto::v1::history_service_server::HistoryServiceServer;
use causeway_proto::v1::ipam_service_server::IpamServiceServer;
use causeway_proto::v1::move_service_server::MoveServiceServer;
use causeway_proto::v1::port_service_server::PortServiceServer;
use causeway_proto::v1::ready_service_server::ReadyServiceServer;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::{App, agent, config, fabric, history, ipam, moves, port, ready};
use crate::config::{Listen, Tls};

/// Largest request taken, in bytes: a thousand ports with labels have less than one megabyte.
const LARGEST_REQUEST: usize = 8 << 20;
/// Calls of one connection that are worked on at once; more wait.
const CALLS_PER_CONNECTION: usize = 1024;
/// Streams of one connection.
const STREAMS_PER_CONNECTION: u32 = 4096;
/// A silent connection is found dead after the sum of both.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// HTTP/2 window of a stream and of a connection: a state of a hundred thousand workloads goes through it.
const WINDOW: (u32, u32) = (1 << 20, 4 << 20);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error("listen for gRPC on {listen}")]
    Listen {
        /// As configured.
        listen: Listen,
        /// What the kernel said.
        source: io::Error,
    },
    /// A TLS file cannot be read.
    #[error("read TLS file {path}")]
    TlsFile {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The transport refuses what it is given.
    #[error("gRPC transport")]
    Transport(#[source] tonic::transport::Error),
}

/// A bound address.
#[derive(Debug)]
pub(crate) enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, and its path.
    Unix(UnixListener, PathBuf),
}

/// Binds all addresses. Nothing is accepted yet.
pub(crate) async fn bind(listen: &[Listen]) -> Result<Vec<Listener>, ServeError> {
    let mut listeners = Vec::new();
    for listen in listen {
        let failed = |source| ServeError::Listen { listen: listen.clone(), source };
        listeners.push(match listen {
            Listen::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await.map_err(failed)?),
            Listen::Unix(path) => Listener::Unix(bind_unix(path).await.map_err(failed)?, path.clone()),
        });
    }
    Ok(listeners)
}

/// Binds a unix socket. One that nobody serves any more is replaced, one that is served is not.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        tokio::fs::create_dir_all(directory).await?;
    }
    match tokio::fs::symlink_metadata(path).await {
        Ok(known) if known.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
            }
            tokio::fs::remove_file(path).await?;
        }
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Who may open the socket may do everything: the owner and the group.
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).await?;
    Ok(listener)
}

impl Listener {
    /// Where it listens: the real port where 0 was asked.
    pub(crate) fn address(&self) -> Option<Listen> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
            Listener::Unix(_, path) => Some(Listen::Unix(path.clone())),
        }
    }
}

/// TLS as the transport wants it.
pub(crate) async fn tls_config(tls: &Tls) -> Result<ServerTlsConfig, ServeError> {
    let read = async |path: &PathBuf| {
        tokio::fs::read(path).await.map_err(|source| ServeError::TlsFile { path: path.clone(), source })
    };
    let identity = Identity::from_pem(read(&tls.cert).await?, read(&tls.key).await?);
    let config = ServerTlsConfig::new().identity(identity);
    Ok(match &tls.client_ca {
        Some(path) => config.client_ca_root(Certificate::from_pem(read(path).await?)),
        None => config,
    })
}

/// All services, health and reflection included.
pub(crate) async fn routes(app: &App) -> Result<Routes, tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<PortServiceServer<port::Service>>().await;
    reporter.set_serving::<ConfigServiceServer<config::Service>>().await;
    reporter.set_serving::<FabricServiceServer<fabric::Service>>().await;
    reporter.set_serving::<HistoryServiceServer<history::Service>>().await;
    reporter.set_serving::<IpamServiceServer<ipam::Service>>().await;
    reporter.set_serving::<AgentServiceServer<agent::Service>>().await;
    reporter.set_serving::<ReadyServiceServer<ready::Service>>().await;
    reporter.set_serving::<MoveServiceServer<moves::Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(causeway_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let ports = PortServiceServer::new(port::Service(app.clone())).max_decoding_message_size(LARGEST_REQUEST);
    let config =
        ConfigServiceServer::new(config::Service(app.clone())).max_decoding_message_size(LARGEST_REQUEST);
    let fabric =
        FabricServiceServer::new(fabric::Service(app.clone())).max_decoding_message_size(LARGEST_REQUEST);
    let history =
        HistoryServiceServer::new(history::Service(app.clone())).max_decoding_message_size(LARGEST_REQUEST);
    let books = IpamServiceServer::new(ipam::Service(app.clone())).max_decoding_message_size(LARGEST_REQUEST);
    let agents =
        AgentServiceServer::new(agent::Service(app.clone())).max_decoding_message_size(LARGEST_REQUEST);
    let waits =
        ReadyServiceServer::new(ready::Service(app.clone())).max_decoding_message_size(LARGEST_REQUEST);
    let moves =
        MoveServiceServer::new(moves::Service(app.clone())).max_decoding_message_size(LARGEST_REQUEST);
    Ok(Routes::new(health)
        .add_service(reflection)
        .add_service(ports)
        .add_service(config)
        .add_service(fabric)
        .add_service(waits)
        .add_service(agents)
        .add_service(history)
        .add_service(books)
        .add_service(moves))
}

/// Serves one address until `cancel`; then open calls are finished and no new ones taken.
pub(crate) async fn serve(
    listener: Listener,
    routes: Routes,
    tls: Option<ServerTlsConfig>,
    cancel: CancellationToken,
) -> Result<(), ServeError> {
    let mut server = Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(PING.0))
        .http2_keepalive_timeout(Some(PING.1))
        .initial_stream_window_size(WINDOW.0)
        .initial_connection_window_size(WINDOW.1);
    let served = match listener {
        Listener::Tcp(listener) => {
            if let Some(tls) = tls {
                server = server.tls_config(tls).map_err(ServeError::Transport)?;
            }
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.add_routes(routes).serve_with_incoming_shutdown(incoming, cancel.cancelled()).await
        }
        Listener::Unix(listener, path) => {
            let incoming = UnixListenerStream::new(listener);
            let router = server.add_routes(routes);
            let served = router.serve_with_incoming_shutdown(incoming, cancel.cancelled()).await;
            // Gone already is fine.
            let _ = tokio::fs::remove_file(&path).await;
            served
        }
    };
    served.map_err(ServeError::Transport)
}
