//! Every way to be attached × every place to be reached, as a table.

use anyhow::{Result, ensure};
use causeway_tests::Lab;
use causeway_tests::fabric::{Parties, join_all, ping};

/// Packets until the first answer; also with the guest's processors busy.
const SOON: u32 = 20;

/// A row: who pings, and whom in which place.
const ROWS: [(&str, [&str; 5]); 6] = [
    ("b1", ["b2", "m1", "i1", "bm1", "cloud"]),
    ("r1", ["b1", "m1", "i1", "bm1", "cloud"]),
    ("m1", ["m2", "b1", "b3", "bm1", "cloud"]),
    ("i1", ["i2", "b3", "b1", "bm2", "cloud"]),
    ("vm1", ["r1", "m1", "i1", "bm1", "cloud"]),
    ("bm1", ["gateway", "r1", "b3", "m1", "cloud"]),
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
                "gateway" => vec!["10.10.0.1", "fd00:10::1"],
                _ => parties.get(target)?.addresses(),
            });
        }
        asked.push((from, targets, to));
    }
    let pings = asked.iter().map(async |(from, _, to)| ping(lab, from, &to.concat(), SOON).await);
    let answers = join_all(pings.collect()).await;
    let mut missing = Vec::new();
    println!("pings sent until the first answer, IPv4/IPv6:");
    println!("{:12}{}", "", PLACES.map(|p| format!("{p:>15}")).concat());
    for ((from, targets, to), answers) in asked.iter().zip(answers) {
        let answers = answers?;
        print!("{:12}", from.attachment);
        for (target, addresses) in targets.iter().zip(to) {
            let sent = |address: &str| answers.get(address).copied().flatten();
            let cells = addresses.iter().map(|a| sent(a).map_or("-".to_string(), |n| n.to_string()));
            print!("{:>15}", format!("{target} {}", cells.collect::<Vec<_>>().join("/")));
            for address in addresses.iter().filter(|address| sent(address).is_none()) {
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
