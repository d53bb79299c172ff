//! Connections to the controllers. Any of several may answer: they share one store.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use causeway_proto::v1::config_service_client::ConfigServiceClient;
use causeway_proto::v1::fabric_service_client::FabricServiceClient;
use causeway_proto::v1::history_service_client::HistoryServiceClient;
use causeway_proto::v1::ipam_service_client::IpamServiceClient;
use causeway_proto::v1::move_service_client::MoveServiceClient;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_proto::v1::ready_service_client::ReadyServiceClient;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use crate::failure::{Exit, Failure};

/// Largest answer accepted, in bytes: a page of 10,000 ports has some megabytes.
const ANSWER_LIMIT: usize = 64 << 20;
/// Longest wait for one controller to accept a connection, so that the next one still gets its turn.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How the reason begins when a connection was there and broke.
const BROKE: &str = "the connection broke";

/// Files for TLS. All empty: plain text.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TlsArgs {
    /// File with the CA certificates (PEM) that the controllers' certificates are checked against
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CAUSEWAY_TLS_CA",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub(crate) tls_ca: Option<PathBuf>,
    /// File with the client certificate (PEM)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CAUSEWAY_TLS_CERT",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// File with the client's key (PEM)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CAUSEWAY_TLS_KEY",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub(crate) tls_key: Option<PathBuf>,
}

/// The controllers, in the order of preference.
#[derive(Debug)]
pub(crate) struct Client {
    servers: Vec<(String, Endpoint)>,
    timeout: Duration,
    /// The server that answered last, and its connection.
    current: Mutex<Option<(usize, Channel)>>,
}

impl Client {
    /// Reads the addresses and files; connects nowhere yet. `servers` is comma-separated.
    pub(crate) fn new(servers: &str, tls: &TlsArgs, timeout: Duration) -> Result<Self, Failure> {
        let config = tls_config(tls)?;
        let names = servers.split(',').map(str::trim).filter(|s| !s.is_empty());
        let servers: Vec<_> = names
            .map(|name| Ok((name.to_owned(), endpoint(name, config.as_ref())?)))
            .collect::<Result<_, Failure>>()?;
        if servers.is_empty() {
            return Err(usage("no server given".into()));
        }
        Ok(Client { servers, timeout, current: Mutex::new(None) })
    }

    /// A client for each server alone.
    pub(crate) fn each(&self) -> impl Iterator<Item = (String, Client)> {
        self.servers.iter().map(|(name, endpoint)| {
            let servers = vec![(name.clone(), endpoint.clone())];
            (name.clone(), Client { servers, timeout: self.timeout, current: Mutex::new(None) })
        })
    }

