//! Workloads come, talk, move and go.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, assert_settled, dev, join, mac, network, port, remote, state};
use crate::netns::{Netns, run, wait_for};

async fn pair(vteps: [&str; 2]) -> Result<(Host, Host, Netns, Netns)> {
    let (mut a, mut b) = (Host::new("a", vteps[0])?, Host::new("b", vteps[1])?);
    join(&a, &b)?;
    let (w5, w6) = (Netns::new("w5")?, Netns::new("w6")?);
    let (state_a, state_b) = (state(&a, 5, &w5, 6, vteps[1]), state(&b, 6, &w6, 5, vteps[0]));
    a.set(&state_a).await?;
    b.set(&state_b).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    b.wait_port("default/n100/p6", 1, "").await?;
    assert_settled(&a.look(&state_a)?)?;
    assert_settled(&b.look(&state_b)?)?;
    Ok((a, b, w5, w6))
}

async fn both_ways(w5: &Netns, w6: &Netns) -> Result<()> {
    for (from, to) in [(w5, "10.8.0.6"), (w6, "10.8.0.5"), (w5, "fd00:8::6"), (w6, "fd00:8::5")] {
        wait_for(&format!("ping {to}"), PATIENCE, || Ok(from.pings(to))).await?;
    }
    Ok(())
}

#[tokio::test]
async fn workloads_ping_over_an_ipv4_underlay() -> Result<()> {
    let (_a, _b, w5, w6) = pair(["192.0.2.1", "192.0.2.2"]).await?;
    both_ways(&w5, &w6).await?;
    // What a full-size packet needs.
    w5.run("ping -n -c 1 -W 2 -M do -s 1422 10.8.0.6")?;
    let link = w5.run("ip -d link show dev eth0")?;
    ensure!(link.contains("mtu 1450") && link.contains(&mac(5)), "{link}");
    ensure!(w5.run("ip route")?.contains("default via 10.8.0.1 dev eth0 proto 77 onlink"));
    ensure!(w5.run("ip -6 route")?.contains("default via fd00:8::1 dev eth0 proto 77"));
    Ok(())
}

#[tokio::test]
async fn workloads_ping_over_an_ipv6_underlay() -> Result<()> {
    let (_a, _b, w5, w6) = pair(["2001:db8::1", "2001:db8::2"]).await?;
    both_ways(&w5, &w6).await
}

