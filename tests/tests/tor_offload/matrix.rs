//! Every way to be attached × every place to be reached, as a table.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::Lab;

use crate::party::{Parties, Party};

/// Packets until the first answer; also with the guest's processors busy.
const SOON: u32 = 20;

/// Pings each address until it answers, also when somebody on the way says that there is no way: a switch that has yet to
/// hear of an address does that. The addresses side by side. How many were sent to each; `None`: no answer in `tries`.
pub(crate) async fn ping(
    lab: &Lab,
    from: &Party,
    to: &[&str],
    tries: u32,
) -> Result<BTreeMap<String, Option<u32>>> {
    let line = format!(
        "for a in {}; do (n=1; while [ $n -le {tries} ]; do ping -n -q -c 1 -W 1 $a > /dev/null 2>&1 && break; \
         n=$((n + 1)); sleep 0.2; done; echo $a $n) & done; wait",
        to.join(" ")
    );
    let said =
        lab.script(from.node, &from.inside(&line), Duration::from_secs(u64::from(tries) * 3 + 40)).await?;
    to.iter()
        .map(|address| {
            let line = said.lines().find_map(|l| l.strip_prefix(&format!("{address} ")));
            let sent: u32 = line.with_context(|| format!("nothing of {address} in: {said}"))?.parse()?;
            Ok((address.to_string(), Some(sent).filter(|sent| *sent <= tries)))
        })
        .collect()
}

/// A row: who pings, and whom in which place.
const ROWS: [(&str, [&str; 5]); 5] = [
    ("b1", ["b2", "m1", "i1", "bm1", "cloud"]),
    ("m1", ["m2", "b1", "b3", "bm1", "cloud"]),
    ("i1", ["i2", "b3", "b1", "bm2", "cloud"]),
    ("vm1", ["b1", "m1", "i1", "bm1", "cloud"]),
    ("bm1", ["gateway", "b1", "b3", "m1", "cloud"]),
];
const PLACES: [&str; 5] = ["same host", "other host", "other network", "bare metal", "type 5"];

/// All rows at once.
pub(crate) async fn matrix(lab: &Lab, parties: &Parties) -> Result<()> {
    let mut asked = Vec::new();
    for (name, targets) in ROWS {
        let from = parties.get(name)?;
        let mut to = Vec::new();
        for target in targets {
            to.push(match target {
                "gateway" => ["10.10.0.1", "fd00:10::1"],
                _ => parties.get(target)?.addresses(),
            });
        }
        asked.push((from, targets, to));
    }
    let flat: Vec<Vec<&str>> = asked.iter().map(|(_, _, to)| to.concat()).collect();
    let [a, b, c, d, e] = &asked[..] else { anyhow::bail!("five rows") };
    let (a, b, c, d, e) = tokio::join!(
        ping(lab, a.0, &flat[0], SOON),
        ping(lab, b.0, &flat[1], SOON),
        ping(lab, c.0, &flat[2], SOON),
        ping(lab, d.0, &flat[3], SOON),
        ping(lab, e.0, &flat[4], SOON),
    );
    let mut missing = Vec::new();
    println!("pings sent until the first answer, IPv4/IPv6:");
    println!("{:12}{}", "", PLACES.map(|p| format!("{p:>15}")).concat());
    for ((from, targets, to), answers) in asked.iter().zip([a, b, c, d, e]) {
        let answers = answers?;
        print!("{:12}", from.attachment);
        for (target, addresses) in targets.iter().zip(to) {
            let cells = addresses.map(|address| answers.get(address).copied().flatten());
            let cell = cells.map(|n| n.map_or("-".to_string(), |n| n.to_string())).join("/");
            print!("{:>15}", format!("{target} {cell}"));
            for (address, _) in addresses.iter().zip(cells).filter(|(_, n)| n.is_none()) {
                missing.push(format!("{} → {target} ({address})", from.name));
            }
        }
        println!();
    }
    if !missing.is_empty() {
        for leaf in ["leaf1", "leaf2", "leaf3"] {
            let tables = "ip route show vrf red; ip -6 route show vrf red; ip neigh show; vtysh -c 'show ipv6 route vrf red'";
            println!("{leaf}: {}", lab.shell(leaf, tables).await?);
        }
    }
    ensure!(missing.is_empty(), "no answer to {SOON} packets: {missing:#?}");
    Ok(())
}
