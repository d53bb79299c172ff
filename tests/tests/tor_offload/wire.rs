//! What captures on links show.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::fabric::capture::{Capture, SEEN};
use causeway_tests::fabric::{Parties, ping};
use causeway_tests::{Lab, wait_for};

/// All addresses of workloads and machines.
const WORKLOADS: &str = "net 10.10.0.0/16 or net 10.20.0.0/16 or net 172.31.0.0/16 or net fd00:10::/64 or net fd00:20::/64 or net fd31::/48";

/// 802.1Q with the right VLAN towards hosts, VXLAN and nothing else between switches.
pub(crate) async fn tags_and_tunnels(lab: &Lab, parties: &Parties) -> Result<()> {
    let (b1, b3) = (parties.get("b1")?, parties.get("b3")?);
    let (m1, i1, bm1) = (parties.get("m1")?, parties.get("i1")?, parties.get("bm1")?);
    let (bm2, cloud) = (parties.get("bm2")?, parties.get("cloud")?);
    let between = format!("udp port 4789 or {WORKLOADS}");
    let host1 = Capture::start(lab, "leaf1", "eth3", "").await?;
    let host2 = Capture::start(lab, "leaf2", "eth3", "").await?;
    let machine = Capture::start(lab, "leaf3", "eth3", "").await?;
    let spines = [
        Capture::start(lab, "spine1", "any", &between).await?,
        Capture::start(lab, "spine2", "any", &between).await?,
    ];
    let to_web: [&str; 8] =
        [&m1.ipv4, &m1.ipv6, &bm1.ipv4, &i1.ipv4, &bm2.ipv4, &bm2.ipv6, &cloud.ipv4, &cloud.ipv6];
    let to_db: [&str; 2] = [&i1.ipv4, &i1.ipv6];
    let (from_web, from_db) = tokio::join!(ping(lab, b1, &to_web, 20), ping(lab, b3, &to_db, 20));
    for (address, sent) in from_web?.into_iter().chain(from_db?) {
        sent.with_context(|| format!("no answer from {address}"))?;
    }
    let one = |a: &str, b: &str| format!("{a} > {b}: ICMP");
    // On the hosts' links: tagged, both ways, with the sender's own addresses.
    host1.shows(&["vlan 10,", &format!("{} > {}: ICMP echo request", b1.ipv4, m1.ipv4)]).await?;
    host1.shows(&["vlan 10,", &format!("{} > {}: ICMP echo reply", m1.ipv4, b1.ipv4)]).await?;
    host1.shows(&["vlan 10,", &format!("{} > {}: ICMP6, echo request", b1.ipv6, m1.ipv6)]).await?;
    host1.shows(&["vlan 20,", &format!("{} > {}: ICMP echo request", b3.ipv4, i1.ipv4)]).await?;
    host2.shows(&["vlan 10,", &format!("{} > {}: ICMP echo request", b1.ipv4, m1.ipv4)]).await?;
    // Routed by leaf1 and delivered in VLAN 20.
    host1.shows(&["vlan 10,", &format!("{} > {}: ICMP echo request", b1.ipv4, i1.ipv4)]).await?;
    host2.shows(&["vlan 20,", &format!("{} > {}: ICMP echo request", b1.ipv4, i1.ipv4)]).await?;
    machine.shows(&["ethertype IPv4", &format!("{} > {}: ICMP echo request", b1.ipv4, bm1.ipv4)]).await?;
    for capture in [&host1, &host2, &machine] {
        capture.never(&["VXLAN"])?;
        capture.never(&[".4789:"])?;
    }
    for capture in [&host1, &host2] {
        let plain = |f: &String| f.contains("ICMP") && f.contains("10.") && !f.contains("802.1Q");
        let frames: Vec<String> = capture.frames().into_iter().filter(plain).collect();
        ensure!(frames.is_empty(), "untagged frames of workloads on {}: {frames:#?}", capture.what);
    }
    machine.never(&["802.1Q"])?;
    // Between switches: each flow takes one of the spines.
    for (vni, text) in [
        ("vni 10010", one(&b1.ipv4, &m1.ipv4)),
        ("vni 10010", one(&b1.ipv4, &bm1.ipv4)),
        ("vni 4001", one(&b1.ipv4, &bm2.ipv4)),
        ("vni 4001", format!("{} > {}: ICMP6", b1.ipv6, bm2.ipv6)),
        ("vni 4001", one(&b1.ipv4, &cloud.ipv4)),
        ("vni 10020", one(&b3.ipv4, &i1.ipv4)),
        ("vni 10020", format!("{} > {}: ICMP6", b3.ipv6, i1.ipv6)),
        ("vni 4001", format!("{} > {}: ICMP6", b1.ipv6, cloud.ipv6)),
    ] {
        wait_for(&format!("{text} in {vni} on a spine"), SEEN, async || {
            let found = spines.iter().flat_map(|s| s.having(&[vni, &text])).next();
            let all = || spines.iter().flat_map(Capture::frames).take(40).collect::<Vec<_>>();
            found.with_context(|| format!("there are only: {:#?}", all())).map(|f| println!("  {f}"))
        })
        .await?;
    }
    for spine in &spines {
        let plain: Vec<String> = spine.frames().into_iter().filter(|f| !f.contains(".4789: VXLAN")).collect();
        ensure!(plain.is_empty(), "outside of VXLAN on {}: {plain:#?}", spine.what);
    }
    Ok(())
}

