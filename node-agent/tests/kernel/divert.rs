//! Limits of macvlans and ipvlans, at their parent: measured with TCP, and looked at after damage.

use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_labs::guest::test::{TestGuest, in_guest_instead};
use causeway_proto::v1;

use crate::host::{PATIENCE, assert_settled, dev};
use crate::lan::{Wire, attached, emptied, host_state, reach, settle};
use crate::netns::{Netns, wait_for};
use crate::rate::{Stream, ensure_limited};

/// A host with two workloads, the first limited, and one with a third.
struct Three {
    wire: Wire,
    workloads: [Netns; 3],
    state: v1::NodeState,
}

impl Three {
    async fn new(kind: v1::Attachment, in_kbit: u64, out_kbit: u64) -> Result<Self> {
        let mut wire = Wire::new()?;
        let workloads = [Netns::new("w5")?, Netns::new("w6")?, Netns::new("w7")?];
        let mut ports = vec![attached(5, &workloads[0], kind), attached(6, &workloads[1], kind)];
        ports[0].rate = Some(v1::RateLimit { in_kbit, out_kbit });
        ports[0].guarded = true;
        let state = host_state(1, ports);
        settle(&mut wire.a, &state).await?;
        settle(&mut wire.b, &host_state(2, vec![attached(7, &workloads[2], kind)])).await?;
        let three = Three { wire, workloads, state };
        reach(&three.workloads[0], "10.8.0.7", "fd00:8::7").await?;
        Ok(three)
    }

    async fn limit(&mut self, in_kbit: u64, out_kbit: u64) -> Result<()> {
        self.state.revision += 1;
        self.state.ports[0].rate = Some(v1::RateLimit { in_kbit, out_kbit });
        self.wire.a.set(&self.state).await?;
        self.wire.a.wait_revision(self.state.revision).await?;
        self.settled("limited").await
    }

    async fn settled(&self, after: &str) -> Result<()> {
        let settled = || Ok(assert_settled(&self.wire.a.look(&self.state)?).is_ok());
        wait_for(after, PATIENCE, settled).await?;
        Ok(())
    }

    /// What there is on the first host.
    fn qdiscs(&self) -> Result<String> {
        self.wire.a.netns.run("tc qdisc show")
    }

    fn filters(&self) -> Result<String> {
        let netns = &self.wire.a.netns;
        Ok(netns.run("tc filter show dev eth1 ingress")? + &netns.run("tc filter show dev eth1 egress")?)
    }

    /// From the first workload to the other host, under load: set, raised, lowered, lifted; or towards it.
    async fn is_limited_live(&mut self, outwards: bool, unit: u64) -> Result<()> {
        let rates = |kbit| if outwards { (0, kbit) } else { (kbit, 0) };
        let (first, third) = (&self.workloads[0], &self.workloads[2]);
        let stream = match outwards {
            true => Stream::open(first, third, "10.8.0.7")?,
            false => Stream::open(third, first, "10.8.0.5")?,
        };
        for kbit in [2 * unit, 4 * unit, unit] {
            let (i, o) = rates(kbit);
            self.limit(i, o).await?;
            ensure_limited(if outwards { "out" } else { "in" }, &stream, kbit).await?;
        }
        self.limit(0, 0).await?;
        ensure_free(&stream, 8 * unit).await?;
        let qdiscs = self.qdiscs()?;
        ensure!(!qdiscs.contains("tbf") && !qdiscs.contains("clsact"), "{qdiscs}");
        let links = self.wire.a.netns.run("ip -o link")?;
        ensure!(!links.contains("cwj") && !links.contains("cwk"), "{links}");
        Ok(())
    }
}

/// Faster than this in some span.
async fn ensure_free(stream: &Stream, kbit: u64) -> Result<()> {
    let mut free = 0;
    for _ in 0..10 {
        free = free.max(stream.kbit(kbit * 125).await?);
        if free > kbit {
            println!("free: {free} kbit/s");
            return Ok(());
        }
    }
    anyhow::bail!("still limited: {free} kbit/s")
}

#[tokio::test]
async fn what_a_macvlan_sends_is_limited_live() -> Result<()> {
    let mut three = Three::new(v1::Attachment::Macvlan, 0, 20_000).await?;
    three.is_limited_live(true, 10_000).await
}

#[tokio::test]
async fn what_a_macvlan_is_sent_is_limited_live() -> Result<()> {
    let mut three = Three::new(v1::Attachment::Macvlan, 20_000, 0).await?;
    three.is_limited_live(false, 10_000).await
}

/// Macvlans of one parent speak without the wire, and are limited all the same; the one that is not limited is free.
#[tokio::test]
async fn macvlans_beside_each_other_are_limited_too() -> Result<()> {
    let three = Three::new(v1::Attachment::Macvlan, 10_000, 20_000).await?;
    let [first, second, third] = &three.workloads;
    for (from, to, address, limit) in
        [(first, second, "10.8.0.6", 20_000), (second, first, "10.8.0.5", 10_000)]
    {
        let stream = Stream::open(from, to, address)?;
        ensure_limited(address, &stream, limit).await?;
    }
    ensure_free(&Stream::open(second, third, "10.8.0.7")?, 80_000).await?;
    ensure_free(&Stream::open(third, second, "10.8.0.6")?, 80_000).await
}

