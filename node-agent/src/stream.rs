//! The stream to the controller: one session at a time, with the first controller that answers. The data plane does not
//! depend on it: without a controller the agent goes on with the last state it has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::v1;
use causeway_proto::v1::agent_service_client::AgentServiceClient;
use causeway_proto::v1::{agent_message, controller_message};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use crate::config::Tls;
use crate::journal::{Journal, JournalError};
use crate::reconcile::Command;

/// How long a connection attempt and the first answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// First and longest wait between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// The same when the controller says no: mostly a person must act first.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// A state of 100,000 remote MACs has about 6 MB.
const LARGEST_MESSAGE: usize = 512 * 1024 * 1024;

/// Who the agent is and whom it listens to.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node's name.
    pub node: String,
    /// Id of this installation.
    pub instance_id: String,
    /// Controllers, as in the configuration.
    pub controllers: Vec<String>,
    /// TLS towards them.
    pub tls: Option<Tls>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("{0}")]
    Address(String),
    #[error("connect: {0}")]
    Connect(#[source] tonic::transport::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("{:?}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("the controller closed the stream")]
    Closed,
    #[error("the controller sent the state of node '{theirs}', this is '{ours}'")]
    WrongNode { theirs: String, ours: String },
    #[error("the controller sent a delta before a snapshot")]
    DeltaFirst,
}

impl SessionError {
    /// The controller knows no such node.
    fn is_undeclared(&self) -> bool {
        matches!(self, SessionError::Status(status) if status.code() == Code::NotFound)
    }

    /// The controller, or the configuration, says no: trying faster does not help.
    fn is_refusal(&self) -> bool {
        match self {
            SessionError::Status(status) => matches!(
                status.code(),
                Code::NotFound
                    | Code::AlreadyExists
                    | Code::InvalidArgument
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::Unimplemented
                    | Code::FailedPrecondition
            ),
            SessionError::WrongNode { .. } | SessionError::Address(_) => true,
            _ => false,
        }
    }
}

/// The endpoint of a controller's address.
pub fn endpoint(address: &str, tls: Option<&Tls>) -> Result<Endpoint, String> {
    let uri = match address {
        _ if address.starts_with("http://") || address.starts_with("https://") => address.to_owned(),
        _ => match address.strip_prefix("unix:") {
            Some(path) if path.trim_start_matches("//").starts_with('/') => {
                format!("unix://{}", path.strip_prefix("//").unwrap_or(path))
            }
            Some(_) => return Err("a socket needs an absolute path, as in unix:/run/x.sock".into()),
            None if address.contains("://") => return Err("is not http, https or unix".into()),
            None => format!("http://{address}"),
        },
    };
    let secure = uri.starts_with("https://");
    let mut endpoint = Endpoint::from_shared(uri).map_err(|e| e.to_string())?;
    match tls {
        Some(tls) if secure => {
            endpoint = endpoint.tls_config(client_tls(tls)?).map_err(|e| e.to_string())?;
        }
        None if secure => return Err("https needs tls.ca, the CA file to check the controller with".into()),
        _ => {}
    }
    Ok(endpoint
        .connect_timeout(PATIENCE)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(Some(8 << 20))
        .initial_connection_window_size(Some(16 << 20)))
}

fn client_tls(tls: &Tls) -> Result<ClientTlsConfig, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("read {}: {e}", path.display()));
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        config = config.identity(tonic::transport::Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(config)
}

/// What goes over the stream besides the node's state and what became of it.
#[derive(Debug)]
pub struct Side {
    /// What the controller says.
    pub notices: mpsc::Sender<Notice>,
    /// What to say to it; lost while there is no session.
    pub messages: mpsc::Receiver<agent_message::Message>,
}

/// News for the other end of a [`Side`].
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A session began.
    Up,
    /// The controller said something that is neither snapshot nor delta.
    Said(Box<controller_message::Message>),
    /// The session ended.
    Down,
}

/// The client side of the stream.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    /// `None`: nothing is kept (dry run).
    journal: Option<Journal>,
    revision: u64,
    commands: mpsc::Sender<Command>,
    statuses: mpsc::Receiver<v1::AgentStatus>,
    side: Option<Side>,
    last_error: Option<String>,
}

impl Client {
    /// One that is not connected. `revision` is that of the state on disk, 0 for none.
    pub fn new(
        identity: Identity,
        journal: Option<Journal>,
        revision: u64,
        commands: mpsc::Sender<Command>,
        statuses: mpsc::Receiver<v1::AgentStatus>,
    ) -> Self {
        Client { identity, journal, revision, commands, statuses, side: None, last_error: None }
    }

