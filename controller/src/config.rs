//! The controller's configuration: one YAML file, flags over it, defaults in one place.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where the store of a controller without etcd lies.
const DATA_DIRECTORY: &str = "/var/lib/causeway/controller";
/// Where the local socket lies.
const SOCKET: &str = "/run/causeway/controller.sock";
/// For how long the history is kept.
const HISTORY_DAYS: u32 = 90;
/// For how long an agent must not have found a workload.
const LEAK_GRACE_SECONDS: u32 = 600;
/// TCP port of the gRPC API.
const GRPC_PORT: u16 = 7480;
/// TCP port of health and metrics.
const HTTP_PORT: u16 = 7481;
/// TCP port of BGP.
const BGP_PORT: u16 = 179;

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not such YAML. The text has line, column and an excerpt.
    #[error("configuration {path}:{text}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What is wrong where.
        text: String,
    },
    /// A value is missing or wrong.
    #[error("configuration: {field}: {reason}")]
    Field {
        /// The field's path, for example `store.etcd.endpoints`.
        field: &'static str,
        /// What is wrong with it, and how to give it.
        reason: String,
    },
    /// The configuration cannot be printed.
    #[error("print configuration: {0}")]
    Print(String),
}

/// Everything a controller is configured with. Field names are those of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of this controller in logs and in the statuses it writes, unique among controllers. Default: the host name.
    pub name: String,
    /// BGP identifier, unique among controllers. Required.
    pub router_id: Option<Ipv4Addr>,
    /// AS number, the same for all controllers, 1 to 4294967294. Required.
    pub asn: Option<u32>,
    /// Where the gRPC API listens: `ADDRESS:PORT`, or `unix:PATH`.
    pub listen: Vec<Listen>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; empty: nowhere.
    pub http_listen: Vec<SocketAddr>,
    /// Where BGP connections are accepted; empty: none are, all sessions are opened by this controller.
    pub bgp_listen: Vec<SocketAddr>,
    /// TLS of the gRPC API on TCP. Default: plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Where records are kept.
    pub store: StoreConfig,
    /// For how many days the history is kept; 0: for ever.
    pub history_days: u32,
    /// Ports whose workloads are gone without a word.
    pub leaked_ports: LeakedPorts,
    /// Logs.
    pub log: Log,
}

/// What is done about ports whose node's agent does not find their workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeakedPorts {
    /// What is done. Default: they are reported.
    pub action: LeakedAction,
    /// For how many seconds an agent must not have found it, longer than a container may start after its port is bound.
    /// At least 1; default: 600.
    pub grace_seconds: u32,
}

/// What is done about leaked ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeakedAction {
    /// They are counted and shown by `causeway ipam check`.
    Report,
    /// They are unbound, and their addresses are quarantined for the pool.
    Collect,
}

/// Where records are kept: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum StoreConfig {
    /// An embedded store in this directory, for one controller alone.
    File(PathBuf),
    /// An etcd cluster, for any number of controllers.
    Etcd(Etcd),
}

/// An etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Etcd {
    /// `http://HOST:PORT` or `https://HOST:PORT`. At least one.
    pub endpoints: Vec<String>,
    /// Put in front of every key, so that several installations share a cluster. Default: `/causeway/v1/`.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// File with CA certificates (PEM) that the servers' are checked against. Default: plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// File with the client certificate (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// File with the client certificate's key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// User name. Default: no authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with the user's password; line ends at its end are cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// TLS of the gRPC API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// File with the server certificate and its chain (PEM).
    pub cert: PathBuf,
    /// File with its key (PEM).
    pub key: PathBuf,
    /// File with CA certificates (PEM): clients must show a certificate of one of them. Default: clients are not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Which events: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,causeway_bgp=debug`.
    pub level: String,
    /// How they are written.
    pub format: LogFormat,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One line an event, for people.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// An address of the gRPC API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket at this path.
    Unix(PathBuf),
}

/// A text is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither ADDRESS:PORT nor unix:/PATH")]
pub struct ListenError(String);

