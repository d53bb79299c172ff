//! The readiness socket, and the program that waits at it, in real namespaces.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use causeway_agent::dev::Dev;
use causeway_agent::local::{Local, LocalPort};
use causeway_agent::model::{Attach, NetnsRef};
use causeway_agent::wait::Server;
use causeway_agent::wait::book::Keeper;
use causeway_proto::{PortKey, v1};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::host::PATIENCE;
use crate::netns::Netns;

/// A readiness socket with made-up ports in real namespaces.
struct Desk {
    local: watch::Sender<Arc<Local>>,
    keeper: Keeper,
    proves: mpsc::Receiver<v1::ProveRequest>,
    server: Server,
    directory: tempfile::TempDir,
    stop: CancellationToken,
    serving: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Desk {
    fn new() -> Result<Desk> {
        let keeper = Keeper::open(None);
        let local = watch::Sender::new(Arc::new(Local { node: "h1".into(), ..Local::default() }));
        let (prove, proves) = mpsc::channel(64);
        let server = Server::new(local.subscribe(), keeper.book(), prove);
        let directory = tempfile::tempdir()?;
        let mut desk =
            Desk { local, keeper, proves, server, directory, stop: CancellationToken::new(), serving: None };
        desk.open();
        Ok(desk)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("wait.sock")
    }

    fn open(&mut self) {
        self.stop = CancellationToken::new();
        self.serving = Some(tokio::spawn(self.server.clone().run(self.socket(), self.stop.clone())));
    }

    async fn close(&mut self) -> Result<()> {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            serving.await?;
        }
        ensure!(!self.socket().exists(), "the socket is left behind");
        Ok(())
    }

    /// These ports are on the node, with what is wrong with them.
    fn set(&self, ports: &[(&str, &Netns, Option<&str>)]) -> Result<()> {
        let port = |(id, netns, problem): &(&str, &Netns, Option<&str>)| -> Result<(PortKey, LocalPort)> {
            let port = LocalPort {
                vni: 100.try_into()?,
                mac: "02:00:00:00:00:01".parse()?,
                addresses: Default::default(),
                netns: NetnsRef::Path(netns.path()),
                interface: Dev::new("eth0"),
                attach: Attach::VxlanBridge,
                generation: 1,
                problem: problem.map(str::to_owned),
            };
            Ok((id.parse()?, port))
        };
        let ports: BTreeMap<PortKey, LocalPort> = ports.iter().map(port).collect::<Result<_>>()?;
        let old = Arc::clone(&self.local.borrow());
        self.local.send_replace(Arc::new(Local { ports, ..Local::clone(&old) }));
        Ok(())
    }

    fn command(&self, netns: Option<&Netns>, arguments: &[&str]) -> Command {
        let wait = env!("CARGO_BIN_EXE_causeway-wait");
        let mut command = match netns {
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &netns.name, wait]);
                command
            }
            None => Command::new(wait),
        };
        command.arg("--socket").arg(self.socket()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn(&self, netns: &Netns, arguments: &[&str]) -> Result<Child> {
        Ok(self.command(Some(netns), arguments).spawn()?)
    }

    /// Runs it to its end: exit code, and what it printed to both.
    async fn run(&self, netns: Option<&Netns>, arguments: &[&str]) -> Result<(i32, String, String)> {
        let mut command = self.command(netns, arguments);
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || command.output()).await??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((status.code().context("a code")?, text(stdout), text(stderr)))
    }
}

