//! A port with several addresses of each family.

use anyhow::{Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, join, mac, port, remote, state};
use crate::netns::{Netns, wait_for};

const MORE: [(&str, u8); 4] = [("10.8.0.55", 24), ("10.8.0.56", 24), ("fd00:8::55", 64), ("fd00:8::56", 64)];
const ALL: [&str; 6] = ["10.8.0.5", "10.8.0.55", "10.8.0.56", "fd00:8::5", "fd00:8::55", "fd00:8::56"];
/// Of the same subnets, and not its own.
const OTHERS: [(&str, &str); 2] = [("10.8.0.57", "10.8.0.7"), ("fd00:8::57", "fd00:8::7")];

/// Port 5 and a witness are on host `a`, another one on `b`.
#[tokio::test]
async fn all_addresses_are_there_reached_and_let_through_and_no_other() -> Result<()> {
    let (mut a, mut b) = (Host::new("a", "192.0.2.1")?, Host::new("b", "192.0.2.2")?);
    join(&a, &b)?;
    let (w5, w6, w7) = (Netns::new("w5")?, Netns::new("w6")?, Netns::new("w7")?);
    let mut on_a = state(&a, 5, &w5, 6, "192.0.2.2");
    let mut five = v1::NodePort { guarded: true, ..port(5, 100, &w5) };
    five.addresses.extend(MORE.map(|(address, length)| format!("{address}/{length}")));
    on_a.ports = vec![five, port(7, 100, &w7)];
    let mut on_b = state(&b, 6, &w6, 5, "192.0.2.1");
    let mut there = remote(5, 100, "192.0.2.1");
    there.addresses.extend(MORE.map(|(address, _)| address.to_owned()));
    on_b.remotes = vec![there, remote(7, 100, "192.0.2.1")];
    a.set(&on_a).await?;
    b.set(&on_b).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    b.wait_port("default/n100/p6", 1, "").await?;

    let inside = w5.run("ip -o address show dev eth0")?;
    for address in ALL {
        ensure!(inside.contains(&format!(" {address}/")), "{address}: {inside}");
        // From the same host, and through the fabric, both with the port's MAC; and from each as its own.
        for witness in [&w7, &w6] {
            wait_for(&format!("ping {address}"), PATIENCE, || Ok(witness.pings(address))).await?;
            let known = witness.run(&format!("ip neigh show {address}"))?;
            ensure!(known.contains(&mac(5)), "{known}");
            let to = match (address.contains(':'), witness.name == w7.name) {
                (false, true) => "10.8.0.7",
                (false, false) => "10.8.0.6",
                (true, true) => "fd00:8::7",
                (true, false) => "fd00:8::6",
            };
            let ping = format!("ping -n -c 1 -W 5 -I {address} {to}");
            wait_for(&ping, PATIENCE, || Ok(w5.run(&ping).is_ok())).await?;
        }
    }
    // The host of the other one answers for all of them in the network's name: nothing is flooded for them.
    let told = b.netns.run("ip neigh show dev cwb100")?;
    ensure!(ALL.iter().all(|address| told.contains(address)), "{told}");
    // What is like them and not its own is dropped.
    for (address, to) in OTHERS {
        let own = if address.contains(':') { "/128 dev lo nodad" } else { "/32 dev lo" };
        w5.run(&format!("ip address add {address}{own}"))?;
        ensure!(w5.run(&format!("ping -n -c 1 -W 1 -I {address} {to}")).is_err(), "{address} passes");
    }
    Ok(())
}