impl Default for Config {
    fn default() -> Self {
        let everywhere = |port| {
            vec![
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
                SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
            ]
        };
        let here = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Config {
            name: host_name(),
            router_id: None,
            asn: None,
            listen: vec![Listen::Unix(SOCKET.into()), Listen::Tcp(here(GRPC_PORT))],
            http_listen: vec![here(HTTP_PORT)],
            bgp_listen: everywhere(BGP_PORT),
            tls: None,
            store: StoreConfig::File(DATA_DIRECTORY.into()),
            history_days: HISTORY_DAYS,
            leaked_ports: LeakedPorts::default(),
            log: Log::default(),
        }
    }
}

impl Default for LeakedPorts {
    fn default() -> Self {
        LeakedPorts { action: LeakedAction::Report, grace_seconds: LEAK_GRACE_SECONDS }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".to_owned(), format: LogFormat::Text }
    }
}

fn default_prefix() -> String {
    "/causeway/v1/".to_owned()
}

/// The kernel's host name; a fixed word where it cannot be read.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "controller".to_owned(),
        name => name.to_owned(),
    }
}

/// A configuration whose required values are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// AS number.
    pub asn: u32,
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::parse(path, &text)
    }

    /// Reads YAML; `path` is for the error only. Nothing but comments is the default configuration.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let blank = text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---"
        });
        if blank {
            return Ok(Config::default());
        }
        serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), text: format!(" {error}") })
    }

    /// As YAML, all defaults filled in.
    pub fn print(&self) -> Result<String, ConfigError> {
        serde_saphyr::to_string(self).map_err(|error| ConfigError::Print(error.to_string()))
    }

    /// For how long the history is kept, in milliseconds; `None`: for ever.
    pub fn history_ms(&self) -> Option<i64> {
        (self.history_days > 0).then(|| i64::from(self.history_days) * 86_400_000)
    }

    /// Checks what types do not say.
    pub fn check(&self) -> Result<Identity, ConfigError> {
        let field = |field, reason: &str| ConfigError::Field { field, reason: reason.to_owned() };
        let router_id = self.router_id.ok_or_else(|| {
            field(
                "router_id",
                "is required: an IPv4 address of this controller that no other BGP speaker uses, such as the address \
                 of its loopback (in the file, or --router-id)",
            )
        })?;
        if router_id.is_unspecified() {
            return Err(field("router_id", "0.0.0.0 is no BGP identifier (RFC 6286)"));
        }
        let asn = self.asn.ok_or_else(|| {
            field(
                "asn",
                "is required: the AS number of the controllers (in the file, or --asn); with route reflectors it is theirs",
            )
        })?;
        if asn == 0 || asn == u32::MAX {
            return Err(field("asn", "0 and 4294967295 are reserved (RFC 7607, RFC 7300)"));
        }
        if self.name.is_empty() || self.name.len() > 253 || self.name.contains(char::is_whitespace) {
            return Err(field("name", "has 1 to 253 characters and no spaces"));
        }
        if self.listen.is_empty() {
            return Err(field("listen", "is empty: nobody could ask for anything"));
        }
        if self.leaked_ports.grace_seconds == 0 {
            let reason = "is 0: a container may start later than its port is bound";
            return Err(field("leaked_ports.grace_seconds", reason));
        }
        if let StoreConfig::Etcd(etcd) = &self.store {
            check_etcd(etcd)?;
        }
        tracing_subscriber::EnvFilter::try_new(&self.log.level)
            .map_err(|error| ConfigError::Field { field: "log.level", reason: error.to_string() })?;
        Ok(Identity { router_id, asn })
    }
}