#[tokio::test]
async fn damage_at_the_parent_is_repaired_and_others_keep_theirs() -> Result<()> {
    let mut three = Three::new(v1::Attachment::Macvlan, 10_000, 20_000).await?;
    let (own, netns) = (dev(5, 100)?, three.wire.a.netns.name.clone());
    let (towards, from) = (own.replace("cwp", "cwj"), own.replace("cwp", "cwk"));
    let run = |command: &str| crate::netns::run(&format!("ip netns exec {netns} {command}"));
    let whole = three.qdiscs()?;
    ensure!(whole.contains("rate 10Mbit") && whole.contains("rate 20Mbit"), "{whole}");
    for damage in [
        "tc filter del dev eth1 ingress".to_owned(),
        "tc filter del dev eth1 egress".to_owned(),
        "tc qdisc del dev eth1 clsact".to_owned(),
        format!("tc qdisc del dev {towards} root"),
        format!("tc qdisc change dev {from} root handle 4d: tbf rate 1gbit burst 100k limit 1m"),
        format!("ip link set dev {from} down"),
        format!("ip link del dev {towards}"),
        format!("ip link del dev {from}"),
    ] {
        run(&damage)?;
        let repaired = || {
            let same = three.qdiscs()?.lines().count() == whole.lines().count();
            let filters = three.filters()?;
            let led = filters.matches(&format!("device {towards}")).count() == 1
                && filters.matches(&format!("device {from}")).count() == 2
                && filters.matches("mirred").count() == 3;
            Ok(same && led && assert_settled(&three.wire.a.look(&three.state)?).is_ok())
        };
        wait_for(&damage, PATIENCE, repaired).await?;
        reach(&three.workloads[0], "10.8.0.7", "fd00:8::7").await?;
        reach(&three.workloads[0], "10.8.0.6", "fd00:8::6").await?;
    }
    // Somebody else's filter beside ours stays, and with it what it hangs at.
    run("tc filter add dev eth1 ingress prio 9 protocol ip u32 match ip dst 192.0.2.77 classid 1:1")?;
    let before = three.filters()?;
    three.wire.a.stop();
    three.wire.a.start()?;
    settle(&mut three.wire.a, &three.state).await?;
    ensure!(three.wire.a.plane()?.progress.borrow().steps == 0, "a restart took steps");
    ensure!(three.filters()? == before, "made again");
    three.limit(0, 0).await?;
    let left = three.filters()?;
    ensure!(left.contains("pref 9") && !left.contains("mirred"), "{left}");
    three.limit(10_000, 20_000).await?;
    three.wire.a.set(&v1::NodeState { revision: 99, ports: vec![], ..three.state.clone() }).await?;
    emptied(&three.wire.a).await?;
    let left = three.filters()?;
    ensure!(left.contains("pref 9") && !left.contains("mirred"), "{left}");
    Ok(())
}

/// Beside an `ingress` qdisc of others there is no place for filters on what goes out.
#[tokio::test]
async fn an_ingress_qdisc_of_others_stays_and_is_said() -> Result<()> {
    let mut three = Three::new(v1::Attachment::Macvlan, 0, 0).await?;
    three.wire.a.netns.run("tc qdisc add dev eth1 ingress")?;
    three.state.revision += 1;
    three.state.ports[0].generation += 1;
    three.state.ports[0].rate = Some(v1::RateLimit { in_kbit: 10_000, out_kbit: 20_000 });
    three.wire.a.set(&three.state).await?;
    three.wire.a.wait_port("default/n100/p5", 2, "eth1 has an ingress qdisc that is not Causeway's").await?;
    ensure!(three.qdiscs()?.contains("ingress ffff:"));
    // What comes in can be limited there.
    let stream = Stream::open(&three.workloads[2], &three.workloads[0], "10.8.0.5")?;
    ensure_limited("in", &stream, 10_000).await
}

#[tokio::test]
async fn ipvlans_are_limited_live() -> Result<()> {
    let wishes = TestGuest { limit: Duration::from_secs(400), ..TestGuest::default() };
    if in_guest_instead(&["ipvlan"], "divert::ipvlans_are_limited_live", &wishes)? {
        return Ok(());
    }
    let mut three = Three::new(v1::Attachment::Ipvlan, 0, 20_000).await?;
    // An emulated processor carries little.
    three.is_limited_live(true, 2_000).await?;
    three.is_limited_live(false, 2_000).await?;
    // Who shares the MAC but not the addresses is free.
    three.limit(2_000, 2_000).await?;
    ensure_free(&Stream::open(&three.workloads[1], &three.workloads[2], "10.8.0.7")?, 8_000).await
}
