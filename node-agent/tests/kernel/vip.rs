//! An address that goes from one workload to another, on another host, with the other's MAC.

use anyhow::{Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, join, mac, port, remote, state};
use crate::netns::{Netns, wait_for};

const VIP: &str = "10.8.0.50";
const VIP6: &str = "fd00:8::50";

/// The port, guarded, as holder of the VIP or not.
fn holding(holds: bool, generation: u64, n: u8, netns: &Netns) -> v1::NodePort {
    let mut port = v1::NodePort { guarded: true, generation, ..port(n, 100, netns) };
    if holds {
        port.addresses.extend([format!("{VIP}/24"), format!("{VIP6}/64")]);
    }
    port
}

/// The same as another host is told of it.
fn there(holds: bool, n: u8, vtep: &str) -> v1::RemoteMac {
    let mut remote = remote(n, 100, vtep);
    if holds {
        remote.addresses.extend([VIP.to_owned(), VIP6.to_owned()]);
    }
    remote
}

/// Port 5 and a witness are on host `a`, port 6 on `b`.
#[tokio::test]
async fn a_vip_answers_with_the_mac_of_its_holder_wherever_that_is() -> Result<()> {
    let (mut a, mut b) = (Host::new("a", "192.0.2.1")?, Host::new("b", "192.0.2.2")?);
    join(&a, &b)?;
    let (w5, w6, w7) = (Netns::new("w5")?, Netns::new("w6")?, Netns::new("w7")?);
    let mut on_a = state(&a, 5, &w5, 6, "192.0.2.2");
    on_a.ports = vec![holding(true, 1, 5, &w5), v1::NodePort { guarded: true, ..port(7, 100, &w7) }];
    let mut on_b = state(&b, 6, &w6, 5, "192.0.2.1");
    on_b.ports = vec![holding(false, 1, 6, &w6)];
    on_b.remotes = vec![there(true, 5, "192.0.2.1"), remote(7, 100, "192.0.2.1")];
    a.set(&on_a).await?;
    b.set(&on_b).await?;
    for (host, id) in [(&mut a, "p5"), (&mut b, "p6")] {
        host.wait_port(&format!("default/n100/{id}"), 1, "").await?;
    }
    let known = |witness: &Netns, n: u8| -> Result<bool> {
        let (v4, v6) = (format!("ip neigh show {VIP}"), format!("ip -6 neigh show {VIP6}"));
        Ok(witness.run(&v4)?.contains(&mac(n)) && witness.run(&v6)?.contains(&mac(n)))
    };
    // The witness on its own host and the port on the other one reach it at the first holder.
    for witness in [&w7, &w6] {
        for address in [VIP, VIP6] {
            wait_for(&format!("ping {address}"), PATIENCE, || Ok(witness.pings(address))).await?;
        }
        ensure!(known(witness, 5)?, "{}", witness.run("ip neigh; ip -6 neigh")?);
    }
    // The other one holds it: one revision for both hosts.
    let from_a = v1::NodeDelta {
        revision: 2,
        ports: vec![holding(false, 1, 5, &w5)],
        remotes: vec![there(true, 6, "192.0.2.2")],
        ..Default::default()
    };
    let to_b = v1::NodeDelta {
        revision: 2,
        ports: vec![holding(true, 2, 6, &w6)],
        remotes: vec![there(false, 5, "192.0.2.1")],
        ..Default::default()
    };
    a.change(from_a).await?;
    b.change(to_b).await?;
    b.wait_port("default/n100/p6", 2, "").await?;
    // The witness is told: it sends nothing to the address meanwhile, so it could not find out by itself.
    let took = wait_for("the new holder's MAC", PATIENCE, || known(&w7, 6)).await?;
    eprintln!("{} knows the new holder after {took:?}", w7.name);
    for (witness, address) in [(&w7, VIP), (&w7, VIP6), (&w5, VIP), (&w5, VIP6)] {
        wait_for(&format!("ping {address}"), PATIENCE, || Ok(witness.pings(address))).await?;
    }
    let inside = w5.run("ip address show dev eth0")?;
    ensure!(!inside.contains(VIP) && !inside.contains(VIP6), "the first holder has it still: {inside}");
    // What the first holder says with the VIP's address now is not its own: the guard drops it.
    w5.run(&format!("ip address add {VIP}/32 dev lo"))?;
    ensure!(w5.run(&format!("ping -n -c 1 -W 1 -I {VIP} 10.8.0.7")).is_err(), "spoofed");
    Ok(())
}
