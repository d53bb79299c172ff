//! Every kind of spoof is tried, from a guarded and from an unguarded workload, and looked for at the receiver.

pub(crate) mod frames;
mod ipvlan;
mod netdev;
mod trunk;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;

use self::frames::{Ears, MARKER, Mac, Wire, arp, icmp6, llc, neighbour, tagged, udp4, udp6};
use crate::host::{Host, PATIENCE, assert_settled, dev, network, port};
use crate::netns::{Netns, wait_for};

/// The guarded one, the receiver, and the one whose name is abused.
const OWN: Mac = [2, 0xca, 0x0a, 8, 0, 5];
const PEER: Mac = [2, 0xca, 0x0a, 8, 0, 6];
const VICTIM: Mac = [2, 0xca, 0x0a, 8, 0, 7];
const ALL: Mac = [0xff; 6];
const ZERO: Mac = [0; 6];
const IP: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 5);
const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 6);
const VICTIM_IP: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 7);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 5);
const PEER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 6);
const VICTIM_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 7);
const LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x00ca, 0x0aff, 0xfe08, 5);
const GATEWAY_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NOBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// Ethernet types of tags.
const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;

type Case = (&'static str, Vec<u8>);

fn plain() -> Vec<u8> {
    udp4(OWN, PEER, (IP, PEER_IP), (4000, 4001))
}

fn spoofs() -> Vec<Case> {
    let spoofed = udp4(OWN, PEER, (VICTIM_IP, PEER_IP), (4000, 4001));
    let na = |target, mac| neighbour(target, 2, mac);
    vec![
        ("MAC: unknown", udp4([2, 9, 9, 9, 9, 9], PEER, (IP, PEER_IP), (1, 2))),
        ("MAC: a neighbour's", udp4(VICTIM, PEER, (IP, PEER_IP), (1, 2))),
        ("IPv4 source", spoofed.clone()),
        ("IPv6 source", udp6(OWN, PEER, (VICTIM_IP6, PEER_IP6), (1, 2))),
        ("IPv6 link-local source", udp6(OWN, PEER, (GATEWAY_LOCAL, PEER_IP6), (1, 2))),
        ("ARP sender address", arp(OWN, ALL, 1, (OWN, VICTIM_IP), (ZERO, PEER_IP))),
        ("ARP sender MAC", arp(OWN, ALL, 1, (VICTIM, IP), (ZERO, PEER_IP))),
        ("ARP reply for another", arp(OWN, PEER, 2, (OWN, VICTIM_IP), (PEER, PEER_IP))),
        ("ARP announcement of another", arp(OWN, ALL, 1, (OWN, VICTIM_IP), (ZERO, VICTIM_IP))),
        ("ARP reply from 0.0.0.0", arp(OWN, PEER, 2, (OWN, NONE), (PEER, PEER_IP))),
        ("NA for another", icmp6(OWN, PEER, (IP6, PEER_IP6), 136, &na(VICTIM_IP6, OWN), false)),
        ("NA for the gateway", icmp6(OWN, PEER, (IP6, NODES), 136, &na(GATEWAY_LOCAL, OWN), false)),
        ("NS as another", {
            icmp6(OWN, PEER, (VICTIM_IP6, PEER_IP6), 135, &neighbour(PEER_IP6, 1, OWN), false)
        }),
        ("DAD for another", icmp6(OWN, PEER, (NOBODY, NODES), 135, &neighbour(VICTIM_IP6, 1, OWN), false)),
        ("RA", icmp6(OWN, PEER, (LOCAL, NODES), 134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0], false)),
        ("RA behind hop-by-hop", icmp6(OWN, PEER, (LOCAL, NODES), 134, &[0; 12], true)),
        ("Redirect", icmp6(OWN, PEER, (LOCAL, PEER_IP6), 137, &[0; 36], false)),
        ("DHCP server", udp4(OWN, PEER, (IP, PEER_IP), (67, 68))),
        ("DHCPv6 server", udp6(OWN, PEER, (LOCAL, PEER_IP6), (547, 546))),
        ("Tagged, spoofed", tagged(&spoofed, &[(Q, 100)])),
        ("Tagged, own address", tagged(&plain(), &[(Q, 100)])),
        ("Priority tag, spoofed", tagged(&spoofed, &[(Q, 0xe000)])),
        ("Priority tag, own address", tagged(&plain(), &[(Q, 0xe000)])),
        ("QinQ, spoofed", tagged(&spoofed, &[(AD, 100), (Q, 200)])),
        ("802.1ad tag, own address", tagged(&plain(), &[(AD, 100)])),
        ("LLC", llc(OWN, PEER, [0xaa, 0xaa, 3])),
        ("STP", llc(OWN, [1, 0x80, 0xc2, 0, 0, 0], [0x42, 0x42, 3])),
        ("Another Ethernet type", {
            let mut frame = plain();
            frame[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
            frame
        }),
    ]
}

fn legal() -> Vec<Case> {
    let mld = [0, 0, 0, 1, 4, 0, 0, 0];
    vec![
        ("IPv4", plain()),
        ("IPv6", udp6(OWN, PEER, (IP6, PEER_IP6), (1, 2))),
        ("IPv6 link-local", udp6(OWN, PEER, (LOCAL, PEER_IP6), (1, 2))),
        ("ARP request", arp(OWN, ALL, 1, (OWN, IP), (ZERO, PEER_IP))),
        ("ARP reply", arp(OWN, PEER, 2, (OWN, IP), (PEER, PEER_IP))),
        ("ARP probe (RFC 5227)", arp(OWN, ALL, 1, (OWN, NONE), (ZERO, IP))),
        ("ARP announcement", arp(OWN, ALL, 1, (OWN, IP), (ZERO, IP))),
        ("NS", icmp6(OWN, PEER, (IP6, NODES), 135, &neighbour(PEER_IP6, 1, OWN), false)),
        ("NA", icmp6(OWN, PEER, (IP6, PEER_IP6), 136, &neighbour(IP6, 2, OWN), false)),
        ("NA link-local", icmp6(OWN, PEER, (LOCAL, PEER_IP6), 136, &neighbour(LOCAL, 2, OWN), false)),
        ("DAD", icmp6(OWN, PEER, (NOBODY, NODES), 135, &neighbour(IP6, 1, OWN), false)),
        ("DAD link-local", icmp6(OWN, PEER, (NOBODY, NODES), 135, &neighbour(LOCAL, 1, OWN), false)),
        ("RS", icmp6(OWN, PEER, (NOBODY, NODES), 133, &[0; 4], false)),
        ("MLDv2 from ::", icmp6(OWN, PEER, (NOBODY, NODES), 143, &mld, true)),
        ("MLDv2", icmp6(OWN, PEER, (LOCAL, NODES), 143, &mld, true)),
        ("DHCP client", udp4(OWN, ALL, (NONE, Ipv4Addr::BROADCAST), (68, 67))),
        ("DHCPv6 client", udp6(OWN, PEER, (LOCAL, NODES), (546, 547))),
    ]
}

/// One host with three workloads in one network; the first is guarded if asked.
struct Trio {
    host: Host,
    workloads: [Netns; 3],
    state: v1::NodeState,
}

impl Trio {
    async fn new(guarded: bool) -> Result<Self> {
        let host = Host::new("g", "192.0.2.1")?;
        let workloads = [Netns::new("w5")?, Netns::new("w6")?, Netns::new("w7")?];
        let mut ports: Vec<v1::NodePort> =
            workloads.iter().zip(5u8..).map(|(netns, n)| port(n, 100, netns)).collect();
        ports[0].guarded = guarded;
        let state = v1::NodeState {
            revision: 1,
            node: "h".into(),
            vtep: host.vtep.clone(),
            networks: vec![network(100, 1)],
            ports,
            mode: v1::NodeMode::HostVtep.into(),
            ..v1::NodeState::default()
        };
        let mut trio = Trio { host, workloads, state };
        trio.host.set(&trio.state).await?;
        trio.settle().await?;
        Ok(trio)
    }

    /// Waits until nothing is left to do.
    async fn settle(&self) -> Result<()> {
        let settled = || Ok(assert_settled(&self.host.look(&self.state)?).is_ok());
        wait_for("settled", PATIENCE, settled).await.map(|_| ())?;
        assert_settled(&self.host.look(&self.state)?)
    }

    async fn guard(&mut self, guarded: bool) -> Result<()> {
        self.state.revision += 1;
        self.state.ports[0].guarded = guarded;
        let delta = v1::NodeDelta {
            revision: self.state.revision,
            ports: vec![self.state.ports[0].clone()],
            ..v1::NodeDelta::default()
        };
        self.host.change(delta).await?;
        self.settle().await
    }

    fn table(&self) -> Result<String> {
        self.host.netns.run("nft -a list table bridge causeway")
    }
}

/// Sends each frame, then one that surely passes; says which arrived before it.
fn arrivals(from: &Wire, to: &mut Ears, sure: &[u8], cases: &[Case]) -> Result<Vec<bool>> {
    arrivals_beside(from, from, to, sure, cases)
}

/// What surely passes is sent by a socket of its own.
fn arrivals_beside(
    from: &Wire,
    beside: &Wire,
    to: &mut Ears,
    sure: &[u8],
    cases: &[Case],
) -> Result<Vec<bool>> {
    let mut arrived = Vec::new();
    for (number, (name, frame)) in cases.iter().enumerate() {
        let marker = |what: u8| -> [u8; MARKER] {
            let mut marker = *b"causeway-guard..";
            marker[14] = what;
            marker[15] = number as u8;
            marker
        };
        from.send(&[frame, &marker(b'?')[..]].concat()).context(*name)?;
        beside.send(&[sure, &marker(b'!')[..]].concat())?;
        arrived.push(to.sees(&marker(b'?'), &marker(b'!')).context(*name)?);
    }
    Ok(arrived)
}

#[tokio::test]
async fn spoofs_are_dropped_and_legal_traffic_passes() -> Result<()> {
    let mut trio = Trio::new(true).await?;
    let (from, mut to) = (Wire::open(&trio.workloads[0])?, Ears::all(&trio.workloads[1], "eth0")?);
    let (spoofs, legal) = (spoofs(), legal());
    let guarded = [arrivals(&from, &mut to, &plain(), &spoofs)?, arrivals(&from, &mut to, &plain(), &legal)?];
    let fdb = trio.host.netns.run("bridge fdb show br cwb100")?;
    let victim = format!("02:ca:0a:08:00:07 dev {}", dev(7, 100)?);
    ensure!(fdb.contains(&victim), "the neighbour's entry moved:\n{fdb}");

    trio.guard(false).await?;
    let unguarded =
        [arrivals(&from, &mut to, &plain(), &spoofs)?, arrivals(&from, &mut to, &plain(), &legal)?];

    let mut table = format!("{:<30} {:>10} {:>10}\n", "", "guarded", "unguarded");
    let word = |arrived: bool| if arrived { "passes" } else { "dropped" };
    for (part, cases) in [&spoofs, &legal].into_iter().enumerate() {
        for (n, (name, _)) in cases.iter().enumerate() {
            let (on, off) = (word(guarded[part][n]), word(unguarded[part][n]));
            writeln!(table, "{name:<30} {on:>10} {off:>10}")?;
        }
    }
    println!("{table}");
    ensure!(guarded[0].iter().all(|arrived| !arrived), "a spoof passes:\n{table}");
    ensure!(guarded[1].iter().all(|arrived| *arrived), "legal traffic is dropped:\n{table}");
    ensure!(unguarded.iter().flatten().all(|arrived| *arrived), "an unguarded port drops:\n{table}");
    Ok(())
}

#[tokio::test]
async fn guard_is_switched_under_traffic_without_loss() -> Result<()> {
    let mut trio = Trio::new(false).await?;
    ensure!(trio.table().is_err(), "nobody is guarded, and there is a table");
    for to in ["10.8.0.6", "fd00:8::6"] {
        wait_for(to, PATIENCE, || Ok(trio.workloads[0].pings(to))).await?;
    }
    let ping4 = trio.workloads[0].spawn("ping -n -i 0.01 -c 300 10.8.0.6")?;
    let ping6 = trio.workloads[0].spawn("ping -n -i 0.01 -c 300 fd00:8::6")?;
    for guarded in [true, false, true, false, true] {
        trio.guard(guarded).await?;
        let port = trio.host.netns.run(&format!("bridge -d link show dev {}", dev(5, 100)?))?;
        let word = if guarded { "locked on" } else { "locked off" };
        ensure!(port.contains(word) && port.contains("learning off"), "{port}");
        ensure!(trio.table().is_ok() == guarded);
    }
    for ping in [ping4, ping6] {
        let output = String::from_utf8(ping.wait_with_output()?.stdout)?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
    }
    Ok(())
}

#[tokio::test]
async fn damaged_rules_are_repaired_and_others_left_alone() -> Result<()> {
    let trio = Trio::new(true).await?;
    let netns = &trio.host.netns;
    let own = dev(5, 100)?;
    for family in ["bridge", "inet"] {
        netns.run(&format!("nft add table {family} other"))?;
        netns.run(&format!("nft add chain {family} other c"))?;
        netns.run(&format!("nft add rule {family} other c counter"))?;
    }
    let others = |netns: &Netns| -> Result<Vec<String>> {
        ["bridge", "inet"].iter().map(|f| netns.run(&format!("nft -a list table {f} other"))).collect()
    };
    let before = others(netns)?;
    let whole = netns.run("nft list table bridge causeway")?;
    let damages = [
        "nft flush table bridge causeway".to_owned(),
        "nft delete table bridge causeway".to_owned(),
        format!("nft flush chain bridge causeway {own}"),
        format!("nft insert rule bridge causeway {own} accept"),
        format!("nft delete element bridge causeway ports {{ \"{own}\" }}"),
        format!("nft add element bridge causeway ports {{ \"stray\" : jump {own} }}"),
        "nft flush chain bridge causeway input".to_owned(),
        "nft insert rule bridge causeway input accept".to_owned(),
    ];
    for damage in &damages {
        netns.run(damage)?;
        let repaired = || Ok(netns.run("nft list table bridge causeway").is_ok_and(|now| now == whole));
        wait_for(damage, PATIENCE, repaired).await?;
        trio.settle().await?;
    }
    ensure!(others(netns)? == before, "tables of others were touched");
    Ok(())
}

#[tokio::test]
async fn restart_leaves_the_rules_as_they_are() -> Result<()> {
    let mut trio = Trio::new(true).await?;
    // Handles grow with every rule that is made.
    let before = trio.table()?;
    for _ in 0..2 {
        trio.host.stop();
        ensure!(trio.table()? == before, "rules went with the agent");
        trio.host.start()?;
        let state = trio.state.clone();
        trio.host.set(&state).await?;
        trio.host.wait_port("default/n100/p5", 1, "").await?;
        ensure!(trio.table()? == before, "rules were made again");
    }
    Ok(())
}

#[tokio::test]
async fn guard_goes_with_its_port_and_table_with_the_last() -> Result<()> {
    let mut trio = Trio::new(true).await?;
    let gone = trio.state.ports.remove(0);
    trio.state.revision += 1;
    let revision = trio.state.revision;
    let delta = v1::NodeDelta { revision, deleted_ports: vec![gone.id], ..v1::NodeDelta::default() };
    trio.host.change(delta).await?;
    trio.settle().await?;
    wait_for("no table", PATIENCE, || Ok(trio.table().is_err())).await?;
    Ok(())
}
