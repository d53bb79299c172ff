//! Our own agent as a process on a machine of its own, which is a namespace.

use std::process::Command;

use anyhow::Result;

use crate::process::{Daemon, program};
use crate::slot::{Directory, Slot};
use crate::{Controller, Netns};

/// An agent. Dropping it kills it; what it has programmed goes with its namespace.
#[derive(Debug)]
pub struct Agent {
    daemon: Option<Daemon>,
    node: String,
    netns: String,
    controller: String,
    directory: Directory,
}

impl Agent {
    /// Starts the agent of `node` in a namespace, with the controller by its unix socket.
    pub fn start(node: &str, netns: &Netns, controller: &Controller) -> Result<Agent> {
        let mut agent = Agent {
            daemon: None,
            node: node.to_owned(),
            netns: netns.name().to_owned(),
            controller: format!("unix:{}", controller.socket().display()),
            directory: Slot::get()?.directory("agent")?,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// Starts it again, killing it first if it runs.
    pub fn restart(&mut self) -> Result<()> {
        self.daemon = None;
        let at = self.directory.path();
        let config = format!(
            "node: {}\ncontrollers: [\"{}\"]\nstate_dir: {}\nwait_socket: {}\n",
            self.node,
            self.controller,
            at.join("state").display(),
            at.join("wait/wait.sock").display(),
        );
        std::fs::write(at.join("agent.yaml"), config)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]).arg(program("causeway-agent")?);
        command.arg("--config").arg(at.join("agent.yaml"));
        self.daemon = Some(Daemon::spawn("agent", command, &at.join("log"))?);
        Ok(())
    }

    /// What it has written.
    pub fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }
}