    /// The same, with somebody for all else that the controller says.
    #[must_use]
    pub fn with_side(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    async fn notify(&self, notice: Notice) {
        if let Some(side) = &self.side {
            // Nobody there means that the agent ends.
            let _ = side.notices.send(notice).await;
        }
    }

    /// Connects, and connects again, until cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0_u32;
        let mut was_refused = false;
        let mut turn = 0_usize;
        loop {
            let controllers = &self.identity.controllers;
            let Some(address) = controllers.get(turn % controllers.len().max(1)).cloned() else { return };
            let mut good = false;
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.session(&address, &mut good) => ended,
            };
            if good {
                self.notify(Notice::Down).await;
                failures = 0;
                self.last_error = None;
            }
            let Err(error) = ended else { return };
            self.log_once(&address, &error, good);
            turn += 1;
            // A refusal after a failed connection, or the other way round, begins anew.
            failures = if error.is_refusal() == was_refused { failures.saturating_add(1) } else { 0 };
            was_refused = error.is_refusal();
            let round = failures / self.identity.controllers.len().max(1) as u32;
            let (first, longest) = if error.is_refusal() { REFUSED } else { BACKOFF };
            let wait = first.saturating_mul(1 << round.min(16)).min(longest);
            let wait = wait.mul_f64(rand::random_range(0.75..=1.25));
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// The same refusal over and over is one line.
    fn log_once(&mut self, controller: &str, error: &SessionError, was_good: bool) {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error).and_then(std::error::Error::source);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        let known = self.last_error.as_ref() == Some(&text);
        match (known, error.is_refusal()) {
            (true, _) => tracing::debug!(%controller, error = %text, "still no session"),
            // Usual while a site is set up: the agent may come before its node is declared.
            (false, true) if error.is_undeclared() => {
                tracing::warn!(%controller, node = %self.identity.node, error = %text, "waiting to be declared");
            }
            (false, true) => tracing::error!(
                %controller, node = %self.identity.node, error = %text,
                "refused; check the node's name and that no other agent claims it"
            ),
            (false, false) if was_good => {
                tracing::warn!(%controller, error = %text, "session lost, data plane stays");
            }
            (false, false) => tracing::warn!(%controller, error = %text, "no session, data plane stays"),
        }
        self.last_error = Some(text);
    }

    async fn session(&mut self, address: &str, good: &mut bool) -> Result<(), SessionError> {
        let endpoint = endpoint(address, self.identity.tls.as_ref()).map_err(SessionError::Address)?;
        let channel = match timeout(PATIENCE, endpoint.connect()).await {
            Ok(connected) => connected.map_err(SessionError::Connect)?,
            Err(_) => return Err(SessionError::Silent),
        };
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let (out, outgoing) = mpsc::channel(64);
        let hello = v1::AgentHello {
            node: self.identity.node.clone(),
            instance_id: self.identity.instance_id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            revision: self.revision,
        };
        let send = |message| v1::AgentMessage { message: Some(message) };
        // The channel is new and has room.
        let _ = out.try_send(send(agent_message::Message::Hello(hello)));
        let opened = timeout(PATIENCE, client.session(ReceiverStream::new(outgoing))).await;
        let mut incoming = match opened {
            Ok(opened) => opened.map_err(|s| SessionError::Status(Box::new(s)))?.into_inner(),
            Err(_) => return Err(SessionError::Silent),
        };
        // What was meant for an earlier listener; the new one asks for all.
        while self.statuses.try_recv().is_ok() {}
        while self.side.as_mut().is_some_and(|side| side.messages.try_recv().is_ok()) {}
        loop {
            tokio::select! {
                message = incoming.message() => {
                    let message = message.map_err(|s| SessionError::Status(Box::new(s)))?;
                    let message = message.and_then(|m| m.message).ok_or(SessionError::Closed)?;
                    if !self.take(address, message, good).await? {
                        return Ok(());
                    }
                }
                status = self.statuses.recv() => {
                    let Some(status) = status else { return Ok(()) };
                    if *good && out.send(send(agent_message::Message::Status(status))).await.is_err() {
                        return Err(SessionError::Closed);
                    }
                }
                message = next_message(&mut self.side) => {
                    if *good && out.send(send(message)).await.is_err() {
                        return Err(SessionError::Closed);
                    }
                }
            }
        }
    }

    /// False: nobody takes commands any more.
    async fn take(
        &mut self,
        controller: &str,
        message: controller_message::Message,
        good: &mut bool,
    ) -> Result<bool, SessionError> {
        match message {
            controller_message::Message::Snapshot(state) => {
                if state.node != self.identity.node {
                    let ours = self.identity.node.clone();
                    return Err(SessionError::WrongNode { theirs: state.node, ours });
                }
                let (revision, ports, remotes) = (state.revision, state.ports.len(), state.remotes.len());
                tracing::info!(%controller, rev = revision, ports, remotes, "session up, snapshot received");
                let state = Arc::new(state);
                // The kernel first, then the disk.
                let sent = self.commands.send(Command::Snapshot(Arc::clone(&state))).await.is_ok()
                    && (*good || self.commands.send(Command::ReportAll).await.is_ok());
                if !*good {
                    self.notify(Notice::Up).await;
                }
                *good = true;
                self.revision = revision;
                self.keep(move |journal| journal.write_snapshot(&state)).await;
                Ok(sent)
            }
            controller_message::Message::Delta(_) if !*good => Err(SessionError::DeltaFirst),
            controller_message::Message::Delta(delta) => {
                self.revision = delta.revision;
                let delta = Arc::new(delta);
                let sent = self.commands.send(Command::Delta(Arc::clone(&delta))).await.is_ok();
                self.keep(move |journal| journal.write_delta(&delta)).await;
                Ok(sent)
            }
            other => {
                self.notify(Notice::Said(Box::new(other))).await;
                Ok(true)
            }
        }
    }

    /// A full disk does not stop the data plane; it is said, and the next snapshot tries again.
    async fn keep(&mut self, write: impl FnOnce(&mut Journal) -> Result<(), JournalError> + Send + 'static) {
        let Some(mut journal) = self.journal.take() else { return };
        let written = tokio::task::spawn_blocking(move || {
            let result = write(&mut journal);
            (journal, result)
        });
        match written.await {
            Ok((journal, result)) => {
                self.journal = Some(journal);
                if let Err(error) = result {
                    tracing::error!(%error, "state not kept on disk");
                }
            }
            Err(error) => tracing::error!(%error, "state not kept on disk"),
        }
    }
}

/// Something to say, or never.
async fn next_message(side: &mut Option<Side>) -> agent_message::Message {
    let message = match side {
        Some(side) => side.messages.recv().await,
        None => None,
    };
    match message {
        Some(message) => message,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