    /// Sends a request to the first controller that answers. `act` completes "cannot …" in the error.
    pub(crate) async fn call<T>(
        &self,
        act: &str,
        request: impl AsyncFn(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.try_call(&request).await.map_err(|error| self.failure(act, error))
    }

    /// The error of a call in words.
    pub(crate) fn failure(&self, act: &str, error: CallError) -> Failure {
        match error {
            CallError::Unreachable(reasons) => unreachable(&reasons),
            CallError::Refused(status) => Failure::refused(act, &status),
            CallError::Late => Failure::new(
                Exit::Timeout,
                format!("cannot {act}: no answer within {} ms", self.timeout.as_millis()),
            )
            .hint("give it longer with --timeout; causeway version shows which controllers answer"),
        }
    }

    /// Like [`Client::call`], with the error as data.
    pub(crate) async fn try_call<T>(
        &self,
        request: &impl AsyncFn(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, CallError> {
        let deadline = Instant::now() + self.timeout;
        let first = self.current().map_or(0, |(index, _)| index);
        let mut reasons = Vec::new();
        let mut refused = None;
        for turn in 0..self.servers.len() {
            let index = (first + turn) % self.servers.len();
            let channel = match self.connect(index, deadline).await {
                Ok(channel) => channel,
                Err(reason) => {
                    reasons.push((self.servers[index].0.clone(), reason));
                    continue;
                }
            };
            match timeout_at(deadline, request(channel)).await {
                Err(_) => return Err(CallError::Late),
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                // A connection that broke is no answer of the controller. Every request is idempotent, so asking another
                // one after a lost answer is safe.
                Ok(Err(status)) if let Some(reason) = broken(&status) => {
                    self.set_current(None);
                    reasons.push((self.servers[index].0.clone(), reason));
                }
                Ok(Err(status)) if status.code() == Code::Unavailable => {
                    self.set_current(None);
                    refused = Some(status);
                }
                Ok(Err(status)) => return Err(CallError::Refused(Box::new(status))),
            }
        }
        match refused {
            Some(status) => Err(CallError::Refused(Box::new(status))),
            None if Instant::now() >= deadline && reasons.is_empty() => Err(CallError::Late),
            None => Err(CallError::Unreachable(reasons)),
        }
    }

    /// The connection to a server, new or kept.
    async fn connect(&self, index: usize, deadline: Instant) -> Result<Channel, String> {
        if let Some((kept, channel)) = self.current()
            && kept == index
        {
            return Ok(channel);
        }
        let limit = deadline.min(Instant::now() + CONNECT_LIMIT);
        match timeout_at(limit, self.servers[index].1.connect()).await {
            Err(_) => Err("no answer".into()),
            Ok(Err(error)) => Err(root_cause(&error)),
            Ok(Ok(channel)) => {
                self.set_current(Some((index, channel.clone())));
                Ok(channel)
            }
        }
    }

    fn current(&self) -> Option<(usize, Channel)> {
        self.current.lock().map(|c| c.clone()).unwrap_or_default()
    }

    fn set_current(&self, current: Option<(usize, Channel)>) {
        if let Ok(mut place) = self.current.lock() {
            *place = current;
        }
    }
}

/// No controller accepted a connection.
fn unreachable(reasons: &[(String, String)]) -> Failure {
    let lines: Vec<String> = match reasons {
        [(name, reason)] => vec![format!("cannot reach controller at {name}: {reason}")],
        _ => std::iter::once("cannot reach any controller:".to_owned())
            .chain(reasons.iter().map(|(name, reason)| format!("  {name}: {reason}")))
            .collect(),
    };
    let hint = match reasons.iter().any(|(_, reason)| reason.starts_with(BROKE)) {
        true => "is it running? one with TLS wants https://, --tls-ca and perhaps --tls-cert",
        false => "is it running? set --server or CAUSEWAY_SERVER",
    };
    Failure::new(Exit::Failed, lines.join("\n")).hint(hint)
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No server accepted a connection: its name and the reason.
    Unreachable(Vec<(String, String)>),
    /// A controller said no.
    Refused(Box<Status>),
    /// The time is over.
    Late,
}

/// Why a connection broke; `None` for a status that the controller sent.
fn broken(status: &Status) -> Option<String> {
    let source = std::error::Error::source(status)?;
    source.downcast_ref::<tonic::transport::Error>().map(|_| format!("{BROKE}: {}", root_cause(source)))
}

/// The innermost error: "Connection refused (os error 111)" says more than "transport error".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn usage(text: String) -> Failure {
    Failure::new(Exit::Usage, text)
        .hint("for example --server http://127.0.0.1:7480 or --server unix:/run/causeway/controller.sock")
}

/// The address of a server: `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` or `unix:PATH`.
fn endpoint(name: &str, tls: Option<&ClientTlsConfig>) -> Result<Endpoint, Failure> {
    let bad = |reason: String| usage(format!("--server '{name}' is not an address: {reason}"));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let uri = if name.starts_with("unix:") || name.contains("://") {
        name.to_owned()
    } else {
        format!("{scheme}://{name}")
    };
    if !["unix:", "http://", "https://"].iter().any(|s| uri.starts_with(s)) {
        return Err(bad("the scheme is none of http, https, unix".into()));
    }
    let endpoint = Endpoint::from_shared(uri.clone()).map_err(|e| bad(root_cause(&e)))?;
    let endpoint = endpoint
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5));
    match (uri.starts_with("https://"), tls) {
        (true, tls) => {
            let config = tls.ok_or_else(|| {
                bad("https needs --tls-ca, the CA file to check the controller with".into())
            })?;
            endpoint.tls_config(config.clone()).map_err(|e| bad(root_cause(&e)))
        }
        (false, Some(_)) if uri.starts_with("http://") => {
            Err(bad("TLS files are given, but http:// is plain text; write https://".into()))
        }
        (false, _) => Ok(endpoint),
    }
}

