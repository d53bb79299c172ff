//! Hosts with the agent's data plane, and desired states for them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_agent::agent::DataplaneHandle;
use causeway_agent::kernel::{Dataplane, Kernel};
use causeway_agent::model::Desired;
use causeway_agent::observed::Observed;
use causeway_agent::plan::{Plan, Scope, plan};
use causeway_agent::reconcile::{Command, Timing};
use causeway_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::netns::{Netns, run};

/// How long anything may take that is not measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace that plays a host, with the data plane running in it.
pub(crate) struct Host {
    pub(crate) netns: Netns,
    pub(crate) vtep: String,
    pub(crate) plane: Option<DataplaneHandle>,
    stop: CancellationToken,
}

impl Host {
    /// A host with its VTEP address on `lo`.
    pub(crate) fn new(label: &str, vtep: &str) -> Result<Self> {
        let netns = Netns::new(label)?;
        let length = if vtep.contains(':') { 128 } else { 32 };
        netns.run(&format!("ip address add {vtep}/{length} dev lo"))?;
        let mut host = Host { netns, vtep: vtep.into(), plane: None, stop: CancellationToken::new() };
        host.start()?;
        Ok(host)
    }

    /// Starts the data plane.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.stop = CancellationToken::new();
        let plane = DataplaneHandle::start(Some(self.netns.path()), Timing::default(), self.stop.clone())?;
        self.plane = Some(plane);
        Ok(())
    }

    /// Stops it and waits until its thread is gone.
    pub(crate) fn stop(&mut self) {
        self.stop.cancel();
        if let Some(plane) = self.plane.take() {
            plane.join();
        }
    }

    pub(crate) fn plane(&mut self) -> Result<&mut DataplaneHandle> {
        self.plane.as_mut().context("data plane runs")
    }

    pub(crate) async fn set(&mut self, state: &v1::NodeState) -> Result<()> {
        let command = Command::Snapshot(Arc::new(state.clone()));
        self.plane()?.commands.send(command).await.map_err(|_| anyhow::anyhow!("data plane died"))
    }

    pub(crate) async fn change(&mut self, delta: v1::NodeDelta) -> Result<()> {
        let command = Command::Delta(Arc::new(delta));
        self.plane()?.commands.send(command).await.map_err(|_| anyhow::anyhow!("data plane died"))
    }

    /// Waits for a status in which `port` is programmed at `generation`, or has a problem that contains `problem`.
    pub(crate) async fn wait_port(&mut self, port: &str, generation: u64, problem: &str) -> Result<()> {
        let plane = self.plane()?;
        let found = async {
            while let Some(status) = plane.statuses.recv().await {
                let of_port = |p: &&v1::PortStatus| p.port == port && p.generation == generation;
                if let Some(found) = status.ports.iter().find(of_port) {
                    let good = problem.is_empty() && found.programmed;
                    if good || !problem.is_empty() && found.problem.contains(problem) {
                        // A workload that is not there is told apart from one that cannot be programmed.
                        let absent =
                            found.problem.starts_with("netns ") && found.problem.ends_with(" not found");
                        anyhow::ensure!(found.absent == absent, "{found:?}");
                        return Ok(());
                    }
                    eprintln!("{port}: {found:?}");
                }
            }
            anyhow::bail!("data plane died")
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .with_context(|| format!("{port} {generation} '{problem}'"))?
    }

    /// Waits until the revision has been worked on.
    pub(crate) async fn wait_revision(&mut self, revision: u64) -> Result<()> {
        let progress = &mut self.plane()?.progress;
        tokio::time::timeout(PATIENCE, progress.wait_for(|p| p.revision >= revision && p.observed > 0))
            .await
            .context("revision")??;
        Ok(())
    }

    /// Waits until a look by somebody else finds nothing to do.
    pub(crate) async fn wait_settled(&self, state: &v1::NodeState) -> Result<()> {
        let mut last = Ok(());
        let settled = crate::netns::wait_for("settled", PATIENCE, || {
            last = assert_settled(&self.look(state)?);
            Ok(last.is_ok())
        });
        settled.await.map(|_| ()).or_else(|error| last.and(Err(error)))
    }

    /// True if its tunnel ports can forward gratuitous announcements.
    pub(crate) fn forwards_gratuitous(&self) -> Result<bool> {
        let netns = self.netns.path();
        let observed = observe(netns, Desired::default())?;
        let tunnel = observed.vxlans.values().next().context("a tunnel")?;
        Ok(tunnel.flags.forward_gratuitous == Some(true))
    }

    /// What a plan would do now, from a full look at the kernel by somebody else than the running data plane.
    pub(crate) fn look(&self, state: &v1::NodeState) -> Result<Plan> {
        look(self.netns.path(), state)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Full observe and plan in a namespace.
pub(crate) fn look(netns: std::path::PathBuf, state: &v1::NodeState) -> Result<Plan> {
    let desired = Desired::from_state(state, &Desired::default());
    let observed = observe(netns, desired.clone())?;
    Ok(plan(&desired, &observed, &Scope::All))
}

/// Full observe in a namespace, on a thread of its own.
fn observe(netns: std::path::PathBuf, desired: Desired) -> Result<Observed> {
    let thread = std::thread::spawn(move || -> Result<Observed> {
        causeway_agent::netns::enter(&netns)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async { Kernel::open()?.observe(&desired) })?)
    });
    thread.join().map_err(|_| anyhow::anyhow!("panicked"))?
}

