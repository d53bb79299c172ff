//! Routing between networks through an L3 VNI, in the main table: two hosts that encapsulate themselves.

use anyhow::{Result, ensure};
use causeway_agent::model::Desired;
use causeway_agent::render::{Format, render};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, assert_settled, join, mac};
use crate::netns::{Netns, wait_for};

const VTEPS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

fn router_mac(n: usize) -> String {
    format!("02:cc:00:00:00:{:02x}", n + 1)
}

/// Host `n` has network 100 + n with one workload, and routes to the other's.
fn state(n: usize, workload: &Netns) -> v1::NodeState {
    let (own, other) = (n + 1, 2 - n);
    let vni = 100 + own as u32;
    let gateways = vec![format!("10.{own}.0.1/24"), format!("fd00:{own}::1/64")];
    let bare = |gateway: &String| gateway.split('/').next().unwrap_or_default().to_owned();
    let route = |prefix: String| v1::NodeRoute {
        vrf: "default".into(),
        prefix,
        next_hops: vec![v1::NextHop {
            vtep: VTEPS[1 - n].into(),
            router_mac: router_mac(1 - n),
            ..Default::default()
        }],
    };
    v1::NodeState {
        revision: 1,
        node: "h".into(),
        vtep: VTEPS[n].into(),
        underlay_mtu: 1600,
        mode: v1::NodeMode::HostVtep.into(),
        networks: vec![v1::NodeNetwork {
            vni,
            vrf: "default".into(),
            network: format!("n{vni}"),
            mtu: 1450,
            bridge_mac: format!("02:bb:00:00:00:0{own}"),
            gateway_mac: "00:00:5e:00:01:01".into(),
            gateways: gateways.clone(),
            ..Default::default()
        }],
        vrfs: vec![v1::NodeVrf {
            name: "default".into(),
            l3_vni: 4000,
            router_mac: router_mac(n),
            table: 254,
        }],
        // As type 5 for the one family, as a host route for the other.
        routes: vec![route(format!("10.{other}.0.0/24")), route(format!("fd00:{other}::5/128"))],
        ports: vec![v1::NodePort {
            id: format!("default/n{vni}/p"),
            vni,
            mac: mac(own as u8),
            addresses: vec![format!("10.{own}.0.5/24"), format!("fd00:{own}::5/64")],
            gateways: gateways.iter().map(bare).collect(),
            mtu: 1450,
            netns: workload.path().display().to_string(),
            interface: "eth0".into(),
            generation: 1,
            kind: v1::WorkloadKind::Container.into(),
            attachment: v1::Attachment::VxlanBridge.into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

async fn pair() -> Result<(Host, Host, Netns, Netns)> {
    let (mut a, mut b) = (Host::new("a", VTEPS[0])?, Host::new("b", VTEPS[1])?);
    join(&a, &b)?;
    let (w1, w2) = (Netns::new("w1")?, Netns::new("w2")?);
    for (n, host, workload) in [(0, &mut a, &w1), (1, &mut b, &w2)] {
        // IPv6 has one switch for all interfaces, which is the host's own.
        host.netns.run("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
        let state = state(n, workload);
        host.set(&state).await?;
        host.wait_port(&state.ports[0].id, 1, "").await?;
        host.wait_settled(&state).await?;
    }
    Ok((a, b, w1, w2))
}

async fn reach(from: &Netns, to: &[&str]) -> Result<()> {
    for to in to {
        wait_for(&format!("ping {to}"), PATIENCE, || Ok(from.pings(to))).await?;
    }
    Ok(())
}

/// The agent leaves the host's own switch alone, and says that it is needed.
#[tokio::test]
async fn ipv6_that_is_not_forwarded_is_told() -> Result<()> {
    let (host, workload) = (Host::new("a", VTEPS[0])?, Netns::new("w1")?);
    let desired = Desired::from_state(&state(0, &workload), &Desired::default());
    let problems = |netns: std::path::PathBuf, desired: Desired| {
        let look =
            move || causeway_agent::netns::enter(&netns).map(|()| causeway_agent::checks::look(&desired));
        let found = std::thread::spawn(look).join().map_err(|_| anyhow::anyhow!("panicked"))??;
        Ok::<_, anyhow::Error>(
            found.iter().any(|problem| problem.contains("net.ipv6.conf.all.forwarding is 0")),
        )
    };
    host.netns.run("sysctl -qw net.ipv6.conf.all.forwarding=0")?;
    ensure!(problems(host.netns.path(), desired.clone())?, "not told");
    host.netns.run("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
    ensure!(!problems(host.netns.path(), desired)?, "still told");
    Ok(())
}

#[tokio::test]
async fn networks_of_two_hosts_are_routed_through_the_l3_vni() -> Result<()> {
    let (mut a, _b, w1, w2) = pair().await?;
    // The gateway here, and the workload there.
    reach(&w1, &["10.1.0.1", "fd00:1::1", "10.2.0.5", "fd00:2::5"]).await?;
    reach(&w2, &["10.2.0.1", "fd00:2::1", "10.1.0.5", "fd00:1::5"]).await?;
    // A restart changes nothing.
    let wanted = state(0, &w1);
    a.stop();
    a.start()?;
    a.set(&wanted).await?;
    a.wait_port(&wanted.ports[0].id, 1, "").await?;
    a.wait_settled(&wanted).await?;
    ensure!(a.plane()?.progress.borrow().steps == 0, "took steps");
    // Full packets of the inner MTU pass.
    w1.run("ping -n -c 1 -W 2 -M do -s 1422 10.2.0.5")?;
    Ok(())
}

#[tokio::test]
async fn what_is_taken_from_routing_comes_back() -> Result<()> {
    let (a, _b, w1, _w2) = pair().await?;
    reach(&w1, &["10.2.0.5"]).await?;
    let wanted = state(0, &w1);
    for damage in [
        "ip route del 10.2.0.0/24 proto 77",
        "ip neigh del 192.0.2.2 dev cwr4000",
        "bridge fdb del 02:cc:00:00:00:02 dev cwl4000 self",
        "ip address del 10.1.0.1/24 dev cwb101",
        "ip link set cwr4000 down",
        "ip link del cwl4000",
        "ip link del cwr4000",
        "ip link del cwb101",
    ] {
        a.netns.run(damage)?;
        wait_for(damage, PATIENCE, || Ok(assert_settled(&a.look(&wanted)?).is_ok())).await?;
        reach(&w1, &["10.1.0.1", "10.2.0.5", "fd00:2::5"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn routing_goes_by_delta_and_strangers_stay() -> Result<()> {
    let (mut a, _b, w1, _w2) = pair().await?;
    a.netns.run("ip link add cwr9 type bridge")?;
    a.netns.run("ip route add 10.77.0.0/16 dev u0 metric 1077 proto 42")?;
    let mut wanted = state(0, &w1);
    let mut network = wanted.networks[0].clone();
    network.gateways.clear();
    network.gateway_mac.clear();
    let delta = v1::NodeDelta {
        revision: 2,
        networks: vec![network.clone()],
        deleted_routes: std::mem::take(&mut wanted.routes),
        deleted_vrfs: vec!["default".into()],
        ..Default::default()
    };
    a.change(delta).await?;
    a.wait_revision(2).await?;
    wanted.networks = vec![network];
    wanted.vrfs.clear();
    a.wait_settled(&wanted).await?;
    let links = a.netns.run("ip -o link")?;
    ensure!(!links.contains("cwr4000") && !links.contains("cwl4000") && links.contains("cwr9"), "{links}");
    let (addresses, routes) = (a.netns.run("ip -o address")?, a.netns.run("ip route")?);
    ensure!(!addresses.contains("10.1.0.1") && routes.contains("10.77.0.0/16"), "{addresses} {routes}");
    Ok(())
}

#[tokio::test]
async fn the_rendered_script_makes_what_the_agent_makes() -> Result<()> {
    let (a, w1) = (Host::new("a", VTEPS[0])?, Netns::new("w1")?);
    let mut wanted = state(0, &w1);
    wanted.ports.clear();
    let rendered = render(&wanted, Format::Linux);
    ensure!(rendered.problems.is_empty(), "{:?}", rendered.problems);
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), rendered.text)?;
    for _ in 0..2 {
        a.netns.run(&format!("sh {}", script.path().display()))?;
        let mut left = a.look(&wanted)?;
        // A flag that only some kernels and tools know.
        left.ops.retain(|op| !op.to_string().ends_with("neigh_forward_grat on"));
        assert_settled(&left)?;
    }
    Ok(())
}