fn tls_config(args: &TlsArgs) -> Result<Option<ClientTlsConfig>, Failure> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|e| Failure::new(Exit::Usage, format!("cannot read {}: {e}", path.display())))
    };
    let mut config = match (&args.tls_ca, &args.tls_cert) {
        (None, None) if args.tls_key.is_none() => return Ok(None),
        (Some(ca), _) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
        (None, _) => {
            return Err(Failure::new(
                Exit::Usage,
                "--tls-cert and --tls-key need --tls-ca, the CA file to check the controller with",
            ));
        }
    };
    config = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => config.identity(Identity::from_pem(read(cert)?, read(key)?)),
        (None, None) => config,
        _ => return Err(Failure::new(Exit::Usage, "--tls-cert and --tls-key belong together")),
    };
    Ok(Some(config))
}

/// Who asks and why, as every request says.
static SIGNATURE: OnceLock<MetadataMap> = OnceLock::new();

/// Sets what requests say of who asks: `USER@HOST`, and the reason if there is one.
pub(crate) fn sign(reason: Option<&str>) {
    let mut metadata = MetadataMap::new();
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let user = user.filter(|user| !user.is_empty()).unwrap_or_else(|| {
        // The owner of our own process.
        std::fs::metadata("/proc/self").map_or_else(|_| "unknown".to_owned(), |m| format!("uid{}", m.uid()))
    });
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // A name that is not ASCII cannot be sent; then the address says who it is.
    if let Ok(actor) = format!("{user}@{}", host.trim()).parse() {
        metadata.insert("causeway-actor", actor);
    }
    if let Some(reason) = reason {
        metadata.insert_bin("causeway-reason-bin", MetadataValue::from_bytes(reason.as_bytes()));
    }
    // The first one counts: a process asks for one command.
    let _ = SIGNATURE.set(metadata);
}

/// A connection whose requests say who asks.
pub(crate) type Signed = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

fn signed(channel: Channel) -> Signed {
    fn add(mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(signature) = SIGNATURE.get() {
            request.metadata_mut().as_mut().extend(signature.clone().into_headers());
        }
        Ok(request)
    }
    InterceptedService::new(channel, add)
}

pub(crate) fn config(channel: Channel) -> ConfigServiceClient<Signed> {
    ConfigServiceClient::new(signed(channel)).max_decoding_message_size(ANSWER_LIMIT)
}

pub(crate) fn ports(channel: Channel) -> PortServiceClient<Signed> {
    PortServiceClient::new(signed(channel)).max_decoding_message_size(ANSWER_LIMIT)
}

pub(crate) fn fabric(channel: Channel) -> FabricServiceClient<Signed> {
    FabricServiceClient::new(signed(channel)).max_decoding_message_size(ANSWER_LIMIT)
}

pub(crate) fn history(channel: Channel) -> HistoryServiceClient<Signed> {
    HistoryServiceClient::new(signed(channel)).max_decoding_message_size(ANSWER_LIMIT)
}

pub(crate) fn books(channel: Channel) -> IpamServiceClient<Signed> {
    IpamServiceClient::new(signed(channel)).max_decoding_message_size(ANSWER_LIMIT)
}

pub(crate) fn waits(channel: Channel) -> ReadyServiceClient<Signed> {
    ReadyServiceClient::new(signed(channel)).max_decoding_message_size(ANSWER_LIMIT)
}

pub(crate) fn moves(channel: Channel) -> MoveServiceClient<Signed> {
    MoveServiceClient::new(signed(channel)).max_decoding_message_size(ANSWER_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(servers: &str) -> Result<Client, Failure> {
        Client::new(servers, &TlsArgs::default(), Duration::from_secs(1))
    }

    #[test]
    fn addresses_are_read_in_all_forms() {
        let many = client("unix:/run/a.sock, http://10.0.0.1:7480,[fd00::1]:7480,host:1").unwrap();
        assert_eq!(many.each().count(), 4);
        for bad in ["", ",", "ftp://x", "http://", "http://a b"] {
            assert_eq!(client(bad).map(|_| ()).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn half_of_a_tls_identity_is_refused() {
        let failure =
            |tls: TlsArgs| Client::new("https://a:1", &tls, Duration::from_secs(1)).unwrap_err().text;
        let null = || Some("/dev/null".into());
        let half = TlsArgs { tls_ca: null(), tls_cert: null(), tls_key: None };
        assert_eq!(failure(half), "--tls-cert and --tls-key belong together");
        assert!(failure(TlsArgs { tls_cert: null(), ..TlsArgs::default() }).contains("need --tls-ca"));
        assert!(failure(TlsArgs::default()).contains("https needs --tls-ca"));
    }
}