/// A machine that its switch has forgotten answers the first packet; nobody asked it for its address; and what is sent to
/// nobody goes nowhere.
pub(crate) async fn silent_and_unknown(lab: &Lab, parties: &Parties) -> Result<()> {
    let (b1, b3, bm1, bm2) =
        (parties.get("b1")?, parties.get("b3")?, parties.get("bm1")?, parties.get("bm2")?);
    // Whom nobody has, with a MAC that nobody has.
    let (nobody, no_mac) = ("10.10.0.180", "02:00:00:00:99:99");
    let fresh = [
        (
            "b1",
            b1.node,
            b1.inside(&format!("ip neigh flush all; ip neigh replace {nobody} lladdr {no_mac} dev eth0")),
        ),
        ("b3", b3.node, b3.inside("ip neigh flush all")),
        ("bm1", bm1.node, bm1.inside("ip neigh flush all")),
        ("bm2", bm2.node, bm2.inside("ip neigh flush all")),
        // As if they had said nothing for longer than a switch remembers.
        (
            "leaf3",
            "leaf3",
            "for i in eth3 eth4; do ip link set $i type bridge_slave fdb_flush; done".to_string(),
        ),
    ];
    for (_, node, line) in &fresh {
        lab.shell(node, line).await?;
    }
    for (leaf, machine, mac) in [("leaf1", bm1, "02:00:00:00:00:b1"), ("leaf1", bm2, "02:00:00:00:00:b2")] {
        let what = format!("{leaf} knows {} by the controller alone", machine.name);
        wait_for(&what, Duration::from_secs(20), async || {
            let said = lab
                .shell(
                    leaf,
                    &format!(
                        "ip neigh show {}; ip neigh show {}; bridge fdb show | grep {mac}",
                        machine.ipv4, machine.ipv6
                    ),
                )
                .await?;
            ensure!(said.matches("extern_learn").count() >= 3, "{said}");
            Ok(())
        })
        .await?;
    }
    let forgotten = lab.shell("leaf3", "bridge fdb show | grep -c 02:00:00:00:00:b || true").await?;
    println!("entries of the machines at leaf3: {}", forgotten.trim());
    let owner = Capture::start(lab, "bm1", "eth1", "").await?;
    let owner6 = Capture::start(lab, "bm2", "eth1", "").await?;
    let asker = Capture::start(lab, "leaf1", "eth3", "").await?;
    let bystander = Capture::start(lab, "leaf2", "eth3", "").await?;
    let spines = [
        Capture::start(lab, "spine1", "any", "udp port 4789").await?,
        Capture::start(lab, "spine2", "any", "udp port 4789").await?,
    ];

    let (one, other): ([&str; 1], [&str; 1]) = ([&bm1.ipv4], [&bm2.ipv6]);
    let (first, first6) = tokio::join!(ping(lab, b1, &one, 10), ping(lab, b3, &other, 10));
    for (address, sent) in first?.into_iter().chain(first6?) {
        ensure!(sent == Some(1), "{address} answered packet {sent:?}, not the first");
    }
    asker.shows(&["vlan 10,", &format!("Reply {} is-at 02:00:00:00:00:b1", bm1.ipv4)]).await?;
    asker.shows(&["vlan 20,", "neighbor advertisement", &bm2.ipv6]).await?;
    owner.shows(&[&format!("{} > {}: ICMP echo request", b1.ipv4, bm1.ipv4)]).await?;
    owner6.shows(&[&format!("{} > {}: ICMP6, echo request", b3.ipv6, bm2.ipv6)]).await?;
    owner.never(&[&format!("who-has {} ", bm1.ipv4)])?;
    owner6.never(&["neighbor solicitation", &format!("who has {}", bm2.ipv6)])?;
    for spine in &spines {
        spine.never(&[&format!("who-has {} ", bm1.ipv4)])?;
        spine.never(&[&format!("who has {}", bm2.ipv6)])?;
    }
    bystander.never(&["ICMP echo"])?;

    // Unknown unicast: five packets to a MAC of nobody stay on the link they came from.
    let _ = lab.shell(b1.node, &b1.inside(&format!("ping -n -c 5 -i 0.2 -W 1 {nobody} || true"))).await?;
    asker.shows(&[no_mac, "ICMP echo request"]).await?;
    // A later packet to somebody else has passed: what went before it has, too.
    ensure!(ping(lab, b1, &[&bm1.ipv4], 10).await?.values().all(Option::is_some), "bm1 is gone");
    for capture in [&owner, &owner6, &bystander, &spines[0], &spines[1]] {
        capture.never(&[nobody, "ICMP"])?;
    }
    // An address of nobody is asked for, in the network's broadcast domain and nowhere else, and nothing else is sent.
    let unknown = "10.10.0.181";
    let _ = lab.shell(b1.node, &b1.inside(&format!("ping -n -c 2 -W 1 {unknown} || true"))).await?;
    asker.shows(&[&format!("who-has {unknown} ")]).await?;
    owner6.never(&[unknown])?;
    for capture in [&owner, &bystander] {
        capture.never(&[unknown, "ICMP"])?;
        println!(
            "ARP requests for {unknown} on {}: {}",
            capture.what,
            capture.having(&[unknown, "who-has"]).len()
        );
    }
    Ok(())
}
