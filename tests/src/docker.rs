//! A real Docker Engine for one test, in a namespace of the test's: as it comes, with its bridge, its iptables and NAT.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::met;
use crate::netns::Netns;
use crate::process::{run, run_within};
use crate::slot::{Record, Slot};

/// Longest time until it is there, its packages' installation included if they are missing.
const START: Duration = Duration::from_secs(300);
/// $1: the project; $2: where its files go; $3: its namespace. Its image has busybox and nothing else.
const BEGIN: &str = r#"set -euo pipefail
cd "$1"
. scripts/docker.sh
DOCKER_DIR=$2 docker_start nat "$3"
busybox=$(command -v busybox)
tar -C "$(dirname "$busybox")" -c busybox | docker import --change 'CMD ["/busybox", "sleep", "600"]' - causeway-test >/dev/null
docker version --format '{{.Server.Version}}'"#;
/// $1: the project; $2: where its files are.
const END: &str = r#"cd "$1"
. scripts/docker.sh
docker_dir=$2
docker_stop"#;

/// The image of its containers.
pub const IMAGE: &str = "causeway-test";

/// An Engine. Dropping it ends its containers and it, and removes its files.
#[derive(Debug)]
pub struct Docker {
    directory: PathBuf,
    version: String,
    _record: Record,
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Docker {
    /// Starts one in this namespace, and makes its image.
    pub async fn start(netns: &Netns) -> Result<Docker> {
        // Not below the temporary directory: paths of sockets are short.
        let directory = Path::new("/run").join(format!("causeway-docker-{}", netns.name()));
        let record = Slot::get()?.record("docker", &directory.to_string_lossy())?;
        let mut docker = Docker { directory, version: String::new(), _record: record };
        let (project, place) = (project().display().to_string(), docker.directory.display().to_string());
        let begin = ["bash", "-c", BEGIN, "docker", &project, &place, netns.name()];
        let said = run_within(&begin, START).await.context("no Docker Engine")?;
        docker.version = said.lines().last().context("no version")?.to_owned();
        met(&format!("Docker {}", docker.version));
        Ok(docker)
    }

    /// The version it says it has.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Value of `DOCKER_HOST` for its clients.
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.join("docker.sock").display())
    }

    /// Runs a command of its client; what it prints.
    pub async fn run(&self, words: &[&str]) -> Result<String> {
        let host = format!("DOCKER_HOST={}", self.host());
        run(&[&["env", &host, "docker"], words].concat()).await
    }

    /// Starts a container of this name, with these options. It is killed when it is to end.
    pub async fn container(&self, name: &str, options: &[&str]) -> Result<()> {
        let run = ["run", "--detach", "--name", name, "--stop-signal", "KILL"];
        self.run(&[&run, options, &[IMAGE]].concat()).await.map(drop)
    }

    /// The id of a container's first process.
    pub async fn pid(&self, name: &str) -> Result<u32> {
        let said = self.run(&["inspect", "--format", "{{.State.Pid}}", name]).await?;
        said.trim().parse().with_context(|| format!("no process of {name}: {said}"))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        println!("--- log of dockerd\n{}\n---", lines[lines.len().saturating_sub(20)..].join("\n"));
        stop(&self.directory);
    }
}

/// Ends the Engine that has its files here, and removes them; gone already is fine.
pub(crate) fn stop(directory: &Path) {
    let ended = Command::new("bash").args(["-c", END, "docker"]).arg(project()).arg(directory).status();
    if !ended.as_ref().is_ok_and(|status| status.success()) {
        println!("the Docker Engine in {} did not end as it should: {ended:?}", directory.display());
    }
}
