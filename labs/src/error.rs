//! What can go wrong with a lab, in words its user can act on.

use std::io;
use std::path::PathBuf;

use causeway_topology::Diagnostic;

/// Why something about a lab failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The topology file is wrong.
    #[error("{}", causeway_topology::render_all(.0))]
    Topology(Vec<Diagnostic>),
    /// A folder was given that does not hold exactly one topology file.
    #[error("{folder} holds {count} files named *.clab.yml or *.clab.yaml: name one with -t")]
    WhichFile {
        /// The folder.
        folder: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// A lab of that name runs.
    #[error(
        "lab {name} is already up (from {file}): causeway lab down --name {name}, or bring this one up under another --name"
    )]
    AlreadyUp {
        /// Its name.
        name: String,
        /// The file it was made from.
        file: PathBuf,
    },
    /// Another process works on the lab.
    #[error("lab {name} is being brought up or down by process {pid}: wait for it, or stop it")]
    Busy {
        /// The lab's name.
        name: String,
        /// The process that holds the lock, as far as it is known.
        pid: String,
    },
    /// No such lab runs.
    #[error("lab {name} is not up: causeway lab up -t FILE, or see causeway lab list")]
    NotUp {
        /// The name asked for.
        name: String,
    },
    /// The lab has no such node.
    #[error("lab {lab} has no node {node} (it has: {known})")]
    NoNode {
        /// The lab's name.
        lab: String,
        /// The node asked for.
        node: String,
        /// The nodes there are, separated by commas.
        known: String,
    },
    /// Namespaces, mounts and links need root.
    #[error("labs need root for namespaces, mounts and links: run this with sudo")]
    NotRoot,
    /// The user or another program asked to stop.
    #[error("interrupted: what had been made was removed")]
    Interrupted,
    /// The file asks for something this runner cannot do.
    #[error("{subject}: {what}")]
    Unsupported {
        /// The node or link.
        subject: String,
        /// What, and what to do instead.
        what: String,
    },
    /// An image is not defined, or cannot be built.
    #[error("image {image}: {what}")]
    Image {
        /// Its name.
        image: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// A node could not be started.
    #[error("node {node}: {what}")]
    Node {
        /// Its name.
        node: String,
        /// What failed.
        what: String,
    },
    /// A program that the runner uses failed.
    #[error("{program} failed: {output}")]
    Program {
        /// The program and its task.
        program: String,
        /// Its last words.
        output: String,
    },
    /// The program that becomes PID 1 of nodes was not found.
    #[error(
        "the causeway program, which becomes PID 1 of every node, was not found beside {exe}: build it, or set CAUSEWAY_BIN to its path"
    )]
    NoInitProgram {
        /// The program that runs.
        exe: PathBuf,
    },
    /// A guest could not do its work.
    #[error(transparent)]
    Guest(#[from] crate::guest::GuestError),
    /// The machine refused something.
    #[error("cannot {act}")]
    Io {
        /// What was tried, with its subject.
        act: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl LabError {
    /// The exit status for this error: 4 for a conflict with a lab that runs, 64 for a wrong argument, 130 after an
    /// interruption, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            LabError::AlreadyUp { .. } | LabError::Busy { .. } => 4,
            LabError::WhichFile { .. } | LabError::NoNode { .. } => 64,
            LabError::Interrupted => 130,
            _ => 1,
        }
    }
}

/// Says what was tried when it failed.
pub(crate) trait Act<T> {
    /// Turns the error into [`LabError::Io`] with the text of `act`, which completes "cannot …".
    fn act(self, act: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T, E: Into<io::Error>> Act<T> for Result<T, E> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|source| LabError::Io { act: act(), source: source.into() })
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_with_its_causes() {
        let source = std::io::Error::from_raw_os_error(2);
        let error = LabError::Io { act: "mount x".to_owned(), source };
        assert_eq!(chain(&error), "cannot mount x: No such file or directory (os error 2)");
    }
}