#[tokio::test]
async fn arp_and_nd_for_remote_workloads_are_answered_here() -> Result<()> {
    // Nobody is behind the other VTEP, so only suppression can answer.
    let mut host = Host::new("a", "192.0.2.1")?;
    let w5 = Netns::new("w5")?;
    let mut wanted = state(&host, 5, &w5, 6, "192.0.2.2");
    wanted.floods.clear();
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, "").await?;
    for ip in ["10.8.0.6", "fd00:8::6"] {
        wait_for(ip, PATIENCE, || {
            let _ = w5.pings(ip);
            Ok(w5.run(&format!("ip neigh show {ip}"))?.contains(&mac(6)))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn restart_loses_no_packet_and_touches_nothing() -> Result<()> {
    let (mut a, b, w5, w6) = pair(["192.0.2.1", "192.0.2.2"]).await?;
    both_ways(&w5, &w6).await?;
    let before = a.netns.run("ip -o link")?;
    let mut monitor = a.netns.spawn("ip -o monitor link neigh")?;
    let ping = w6.spawn("ping -n -i 0.01 -c 200 10.8.0.5")?;
    let wanted = state(&a, 5, &w5, 6, &b.vtep);
    for _ in 0..3 {
        a.stop();
        a.start()?;
        a.set(&wanted).await?;
        a.wait_port("default/n100/p5", 1, "").await?;
        ensure!(a.plane()?.progress.borrow().steps == 0, "took steps: {:?}", a.plane()?.progress.borrow());
    }
    let pinged = String::from_utf8(ping.wait_with_output()?.stdout)?;
    ensure!(pinged.contains(" 0% packet loss"), "{pinged}");
    ensure!(a.netns.run("ip -o link")? == before, "links changed");
    monitor.kill()?;
    let heard = String::from_utf8(monitor.wait_with_output()?.stdout)?;
    let ours: Vec<&str> = heard.lines().filter(|l| l.contains("cw")).collect();
    ensure!(ours.is_empty(), "events: {ours:#?}");
    eprintln!("{}", pinged.lines().filter(|l| l.contains("loss")).collect::<String>());
    Ok(())
}

#[tokio::test]
async fn missing_namespace_is_said_and_awaited() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let gone = Netns::new("w5")?;
    let wanted = state(&host, 5, &gone, 6, "192.0.2.2");
    let name = gone.name.clone();
    drop(gone);
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, &format!("netns /run/netns/{name} not found")).await?;
    run(&format!("ip netns add {name}"))?;
    let back = Netns { name };
    host.wait_port("default/n100/p5", 1, "").await?;
    back.run("ip link show dev eth0")?;
    assert_settled(&host.look(&wanted)?)?;
    // And gone again: watching it must not keep it alive.
    let path = back.path();
    drop(back);
    host.wait_port("default/n100/p5", 1, "not found").await?;
    ensure!(!path.exists());
    let port = dev(5, 100)?;
    wait_for("host side gone", PATIENCE, || Ok(!host.netns.run("ip -o link")?.contains(&port))).await?;
    Ok(())
}

#[tokio::test]
async fn workload_moves_between_namespaces_and_hosts() -> Result<()> {
    let (mut a, mut b, w5, w6) = pair(["192.0.2.1", "192.0.2.2"]).await?;
    both_ways(&w5, &w6).await?;
    // Another namespace on the same host.
    let new = Netns::new("new5")?;
    let mut moved = port(5, 100, &new);
    moved.generation = 2;
    a.change(v1::NodeDelta { revision: 2, ports: vec![moved], ..Default::default() }).await?;
    a.wait_port("default/n100/p5", 2, "").await?;
    ensure!(w5.run("ip link show dev eth0").is_err(), "still in the old namespace");
    both_ways(&new, &w6).await?;
    // To the other host: same address, same MAC; the third workload stays and must find it at once.
    let next = Netns::new("next5")?;
    let mut moved = port(5, 100, &next);
    moved.generation = 3;
    let gone = vec![remote(5, 100, "")];
    let to_b = v1::NodeDelta { revision: 3, ports: vec![moved], deleted_remotes: gone, ..Default::default() };
    let from_a = v1::NodeDelta {
        revision: 3,
        deleted_ports: vec!["default/n100/p5".into()],
        remotes: vec![remote(5, 100, "192.0.2.2")],
        ..Default::default()
    };
    a.change(from_a).await?;
    b.change(to_b).await?;
    b.wait_port("default/n100/p5", 3, "").await?;
    let progress = &mut a.plane()?.progress;
    tokio::time::timeout(PATIENCE, progress.wait_for(|p| p.revision >= 3))
        .await
        .context("the old host")??;
    // Both have done it, so the first packet gets there: nobody has to learn or to forget anything before.
    w6.run("ping -n -c 1 -W 10 10.8.0.5").context("the first packet after the move")?;
    let (fdb, behind_b) = (a.netns.run("bridge fdb show dev cwx100")?, format!("{} dst 192.0.2.2", mac(5)));
    ensure!(fdb.contains(&behind_b), "the old host does not forward to the new one: {fdb}");
    Ok(())
}

#[tokio::test]
async fn address_is_announced_once_a_generation() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let (w5, w7) = (Netns::new("w5")?, Netns::new("w7")?);
    let mut wanted = state(&host, 7, &w7, 6, "192.0.2.2");
    host.set(&wanted).await?;
    host.wait_port("default/n100/p7", 1, "").await?;
    // What a neighbour on the same bridge hears.
    let mut listen = w7.spawn("tcpdump -lnn -i eth0 -Q in arp or (icmp6 and ip6[40]==136)")?;
    let lines = Lines::of(&mut listen)?;
    wait_for("tcpdump", PATIENCE, || Ok(lines.count("listening on") > 0)).await?;
    wanted.ports.push(port(5, 100, &w5));
    wanted.revision = 2;
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, "").await?;
    let count = |what: &str| lines.count(what);
    wait_for("five requests", PATIENCE, || {
        Ok(count("Request who-has 10.8.0.5 (ff:ff:ff:ff:ff:ff) tell 10.8.0.5")
            + count("Request who-has 10.8.0.5 tell 10.8.0.5")
            >= 5)
    })
    .await?;
    wait_for("five replies", PATIENCE, || Ok(count("Reply 10.8.0.5 is-at") >= 5)).await?;
    wait_for("five advertisements", PATIENCE, || Ok(count("tgt is fd00:8::5") >= 5)).await?;
    // A restarted agent keeps quiet, a new generation is announced again.
    host.stop();
    host.start()?;
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, "").await?;
    ensure!(count("Reply 10.8.0.5 is-at") == 5, "announced again after a restart");
    wanted.ports[1].generation = 2;
    wanted.revision = 3;
    host.set(&wanted).await?;
    wait_for("ten replies", PATIENCE, || Ok(count("Reply 10.8.0.5 is-at") == 10)).await?;
    listen.kill()?;
    listen.wait()?;
    Ok(())
}