/// Waits for a child on a thread of its own.
async fn finish(child: Child) -> Result<(i32, String, String)> {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code().context("a code")?, text(output.stdout), text(output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_known_by_its_namespace() -> Result<()> {
    let desk = Desk::new()?;
    let (a, b, none) = (Netns::new("wa")?, Netns::new("wb")?, Netns::new("wn")?);
    desk.set(&[("web/a", &a, None), ("web/b", &b, Some("no such thing")), ("web/c", &a, None)])?;
    let now = ["--level", "programmed", "--timeout", "200ms"];
    let with = |more: &[&'static str]| [&now[..], more].concat();
    let (code, out, err) = desk.run(Some(&a), &with(&["--", "echo", "started"])).await?;
    ensure!((code, out.as_str()) == (0, "started\n"), "{code} {out} {err}");
    let (code, out, err) = desk.run(Some(&b), &with(&["--", "echo", "started"])).await?;
    ensure!(code == 6 && out.is_empty(), "{code} {out} {err}");
    ensure!(
        err == "causeway-wait: not programmed within 200ms: host is late: port default/web/b: no such thing\n",
        "{err}"
    );
    let (code, out, err) = desk.run(Some(&b), &with(&["--best-effort", "echo", "started"])).await?;
    ensure!(code == 0 && out == "started\n" && err.contains("going on all the same"), "{code} {out} {err}");
    let (code, _, err) = desk.run(Some(&none), &now).await?;
    ensure!(code == 6 && err.contains("allocation is late: no port of node h1 is bound"), "{code} {err}");
    // A claim is worth nothing: another namespace's port is not given to who asks for it by name.
    let (code, _, err) = desk.run(Some(&b), &with(&["--port", "web/a"])).await?;
    ensure!(
        code == 1 && err.contains("port default/web/a is not one of this network namespace"),
        "{code} {err}"
    );
    // In the host's own namespace nothing is waited for by accident; root may ask by name.
    let (code, _, err) = desk.run(None, &now).await?;
    ensure!(code == 1 && err.contains("host's own network namespace"), "{code} {err}");
    let (code, _, err) = desk.run(None, &with(&["--port", "web/a"])).await?;
    ensure!(code == 0, "{code} {err}");
    // Not the one that asks is what counts, but the namespace it is in: a process of its own in a new one has no port.
    let script = format!(
        "exec unshare -n {} --socket {} --level programmed --timeout 100ms",
        env!("CARGO_BIN_EXE_causeway-wait"),
        desk.socket().display()
    );
    let output = Command::new("ip").args(["netns", "exec", &a.name, "sh", "-c", &script]).output()?;
    ensure!(output.status.code() == Some(6), "{output:?}");
    for (command, code) in [("/nonexistent", 127), ("/etc/passwd", 126)] {
        ensure!(desk.run(Some(&a), &with(&["--", command])).await?.0 == code, "{command}");
    }
    ensure!(desk.run(Some(&a), &["--nonsense"]).await?.0 == 64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_above_programmed_are_the_controllers_word_and_kept() -> Result<()> {
    let mut desk = Desk::new()?;
    let a = Netns::new("la")?;
    desk.set(&[("web/a", &a, None)])?;
    let (code, _, err) = desk.run(Some(&a), &["--timeout", "100ms"]).await?;
    ensure!(
        code == 6 && err.contains("fabric is late: port default/web/a: no controller is connected"),
        "{err}"
    );
    let level = |level: v1::ReadyLevel, probe: &str| v1::PortLevels {
        all: false,
        ports: vec![v1::PortLevel {
            port: "default/web/a".into(),
            generation: 1,
            level: level.into(),
            probe: probe.into(),
            ..Default::default()
        }],
    };
    desk.keeper.set_connected(true);
    desk.keeper.take(&level(v1::ReadyLevel::Advertised, "from node h2 to 10.8.0.5 on node h1: no answer"));
    ensure!(desk.run(Some(&a), &["--timeout", "100ms"]).await?.0 == 0);
    let child = desk.spawn(&a, &["--level", "proven", "--timeout", "10s", "--", "sh", "-c", "echo $$"])?;
    let pid = child.id();
    let asked = tokio::time::timeout(PATIENCE, desk.proves.recv()).await?.context("asked to prove")?;
    ensure!(asked.port == "default/web/a" && (1..=10_000).contains(&asked.timeout_ms), "{asked:?}");
    // The agent goes and comes back: who waits goes on waiting.
    desk.close().await?;
    desk.open();
    tokio::time::timeout(PATIENCE, desk.proves.recv()).await?.context("asked again")?;
    desk.keeper.take(&level(v1::ReadyLevel::Proven, ""));
    let (code, out, err) = finish(child).await?;
    ensure!(code == 0 && out.trim() == pid.to_string(), "not the same process: {pid} {out} {err}");
    // The controller goes: what it said holds.
    desk.keeper.set_connected(false);
    ensure!(desk.run(Some(&a), &["--level", "proven", "--timeout", "100ms"]).await?.0 == 0);
    desk.keeper.take(&level(v1::ReadyLevel::Advertised, "from node h2 to 10.8.0.5 on node h1: no answer"));
    desk.keeper.set_connected(true);
    let (code, _, err) = desk.run(Some(&a), &["--level", "proven", "--timeout", "100ms"]).await?;
    ensure!(code == 6 && err.contains("probe is late: port default/web/a: from node h2 to"), "{err}");
    desk.close().await?;
    let (code, _, err) = desk.run(Some(&a), &["--timeout", "100ms"]).await?;
    ensure!(code == 6 && err.contains("the agent cannot be reached at"), "{err}");
    Ok(())
}

/// How often a process went to sleep by itself: what wakes up to look again does so again and again.
fn sleeps(child: &Child) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(line.context("no count of switches")?.trim().parse()?)
}

/// Reads the first byte, which says that the command runs.
fn started(mut child: Child) -> Result<(Instant, Child)> {
    let mut byte = [0_u8; 1];
    child.stdout.as_mut().context("a pipe")?.read_exact(&mut byte)?;
    Ok((Instant::now(), child))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_starts_when_it_is_ready_without_being_asked_for() -> Result<()> {
    let desk = Desk::new()?;
    let (a, late) = (Netns::new("sa")?, Netns::new("sl")?);
    let flags = ["--level", "programmed", "--timeout", "120s", "--quiet", "--", "sh", "-c", "echo"];
    let not_yet = ("web/late", &late, Some("not yet"));
    desk.set(&[not_yet])?;
    let waiting = desk.spawn(&late, &flags)?;
    connected(1).await?;
    let (mut slept, mut times) = (0, Vec::new());
    for n in 0..20 {
        // By now it has said all that it has to say.
        if n == 10 {
            slept = sleeps(&waiting)?;
        }
        desk.set(&[("web/a", &a, Some("not yet")), not_yet])?;
        let mut child = desk.spawn(&a, &flags)?;
        connected(2).await?;
        let ready = Instant::now();
        desk.set(&[("web/a", &a, None), not_yet])?;
        let (at, back) = tokio::task::spawn_blocking(move || started(child)).await??;
        child = back;
        times.push(at - ready);
        finish(child).await?;
    }
    times.sort();
    println!("from ready to started, 20 times: median {:?}, longest {:?}", times[10], times[19]);
    // All that time the other one slept, until it was told.
    ensure!(
        sleeps(&waiting)? == slept,
        "who waits looks again by itself: {slept}, then {}",
        sleeps(&waiting)?
    );
    desk.set(&[("web/late", &late, None)])?;
    let (_, waiting) = tokio::task::spawn_blocking(move || started(waiting)).await??;
    ensure!(finish(waiting).await?.0 == 0);
    Ok(())
}

/// Waits until so many `causeway-wait` of this test's process have become idle at the socket.
async fn connected(count: usize) -> Result<()> {
    let own = std::process::id().to_string();
    let is_ours = |entry: &std::fs::DirEntry| -> bool {
        let path = entry.path();
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let wchan = std::fs::read_to_string(path.join("wchan")).unwrap_or_default();
        let mut fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
        let (state, parent) = (fields.next(), fields.next());
        stat.contains("(causeway-wait)")
            && state == Some("S")
            && parent == Some(own.as_str())
            && (wchan.contains("unix_stream") || wchan.is_empty() || wchan == "0")
    };
    crate::netns::wait_for("waiters", PATIENCE * 3, || {
        let found = std::fs::read_dir("/proc")?.filter_map(Result::ok).filter(is_ours).count();
        Ok(found >= count)
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_and_fifty_wait_at_once() -> Result<()> {
    const COUNT: usize = 150;
    let desk = Desk::new()?;
    let spaces: Vec<Netns> = (0..COUNT).map(|n| Netns::new(&format!("m{n}"))).collect::<Result<_>>()?;
    let names: Vec<String> = (0..COUNT).map(|n| format!("web/m-{n}")).collect();
    let ports = |problem: Option<&'static str>| -> Vec<(&str, &Netns, Option<&str>)> {
        names.iter().zip(&spaces).map(|(name, netns)| (name.as_str(), netns, problem)).collect()
    };
    desk.set(&ports(Some("not yet")))?;
    let flags = ["--level", "programmed", "--timeout", "120s", "--quiet", "--", "sh", "-c", "echo"];
    let children: Vec<Child> = spaces.iter().map(|netns| desk.spawn(netns, &flags)).collect::<Result<_>>()?;
    connected(COUNT).await?;
    let ready = Instant::now();
    desk.set(&ports(None))?;
    let waits: Vec<_> =
        children.into_iter().map(|child| tokio::task::spawn_blocking(move || started(child))).collect();
    let mut times = Vec::new();
    for wait in waits {
        let (at, child) = wait.await??;
        times.push(at - ready);
        let (code, ..) = finish(child).await?;
        ensure!(code == 0);
    }
    times.sort();
    println!(
        "{COUNT} at once, from ready to started: median {:?}, longest {:?}",
        times[COUNT / 2],
        times[COUNT - 1]
    );
    Ok(())
}