/// Joins two hosts by a veth pair and routes their VTEPs over it.
pub(crate) fn join(a: &Host, b: &Host) -> Result<()> {
    let (x, y) = (&a.netns.name, &b.netns.name);
    run(&format!("ip link add u0 netns {x} mtu 1600 type veth peer name u0 netns {y} mtu 1600"))?;
    let (first, second, bits) = match a.vtep.contains(':') {
        true => ("fd00:99::1", "fd00:99::2", 64),
        false => ("198.51.100.1", "198.51.100.2", 24),
    };
    for (host, own, other) in [(a, first, &b.vtep), (b, second, &a.vtep)] {
        let via = if own == first { second } else { first };
        let nodad = if own.contains(':') { "nodad" } else { "" };
        host.netns.run(&format!("ip address add {own}/{bits} dev u0 {nodad}"))?;
        host.netns.run("ip link set u0 up")?;
        host.netns.run(&format!("ip route add {other} via {via}"))?;
    }
    Ok(())
}

pub(crate) fn network(vni: u32, host: u8) -> v1::NodeNetwork {
    v1::NodeNetwork {
        vni,
        vrf: "default".into(),
        network: format!("n{vni}"),
        mtu: 1450,
        bridge_mac: format!("02:bb:00:{host:02x}:00:{:02x}", vni & 0xff),
        ..v1::NodeNetwork::default()
    }
}

pub(crate) fn mac(n: u8) -> String {
    format!("02:ca:0a:08:00:{n:02x}")
}

pub(crate) fn port(n: u8, vni: u32, netns: &Netns) -> v1::NodePort {
    v1::NodePort {
        id: format!("default/n{vni}/p{n}"),
        vni,
        mac: mac(n),
        addresses: vec![format!("10.8.0.{n}/24"), format!("fd00:8::{n:x}/64")],
        gateways: vec!["10.8.0.1".into(), "fd00:8::1".into()],
        mtu: 1450,
        netns: netns.path().display().to_string(),
        interface: "eth0".into(),
        generation: 1,
        kind: v1::WorkloadKind::Container.into(),
        attachment: v1::Attachment::VxlanBridge.into(),
        ..v1::NodePort::default()
    }
}

pub(crate) fn remote(n: u8, vni: u32, vtep: &str) -> v1::RemoteMac {
    let addresses = vec![format!("10.8.0.{n}"), format!("fd00:8::{n:x}")];
    v1::RemoteMac { vni, mac: mac(n), vtep: vtep.into(), addresses }
}

/// A host with workload `n` in `netns`, and workload `m` behind the other host.
pub(crate) fn state(host: &Host, n: u8, netns: &Netns, m: u8, other: &str) -> v1::NodeState {
    v1::NodeState {
        revision: 1,
        node: "h".into(),
        vtep: host.vtep.clone(),
        underlay_mtu: 1600,
        networks: vec![network(100, n)],
        ports: vec![port(n, 100, netns)],
        remotes: vec![remote(m, 100, other)],
        floods: vec![v1::FloodTarget { vni: 100, vtep: other.into() }],
        mode: v1::NodeMode::HostVtep.into(),
        ..v1::NodeState::default()
    }
}

/// Name of the host side of a port.
pub(crate) fn dev(n: u8, vni: u32) -> Result<String> {
    let id = format!("default/n{vni}/p{n}").parse()?;
    Ok(causeway_agent::dev::Dev::port(&id).to_string())
}

/// Fails with the steps if there are any.
pub(crate) fn assert_settled(plan: &Plan) -> Result<()> {
    let steps: Vec<String> = plan.ops.iter().map(ToString::to_string).collect();
    ensure!(steps.is_empty() && plan.problems.is_empty(), "left: {steps:#?} {:?}", plan.problems);
    Ok(())
}
