//! What others break comes back; what is theirs stays.

use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, assert_settled, dev, mac, state};
use crate::netns::{Netns, wait_for};

/// From the event to the repaired state.
const BACK_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn drift_is_repaired_within_a_second() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let w5 = Netns::new("w5")?;
    let wanted = state(&host, 5, &w5, 6, "192.0.2.2");
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, "").await?;
    let (port, m5, m6) = (dev(5, 100)?, mac(5), mac(6));
    let ours = [
        format!("bridge fdb del {m6} dev cwx100 self"),
        format!("bridge fdb del {m6} dev cwx100 master"),
        format!("bridge fdb del {m5} dev {port} master"),
        format!("bridge fdb replace {m6} dev cwx100 self dst 192.0.2.99"),
        format!("bridge fdb replace {m6} dev {port} master static"),
        format!("bridge fdb replace {m6} dev cwx100 master local"),
        "bridge fdb del 00:00:00:00:00:00 dev cwx100 self dst 192.0.2.2".into(),
        "bridge fdb append 00:00:00:00:00:00 dev cwx100 self dst 192.0.2.99".into(),
        "bridge fdb add 02:ff:ff:00:00:01 dev cwx100 self master static dst 192.0.2.99".into(),
        "ip neigh del 10.8.0.6 dev cwb100".into(),
        "ip neigh del fd00:8::6 dev cwb100".into(),
        format!("ip neigh replace 10.8.0.6 lladdr {m5} dev cwb100"),
        "ip link set cwb100 down".into(),
        "ip link set cwx100 down".into(),
        format!("ip link set {port} down"),
        "ip link set cwb100 mtu 1400".into(),
        "ip link set cwx100 mtu 1400".into(),
        format!("ip link set {port} mtu 1400"),
        "ip link set cwb100 address 02:00:00:00:00:99".into(),
        "ip link set cwb100 group 0".into(),
        "ip link set cwb100 alias causeway:gone".into(),
        "ip link set cwx100 nomaster".into(),
        format!("ip link set {port} nomaster"),
        "ip link set cwx100 type bridge_slave learning on neigh_suppress off".into(),
        format!("ip link set {port} type bridge_slave learning on"),
        "ip link set cwx100 addrgenmode eui64".into(),
        "ip link del cwx100".into(),
        "ip link del cwb100".into(),
        format!("ip link del {port}"),
    ];
    let inside = [
        "ip address del 10.8.0.5/24 dev eth0",
        "ip address del fd00:8::5/64 dev eth0",
        "ip address flush dev eth0",
        "ip route del default",
        "ip -6 route del default",
        "ip link set eth0 down",
        "ip link set eth0 mtu 1400",
        "ip link set eth0 address 02:00:00:00:00:98",
        "ip link set lo down",
        "ip link del eth0",
    ];
    let ours = ours.iter().map(|c| (&host.netns, c.as_str()));
    let all: Vec<_> = ours.chain(inside.iter().map(|c| (&w5, *c))).collect();
    let mut slowest = Duration::ZERO;
    for (netns, command) in all {
        let steps = |host: &Host| host.plane.as_ref().map_or(0, |p| p.progress.borrow().steps);
        let before = steps(&host);
        netns.run(command)?;
        let what = format!("repair of: {command}");
        // A step was taken, or the command broke nothing and this proves nothing.
        let settled = || Ok(steps(&host) > before && assert_settled(&host.look(&wanted)?).is_ok());
        let Ok(took) = wait_for(&what, BACK_WITHIN * 5, settled).await else {
            assert_settled(&host.look(&wanted)?)?;
            anyhow::bail!(what);
        };
        eprintln!("{took:>12.1?}  {command}");
        ensure!(took < BACK_WITHIN, "{what}: {took:?}");
        slowest = slowest.max(took);
    }
    eprintln!("slowest {slowest:?}");
    Ok(())
}