fn check_etcd(etcd: &Etcd) -> Result<(), ConfigError> {
    let field = |field, reason: &str| Err(ConfigError::Field { field, reason: reason.to_owned() });
    if etcd.endpoints.is_empty() {
        return field("store.etcd.endpoints", "is empty");
    }
    if etcd.endpoints.iter().any(|e| !e.starts_with("http://") && !e.starts_with("https://")) {
        return field("store.etcd.endpoints", "each is http://HOST:PORT or https://HOST:PORT");
    }
    if etcd.cert.is_some() != etcd.key.is_some() {
        return field("store.etcd.key", "cert and key are given both or not at all");
    }
    if etcd.user.is_some() != etcd.password_file.is_some() {
        return field("store.etcd.password_file", "user and password_file are given both or not at all");
    }
    Ok(())
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let bad = || ListenError(text.chars().take(120).collect());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Listen::Unix(path.into())),
            Some(_) => Err(bad()),
            None => text.parse().map(Listen::Tcp).map_err(|_| bad()),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = ListenError;

    fn try_from(text: String) -> Result<Self, ListenError> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        listen.to_string()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("controller.yaml"), text)
    }

    const FULL: &str = "\
name: c1
router_id: 10.0.0.9
asn: 65000
listen: ['unix:/run/c.sock', '0.0.0.0:7480', '[::1]:7480']
http_listen: ['127.0.0.1:7481']
bgp_listen: []
tls: {cert: /etc/c.pem, key: /etc/c.key, client_ca: /etc/ca.pem}
store:
  etcd: {endpoints: ['http://127.0.0.1:2379'], user: root, password_file: /etc/pw}
log: {level: 'info,causeway_bgp=debug', format: json}
";

    #[test]
    fn what_is_printed_reads_back() {
        for config in [Config::default(), parse(FULL).unwrap()] {
            let text = config.print().unwrap();
            assert_eq!(parse(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn a_full_file_is_taken() {
        let config = parse(FULL).unwrap();
        assert_eq!(config.check().unwrap(), Identity { router_id: Ipv4Addr::new(10, 0, 0, 9), asn: 65000 });
        let StoreConfig::Etcd(etcd) = config.store else { panic!("etcd") };
        assert_eq!(etcd.prefix, "/causeway/v1/");
    }

    #[test]
    fn errors_show_line_column_and_place() {
        let error = parse("name: c1\nasn: 65000\nrouter: 10.0.0.9\n").unwrap_err().to_string();
        for part in ["controller.yaml", "line 3", "column 1", "router", "^"] {
            assert!(error.contains(part), "no {part} in:\n{error}");
        }
        for (text, part) in [
            ("asn: x\n", "line 1"),
            ("asn: 1\nasn: 2\n", "line 2"),
            ("listen: ['here']\n", "neither ADDRESS:PORT nor unix:/PATH"),
            ("listen: ['unix:c.sock']\n", "neither ADDRESS:PORT nor unix:/PATH"),
            ("store: {file: /a, etcd: {endpoints: []}}\n", "line 1"),
            ("store: {etcd: {endpoint: []}}\n", "endpoint"),
            ("log: {format: xml}\n", "line 1"),
            ("name: [\n", "line"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: no {part} in:\n{error}");
        }
    }

    #[test]
    fn values_that_types_allow_and_we_do_not_name_their_field() {
        let good = || parse("router_id: 10.0.0.9\nasn: 65000\n").unwrap();
        assert!(good().check().is_ok());
        let etcd = |endpoints: &[&str]| Etcd {
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            prefix: default_prefix(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
        };
        for (config, field) in [
            (Config::default(), "router_id: is required"),
            (Config { asn: None, ..good() }, "asn: is required"),
            (Config { asn: Some(0), ..good() }, "asn: 0 and"),
            (Config { router_id: Some(Ipv4Addr::UNSPECIFIED), ..good() }, "router_id: 0.0.0.0"),
            (Config { name: "a b".into(), ..good() }, "name: "),
            (Config { listen: vec![], ..good() }, "listen: is empty"),
            (Config { store: StoreConfig::Etcd(etcd(&[])), ..good() }, "store.etcd.endpoints: is empty"),
            (Config { store: StoreConfig::Etcd(etcd(&["a:1"])), ..good() }, "store.etcd.endpoints: each"),
            (
                Config {
                    store: StoreConfig::Etcd(Etcd { user: Some("u".into()), ..etcd(&["http://a:1"]) }),
                    ..good()
                },
                "store.etcd.password_file: ",
            ),
            (Config { log: Log { level: "a=b=c".into(), format: LogFormat::Text }, ..good() }, "log.level: "),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn a_file_without_content_is_the_default() {
        for text in ["", "# nothing\n", "---\n"] {
            assert_eq!(parse(text).unwrap(), Config::default(), "{text:?}");
        }
    }
}
