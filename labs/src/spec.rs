//! What a node's PID 1 is told: one JSON file, and lines over a socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// All that PID 1 of a node has to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeSpec {
    /// Short name, for messages.
    pub(crate) node: String,
    /// Host name.
    pub(crate) hostname: String,
    /// Layers of the root, the upmost first; folders of the machine.
    pub(crate) layers: Vec<PathBuf>,
    /// An empty folder of the machine to mount things on.
    pub(crate) scratch: PathBuf,
    /// Files of the machine shown in the node.
    pub(crate) binds: Vec<BindSpec>,
    /// Files to write.
    pub(crate) files: Vec<FileSpec>,
    /// Kernel parameters; those of an interface that is not there yet are tried again after the links.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Environment of the entry point, whole.
    pub(crate) env: BTreeMap<String, String>,
    /// Entry point and its arguments; empty: PID 1 alone holds the node.
    pub(crate) argv: Vec<String>,
    /// Where PID 1 writes [`EntryStatus`].
    pub(crate) status: PathBuf,
}

/// A file or folder of the machine shown inside a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BindSpec {
    /// On the machine; absolute, without symbolic links.
    pub(crate) source: PathBuf,
    /// In the node, absolute.
    pub(crate) target: PathBuf,
    /// Whether the node may not write to it.
    pub(crate) read_only: bool,
}

/// A file to write into a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileSpec {
    /// In the node, absolute.
    pub(crate) path: PathBuf,
    /// Its content.
    pub(crate) text: String,
    /// Permissions.
    pub(crate) mode: u32,
}

/// How the entry point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryStatus {
    /// There is none, or it was not started yet.
    Idle,
    /// It runs.
    Running,
    /// It ended with this exit status; 128 and the signal's number if a signal ended it.
    Exited(i32),
}

impl std::fmt::Display for EntryStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryStatus::Idle => f.write_str("running (no entry point)"),
            EntryStatus::Running => f.write_str("running"),
            EntryStatus::Exited(code) => write!(f, "running (entry point exited with {code})"),
        }
    }
}

/// A line from PID 1 to the runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FromNode {
    /// PID 1 has this number on the machine.
    Pid(u32),
    /// Namespaces and root are as the specification says.
    Ready,
    /// The entry point was started.
    Started,
    /// Something is not as asked for, and the node goes on.
    Warning(String),
    /// It cannot go on and ends.
    Failed(String),
}

/// A line from the runner to PID 1. When the socket closes before [`ToNode::Keep`], the node ends: it does not
/// outlive a runner that dies half-way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToNode {
    /// The links are there: start the entry point.
    Go,
    /// The lab is complete: the runner may go.
    Keep,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_each() {
        let text = serde_json::to_string(&FromNode::Failed("cannot mount\n/proc".to_owned())).unwrap();
        assert_eq!(text, r#"{"failed":"cannot mount\n/proc"}"#);
        assert_eq!(serde_json::from_str::<FromNode>(r#"{"pid":7}"#).unwrap(), FromNode::Pid(7));
        assert_eq!(serde_json::to_string(&ToNode::Go).unwrap(), r#""go""#);
    }
}