#[tokio::test]
async fn foreign_things_survive_everything() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let w5 = Netns::new("w5")?;
    for command in [
        "ip link add br0 type bridge",
        "ip link add cwb77 type bridge",
        "ip link add veth0 type veth peer name veth1",
        "ip link set veth0 master br0 up",
        "ip link add vx9 type vxlan id 9 local 192.0.2.1 dstport 4789 nolearning",
        "ip link set vx9 master br0 up",
        "ip link set br0 up",
        "ip address add 10.77.0.1/24 dev br0",
        "ip route add 10.78.0.0/24 via 10.77.0.2",
        "bridge fdb add 02:11:00:00:00:01 dev vx9 self master static dst 192.0.2.50",
        "bridge fdb append 00:00:00:00:00:00 dev vx9 self dst 192.0.2.50",
        "ip neigh add 10.77.0.9 lladdr 02:11:00:00:00:02 dev br0 nud permanent",
    ] {
        host.netns.run(command)?;
    }
    w5.run("ip link add mine type veth peer name mine1")?;
    w5.run("ip link set mine up")?;
    w5.run("ip address add 10.99.0.1/24 dev mine")?;
    w5.run("ip route add 10.98.0.0/24 dev mine")?;
    let looks = |host: &Host| -> Result<String> {
        let mut all = String::new();
        for command in ["ip -o link", "ip -o address", "ip route", "bridge fdb", "ip neigh"] {
            let shown = host.netns.run(command)?;
            // Ours come and go; the rest stays. Reference counts and timers are not shown by these commands.
            all.extend(
                shown
                    .lines()
                    .filter(|l| !l.contains("cwb100") && !l.contains("cwx100") && !l.contains("cwp"))
                    // The kernel ends its own duplicate detection when it likes.
                    .map(|l| format!("{}\n", l.replace(" tentative", ""))),
            );
        }
        Ok(all + &w5.run("ip -o address show dev mine")? + &w5.run("ip route show dev mine")?)
    };
    let before = looks(&host)?;
    let wanted = state(&host, 5, &w5, 6, "192.0.2.2");
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, "").await?;
    ensure!(looks(&host)? == before, "attaching touched it:\n{before}\n{}", looks(&host)?);

    // Strangers on our own devices.
    for command in [
        "ip link add tap0 type veth peer name tap1",
        "ip link set tap0 master cwb100 up",
        "bridge fdb add 02:11:00:00:00:03 dev tap0 master static",
        "ip neigh add 10.8.0.200 lladdr 02:11:00:00:00:04 dev cwb100 nud noarp extern_learn protocol zebra",
        "ip address add 10.8.0.250/24 dev cwb100",
    ] {
        host.netns.run(command)?;
    }
    w5.run("ip address add 10.8.0.77/32 dev eth0")?;
    w5.run("ip route add 10.55.0.0/24 dev eth0")?;
    host.stop();
    host.start()?;
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, "").await?;
    ensure!(host.netns.run("bridge fdb show dev tap0")?.contains("02:11:00:00:00:03"));
    ensure!(host.netns.run("ip neigh show dev cwb100")?.contains("02:11:00:00:00:04"));
    ensure!(host.netns.run("ip address show dev cwb100")?.contains("10.8.0.250"));
    ensure!(
        w5.run("ip address show dev eth0")?.contains("10.8.0.77")
            && w5.run("ip route")?.contains("10.55.0.0/24")
    );
    host.netns.run("ip link del tap0")?;

    // Everything of ours goes.
    let empty = v1::NodeState {
        revision: 9,
        networks: vec![],
        ports: vec![],
        remotes: vec![],
        floods: vec![],
        ..wanted
    };
    host.set(&empty).await?;
    host.wait_revision(9).await?;
    ensure!(looks(&host)? == before, "leaving touched it:\n{before}\n{}", looks(&host)?);
    let links = host.netns.run("ip -o link")?;
    ensure!(!links.contains("cwx") && !links.contains("cwb100") && !links.contains("cwp"), "{links}");
    ensure!(w5.run("ip link show dev eth0").is_err());
    Ok(())
}

#[tokio::test]
async fn nothing_is_pruned_before_a_complete_state() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let w5 = Netns::new("w5")?;
    let wanted = state(&host, 5, &w5, 6, "192.0.2.2");
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, "").await?;
    host.stop();
    let before = host.netns.run("bridge fdb")?;
    host.start()?;
    // It runs, hears and is asked for its status, but knows nothing yet.
    let report = causeway_agent::reconcile::Command::ReportAll;
    host.plane()?.commands.send(report).await?;
    host.netns.run("ip link set cwb100 mtu 1400")?;
    host.stop();
    ensure!(host.netns.run("bridge fdb")? == before);
    ensure!(host.netns.run("ip link show dev cwb100")?.contains("mtu 1400"), "touched without a state");
    Ok(())
}
