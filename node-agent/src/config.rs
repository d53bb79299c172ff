//! The agent's configuration: one YAML file, flags and environment over it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// TLS towards controllers. Files are read at every connection, so that renewed ones count without a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// CA certificates (PEM) that a controller's certificate must descend from.
    pub ca: PathBuf,
    /// The agent's certificate (PEM), for controllers that ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// All settings, with their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node's name, as the controller knows it. Default: none; it must be given here, by flag or by environment.
    pub node: String,
    /// Controllers: `http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` (plain HTTP/2) or `unix:/PATH`; one is used,
    /// the others when it fails.
    pub controllers: Vec<String>,
    /// How controllers at `https://` are checked, and how the agent proves who it is. Default: none.
    pub tls: Option<Tls>,
    /// Directory of the last complete state and the instance id.
    pub state_dir: PathBuf,
    /// The socket at which workloads wait for their ports, in a directory of its own that containers can mount; empty:
    /// none.
    pub wait_socket: PathBuf,
    /// Seconds between full comparisons with the kernel; changes and drift are seen at once without them.
    pub observe_interval: u64,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Log filter, for example `info` or `causeway_agent=debug`.
    pub log: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            node: String::new(),
            controllers: vec!["http://127.0.0.1:7480".into()],
            tls: None,
            state_dir: "/var/lib/causeway/agent".into(),
            wait_socket: crate::wait::SOCKET.into(),
            observe_interval: 300,
            log_format: LogFormat::Text,
            log: "info".into(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not the YAML that we expect; says where.
    #[error("{}: {error}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, column and excerpt.
        error: Box<serde_saphyr::Error>,
    },
    /// A value that cannot be.
    #[error("{0}")]
    Value(String),
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        if text.trim().is_empty() {
            return Ok(Config::default());
        }
        serde_saphyr::from_str(&text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), error: Box::new(error) })
    }

    /// Checks what types cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |text: String| Err(ConfigError::Value(text));
        if self.node.is_empty() {
            return bad("node: give the node's name, by --node, CAUSEWAY_NODE or in the file".into());
        }
        if let Err(error) = self.node.parse::<causeway_proto::Name>() {
            return bad(format!("node: '{}' {error}", self.node));
        }
        if self.controllers.is_empty() {
            return bad("controllers: give at least one".into());
        }
        for controller in &self.controllers {
            crate::stream::endpoint(controller, self.tls.as_ref())
                .map_err(|e| ConfigError::Value(format!("controllers: '{controller}': {e}")))?;
        }
        if !self.wait_socket.as_os_str().is_empty() && !self.wait_socket.is_absolute() {
            let path = self.wait_socket.display();
            return bad(format!("wait_socket: '{path}' is no absolute path; leave it empty for none"));
        }
        if let Some(Tls { cert, key, .. }) = &self.tls
            && cert.is_some() != key.is_some()
        {
            return bad("tls: cert and key belong together; give both or none".into());
        }
        if !(1..=86_400).contains(&self.observe_interval) {
            return bad(format!("observe_interval: {} is not in 1 to 86400 s", self.observe_interval));
        }
        Ok(())
    }

    /// As YAML.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        serde_saphyr::to_string(self).map_err(|e| ConfigError::Value(format!("cannot be printed: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn printed_config_is_read_back() {
        let config = Config { node: "h1".into(), observe_interval: 60, ..Config::default() };
        assert_eq!(read(&config.to_yaml().unwrap()).unwrap(), config);
    }

    #[test]
    fn unknown_and_bad_fields_say_where() {
        let error = read("node: h1\nnodes: h2\n").unwrap_err().to_string();
        assert!(error.contains("nodes") && error.contains('2'), "{error}");
        assert!(read("node: [h1]\n").is_err());
        assert!(read("").unwrap().check().is_err(), "a node without a name");
        for text in [
            "node: H1",
            "node: h1\ncontrollers: []",
            "node: h1\ncontrollers: ['ftp://x']",
            "node: h1\nobserve_interval: 0",
            "node: h1\ncontrollers: ['https://c:1']",
            "node: h1\ncontrollers: ['https://c:1']\ntls: {ca: /nonexistent}",
            "node: h1\ntls: {ca: /a, cert: /b}",
            "node: h1\ncontrollers: ['unix:relative']",
        ] {
            assert!(read(text).unwrap().check().is_err(), "{text}");
        }
        for text in ["node: h1", "node: h1\ncontrollers: ['10.0.0.1:7400', 'unix:/run/x', '[::1]:1']"] {
            read(text).unwrap().check().unwrap();
        }
    }
}