#[tokio::test]
async fn announcement_crosses_the_tunnel_where_the_kernel_lets_it() -> Result<()> {
    let (mut a, b, w5, w6) = pair(["192.0.2.1", "192.0.2.2"]).await?;
    both_ways(&w5, &w6).await?;
    let mut listen = w6.spawn("tcpdump -lnn -i eth0 -Q in arp or (icmp6 and ip6[40]==136)")?;
    let lines = Lines::of(&mut listen)?;
    wait_for("tcpdump", PATIENCE, || Ok(lines.count("listening on") > 0)).await?;
    let mut again = port(5, 100, &w5);
    again.generation = 2;
    a.change(v1::NodeDelta { revision: 2, ports: vec![again], ..Default::default() }).await?;
    a.wait_port("default/n100/p5", 2, "").await?;
    // neigh_forward_grat: without it a port with suppression gets no gratuitous announcement, in no direction.
    let supported = b.forwards_gratuitous()?;
    eprintln!("this kernel forwards gratuitous announcements in spite of suppression: {supported}");
    let heard = || Ok(lines.count("Reply 10.8.0.5 is-at") > 0 && lines.count("tgt is fd00:8::5") > 0);
    let within = if supported { PATIENCE } else { Duration::from_secs(4) };
    ensure!(wait_for("announcement", within, heard).await.is_ok() == supported);
    listen.kill()?;
    listen.wait()?;
    Ok(())
}

/// Lines that a child has printed so far.
struct Lines(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

impl Lines {
    fn of(child: &mut std::process::Child) -> Result<Self> {
        let lines = Lines(Default::default());
        lines.take(child.stdout.take().context("stdout")?);
        lines.take(child.stderr.take().context("stderr")?);
        Ok(lines)
    }

    fn take(&self, from: impl std::io::Read + Send + 'static) {
        use std::io::BufRead;
        let sink = std::sync::Arc::clone(&self.0);
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(from).lines().map_while(Result::ok) {
                if let Ok(mut sink) = sink.lock() {
                    sink.push(line);
                }
            }
        });
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().map(|l| l.iter().filter(|l| l.contains(what)).count()).unwrap_or_default()
    }
}

#[tokio::test]
async fn what_stands_in_the_way_is_said_and_left_alone() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let w5 = Netns::new("w5")?;
    w5.run("ip link add eth0 type bridge")?;
    let wanted = state(&host, 5, &w5, 6, "192.0.2.2");
    host.set(&wanted).await?;
    host.wait_port("default/n100/p5", 1, "eth0 exists in netns").await?;
    ensure!(w5.run("ip -d link show dev eth0")?.contains("bridge"), "touched");
    // Once it is gone the port is attached without being asked.
    w5.run("ip link del eth0")?;
    host.wait_port("default/n100/p5", 1, "").await?;

    // Own namespace.
    let mut own = wanted.clone();
    own.ports[0].netns = host.netns.path().display().to_string();
    own.ports[0].generation = 2;
    host.set(&own).await?;
    host.wait_port("default/n100/p5", 2, "is the host's own").await?;

    // A VNI that somebody else uses, until he does no more.
    let mut second = wanted.clone();
    second.networks.push(network(200, 5));
    let w7 = Netns::new("w7")?;
    second.ports.push(port(7, 200, &w7));
    host.netns.run("ip link add vx0 type vxlan id 200 local 192.0.2.1 dstport 4789 nolearning")?;
    host.set(&second).await?;
    host.wait_port("default/n200/p7", 1, "VNI 200 is in use by vx0").await?;
    host.netns.run("ip link show dev vx0")?;
    host.netns.run("ip link del vx0")?;
    host.wait_port("default/n200/p7", 1, "").await?;
    assert_settled(&host.look(&second)?)
}

#[tokio::test]
async fn two_ports_in_one_namespace_and_by_pid() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let w5 = Netns::new("w5")?;
    let mut sleeper = w5.spawn("sleep 600")?;
    let pid = sleeper.id();
    wait_for("in the namespace", PATIENCE, || {
        let own = std::fs::read_link(format!("/proc/{pid}/ns/net"))?;
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        Ok(own != ours)
    })
    .await?;
    let mut wanted = state(&host, 5, &w5, 6, "192.0.2.2");
    wanted.ports[0].netns = format!("pid:{pid}");
    wanted.networks.push(network(200, 5));
    let mut second = port(7, 200, &w5);
    second.interface = "eth1".into();
    second.addresses = vec!["10.9.0.7/24".into()];
    second.gateways.clear();
    wanted.ports.push(second);
    host.set(&wanted).await?;
    host.wait_port("default/n200/p7", 1, "").await?;
    let addresses = w5.run("ip -o address")?;
    ensure!(addresses.contains("10.8.0.5/24") && addresses.contains("10.9.0.7/24"), "{addresses}");
    assert_settled(&host.look(&wanted)?)?;
    sleeper.kill()?;
    sleeper.wait()?;
    host.wait_port("default/n100/p5", 1, &format!("netns pid:{pid} not found")).await
}
