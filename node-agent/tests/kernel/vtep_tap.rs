//! Taps of VMs on hosts that encapsulate themselves.

use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, dev, join, mac, state};
use crate::netns::{Netns, wait_for};
use crate::tap::Tap;

/// Two hosts; on the first a VM's tap, on the second a container.
async fn pair(tap: &str, rate: Option<v1::RateLimit>) -> Result<(Host, Host, Netns, v1::NodeState)> {
    let (mut a, mut b) = (Host::new("a", "192.0.2.1")?, Host::new("b", "192.0.2.2")?);
    join(&a, &b)?;
    let w6 = Netns::new("w6")?;
    let mut of_a = state(&a, 5, &w6, 6, &b.vtep);
    let port = &mut of_a.ports[0];
    port.kind = v1::WorkloadKind::Vm.into();
    port.attachment = v1::Attachment::Tap.into();
    port.netns = String::new();
    port.gateways.clear();
    port.interface = tap.into();
    port.guarded = true;
    port.rate = rate;
    let of_b = state(&b, 6, &w6, 5, &a.vtep);
    if !tap.is_empty() {
        a.netns.run(&format!("ip tuntap add dev {tap} mode tap"))?;
    }
    a.set(&of_a).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    b.set(&of_b).await?;
    b.wait_port("default/n100/p6", 1, "").await?;
    a.wait_settled(&of_a).await?;
    Ok((a, b, w6, of_a))
}

/// The VM finds the container through the tunnel, and cannot under another name.
fn speaks(host: &Host, tap: &str) -> Result<()> {
    let mut vm = Tap::open(&host.netns, tap)?;
    let found = vm.resolve(&mac(5), [10, 8, 0, 5], [10, 8, 0, 6], PATIENCE)?;
    ensure!(found == mac(6), "{found}");
    let brief = Duration::from_millis(600);
    for (from, source) in [(mac(5), [10, 8, 0, 77]), (mac(77), [10, 8, 0, 5])] {
        let spoofed = vm.resolve(&from, source, [10, 8, 0, 6], brief);
        ensure!(spoofed.is_err(), "a spoof is answered: {from} {source:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tap_is_made_guarded_limited_and_removed() -> Result<()> {
    let rate = v1::RateLimit { in_kbit: 10_000, out_kbit: 20_000 };
    let (mut a, _b, _w6, mut of_a) = pair("", Some(rate)).await?;
    let tap = dev(5, 100)?;
    speaks(&a, &tap)?;
    let port = a.netns.run(&format!("bridge -d link show dev {tap}"))?;
    ensure!(port.contains("master cwb100") && port.contains("locked on"), "{port}");
    let link = a.netns.run(&format!("ip -d link show dev {tap}"))?;
    ensure!(link.contains("mtu 1450") && link.contains("tun type tap"), "{link}");
    let qdiscs = a.netns.run("tc qdisc show")?;
    ensure!(qdiscs.contains("rate 10Mbit") && qdiscs.contains("rate 20Mbit"), "{qdiscs}");
    for damage in [
        format!("ip link set dev {tap} nomaster"),
        format!("ip link set dev {tap} down"),
        format!("bridge fdb del {} dev {tap} master", mac(5)),
        format!("ip link del dev {tap}"),
        "ip link del dev cwb100".to_owned(),
    ] {
        a.netns.run(&damage)?;
        a.wait_settled(&of_a).await?;
        speaks(&a, &tap)?;
    }
    a.stop();
    a.start()?;
    a.set(&of_a).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    ensure!(a.plane()?.progress.borrow().steps == 0, "a restart took steps");
    of_a.revision = 2;
    let deleted_ports = vec!["default/n100/p5".to_owned()];
    a.change(v1::NodeDelta { revision: 2, deleted_ports, ..v1::NodeDelta::default() }).await?;
    let gone = || Ok(a.netns.run(&format!("ip link show dev {tap}")).is_err());
    wait_for("tap gone", PATIENCE, gone).await?;
    of_a.ports.clear();
    a.wait_settled(&of_a).await
}

/// As OpenStack names one: "tap" and the first 11 characters of the port's id.
#[tokio::test]
async fn a_tap_of_others_is_taken_and_never_deleted() -> Result<()> {
    let tap = "tap1f2e3d4c-5b6";
    let (mut a, _b, _w6, mut of_a) = pair(tap, None).await?;
    speaks(&a, tap)?;
    // Whoever made it makes it anew.
    a.netns.run(&format!("ip link del dev {tap}"))?;
    wait_for("made again", PATIENCE, || Ok(a.netns.run(&format!("ip link show dev {tap}")).is_ok())).await?;
    a.wait_settled(&of_a).await?;
    speaks(&a, tap)?;
    a.netns.run(&format!("ip link set dev {tap} group default"))?;
    a.stop();
    a.start()?;
    a.set(&of_a).await?;
    a.wait_port("default/n100/p5", 1, "").await?;
    speaks(&a, tap)?;
    of_a.revision = 2;
    of_a.ports.clear();
    a.set(&of_a).await?;
    let left = || {
        let link = a.netns.run(&format!("ip link show dev {tap}"))?;
        Ok(!link.contains("master") && !link.contains("causeway:"))
    };
    wait_for("left alone", PATIENCE, left).await?;
    a.wait_settled(&of_a).await
}
