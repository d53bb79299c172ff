//! A node as the runner sees it while it brings it up: a process at the other end of a socket.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::error::{Act, LabError};
use crate::spec::{FromNode, NodeSpec, ToNode};
use crate::state::{ProcessId, netns_inode};

/// How long PID 1 may take for one step.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program that becomes PID 1 of nodes, and the arguments that make it do so.
#[derive(Debug, Clone)]
pub(crate) struct InitProgram {
    pub(crate) path: PathBuf,
    arguments: &'static [&'static str],
}

impl InitProgram {
    /// `given`, else `$CAUSEWAY_BIN`, else this program if it is ours, else one beside it (as for test programs).
    pub(crate) fn find(given: Option<&Path>) -> Result<Self, LabError> {
        let exe = std::env::current_exe().act(|| "find this program".to_owned())?;
        let mut candidates = Vec::new();
        candidates.extend(given.map(Path::to_owned));
        candidates.extend(std::env::var_os("CAUSEWAY_BIN").map(PathBuf::from));
        if is_ours(&exe) {
            candidates.push(exe.clone());
        }
        for folder in exe.ancestors().skip(1).take(2) {
            candidates.extend(["causeway", "causeway-lab"].map(|name| folder.join(name)));
        }
        let path =
            candidates.into_iter().find(|path| path.is_file()).ok_or(LabError::NoInitProgram { exe })?;
        let arguments: &[&str] = if path.file_name().is_some_and(|name| name == "causeway-lab") {
            &["init"]
        } else {
            &["lab", "init"]
        };
        Ok(InitProgram { path, arguments })
    }

    /// The words of a command of ours below `lab`.
    pub(crate) fn lab_words(&self, words: &[&str]) -> Vec<String> {
        let mut all = vec![self.path.display().to_string()];
        // `lab init` or `init`: what stands before the last word.
        all.extend(
            self.arguments.iter().take(self.arguments.len().saturating_sub(1)).map(|word| (*word).to_owned()),
        );
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    }

    /// Where our other programs are.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = self.path.parent().map(Path::to_owned).unwrap_or_default();
        std::env::var_os("CAUSEWAY_BIN_DIR").map_or(folder, PathBuf::from)
    }
}

fn is_ours(exe: &Path) -> bool {
    exe.file_name().is_some_and(|name| name == "causeway" || name == "causeway-lab")
}

/// A node whose PID 1 runs. It ends when this is dropped before [`NodeProcess::keep`].
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    pub(crate) init: ProcessId,
    /// Inode of its network namespace.
    pub(crate) netns: u64,
    socket: UnixStream,
    lines: BufReader<UnixStream>,
}

impl NodeProcess {
    /// Starts PID 1 and waits until namespaces and root are there.
    pub(crate) fn start(
        program: &InitProgram,
        spec: &NodeSpec,
        log: &Path,
        cancel: &Cancel,
    ) -> Result<Self, LabError> {
        let failed = |what: String| LabError::Node { node: spec.node.clone(), what };
        let (socket, theirs) = UnixStream::pair().act(|| "make a socket pair".to_owned())?;
        socket.set_read_timeout(Some(PATIENCE)).act(|| "set up a socket".to_owned())?;
        let stopper = socket.try_clone().act(|| "copy a socket".to_owned())?;
        cancel.on_cancel(move || drop(stopper.shutdown(std::net::Shutdown::Both)));

        let spec_path = spec.scratch.with_extension("json");
        fs::create_dir_all(&spec.scratch).act(|| format!("create {}", spec.scratch.display()))?;
        let text = serde_json::to_vec(spec).act(|| "write a specification".to_owned())?;
        fs::write(&spec_path, text).act(|| format!("write {}", spec_path.display()))?;
        let open_log = || OpenOptions::new().create(true).append(true).open(log);
        let log = open_log().act(|| format!("open {}", log.display()))?;
        let errors = log.try_clone().act(|| "copy the log".to_owned())?;
        let status = Command::new(&program.path)
            .args(program.arguments)
            .arg("--spec")
            .arg(&spec_path)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log)
            .stderr(errors)
            .status()
            .act(|| format!("start {}", program.path.display()))?;

        let lines = BufReader::new(socket.try_clone().act(|| "copy a socket".to_owned())?);
        let mut node = NodeProcess {
            name: spec.node.clone(),
            init: ProcessId { pid: 0, start: 0 },
            netns: 0,
            socket,
            lines,
        };
        if !status.success() {
            let what = match node.hear() {
                Ok(FromNode::Failed(what)) => what,
                _ => format!("{} ended with {status}", program.path.display()),
            };
            return Err(failed(what));
        }
        let mut pid = None;
        let mut is_ready = false;
        while pid.is_none() || !is_ready {
            match node.hear()? {
                FromNode::Pid(number) => pid = Some(number),
                FromNode::Ready => is_ready = true,
                FromNode::Failed(what) => return Err(failed(what)),
                FromNode::Started | FromNode::Warning(_) => {}
            }
        }
        let gone = || failed("its PID 1 ended at once: see its log".to_owned());
        node.init = pid.and_then(ProcessId::of).ok_or_else(gone)?;
        node.netns = netns_inode(node.init.pid).ok_or_else(gone)?;
        Ok(node)
    }

    /// Tells PID 1 to start the entry point; gives back its warnings.
    pub(crate) fn go(&mut self) -> Result<Vec<String>, LabError> {
        self.tell(ToNode::Go)?;
        let mut warnings = Vec::new();
        loop {
            match self.hear()? {
                FromNode::Started => return Ok(warnings),
                FromNode::Warning(warning) => warnings.push(warning),
                FromNode::Failed(what) => return Err(LabError::Node { node: self.name.clone(), what }),
                FromNode::Pid(_) | FromNode::Ready => {}
            }
        }
    }

    /// From now on the node lives without this process.
    pub(crate) fn keep(&mut self) -> Result<(), LabError> {
        self.tell(ToNode::Keep)
    }

    fn tell(&mut self, message: ToNode) -> Result<(), LabError> {
        let mut line = serde_json::to_vec(&message).act(|| "write a message".to_owned())?;
        line.push(b'\n');
        self.socket.write_all(&line).act(|| format!("talk to PID 1 of node {}", self.name))
    }

    fn hear(&mut self) -> Result<FromNode, LabError> {
        let act = || format!("hear from PID 1 of node {} (its log tells more)", self.name);
        let mut line = String::new();
        let length = self.lines.read_line(&mut line).act(act)?;
        if length == 0 {
            return Err(LabError::Node {
                node: self.name.clone(),
                what: "its PID 1 ended: see its log".to_owned(),
            });
        }
        serde_json::from_str(&line).act(act)
    }
}
