//! Probes on the real kernel: answered through the tunnel, and not when it is cut.

use anyhow::{Context, Result, ensure};
use causeway_agent::probe::{Ask, ProberHandle};
use causeway_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::host::{Host, PATIENCE, join, state};
use crate::netns::Netns;

/// Between two probes.
const INTERVAL_MS: u32 = 10;
/// Probes without an answer that make a gap worth measuring.
const UNANSWERED: u32 = 30;

/// Two hosts with a workload each, and a prober on the second.
struct Pair {
    a: Host,
    b: Host,
    _workloads: [Netns; 2],
    prober: ProberHandle,
    _stop: tokio_util::sync::DropGuard,
}

impl Pair {
    /// `a` has 10.8.0.5, `b` has 10.8.0.6 if `with_workload`.
    async fn new(label: &str, with_workload: bool) -> Result<Pair> {
        let mut a = Host::new(&format!("{label}a"), "192.0.2.1")?;
        let mut b = Host::new(&format!("{label}b"), "192.0.2.2")?;
        join(&a, &b)?;
        let workloads = [Netns::new(&format!("{label}5"))?, Netns::new(&format!("{label}6"))?];
        let wanted = state(&a, 5, &workloads[0], 6, "192.0.2.2");
        a.set(&wanted).await?;
        a.wait_port("default/n100/p5", 1, "").await?;
        let mut wanted = state(&b, 6, &workloads[1], 5, "192.0.2.1");
        if !with_workload {
            wanted.ports.clear();
        }
        b.set(&wanted).await?;
        b.wait_revision(wanted.revision).await?;
        if with_workload {
            b.wait_port("default/n100/p6", 1, "").await?;
        }
        b.wait_settled(&wanted).await?;
        let local = b.plane()?.local.clone();
        let stop = CancellationToken::new();
        let prober = ProberHandle::start(Some(b.netns.path()), local, stop.clone())?;
        Ok(Pair { a, b, _workloads: workloads, prober, _stop: stop.drop_guard() })
    }

    async fn begin(&self, order: v1::ProbeOrder) -> Result<()> {
        Ok(self.prober.asks.send(Ask::Probe(order)).await?)
    }

    /// The next result of a probe that satisfies `condition`.
    async fn result(&mut self, condition: impl Fn(&v1::ProbeResult) -> bool) -> Result<v1::ProbeResult> {
        let results = &mut self.prober.results;
        let mut last = None;
        let found = async {
            while let Some(result) = results.recv().await {
                if condition(&result) {
                    return Ok(result);
                }
                last = Some(result);
            }
            anyhow::bail!("the prober died")
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.with_context(|| format!("no such result; last: {last:?}"))?
    }

    async fn last(&mut self) -> Result<v1::ProbeResult> {
        self.result(|result| result.finished).await
    }

    /// Frames to the owner's VTEP are dropped, those of suppression entries or not.
    fn cut(&self) -> Result<()> {
        let nft = "add table netdev cut; add chain netdev cut out { type filter hook egress device \"u0\" \
                   priority 0; }; add rule netdev cut out udp dport 4789 drop";
        let mut command = std::process::Command::new("ip");
        let status = command.args(["netns", "exec", &self.b.netns.name, "nft", nft]).status()?;
        ensure!(status.success(), "nft: {status}");
        Ok(())
    }

    fn mend(&self) -> Result<()> {
        self.b.netns.run("nft delete table netdev cut").map(|_| ())
    }
}

fn order(method: v1::ProbeMethod) -> v1::ProbeOrder {
    v1::ProbeOrder {
        id: 7,
        vni: 100,
        address: "10.8.0.5".into(),
        mac: crate::host::mac(5),
        interval_ms: INTERVAL_MS,
        method: method.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn echo_and_arp_cross_the_tunnel_and_fail_when_it_is_cut() -> Result<()> {
    let mut pair = Pair::new("pe", true).await?;
    for method in [v1::ProbeMethod::Unspecified, v1::ProbeMethod::Arp] {
        pair.begin(v1::ProbeOrder { enough: 5, ..order(method) }).await?;
        let result = pair.last().await?;
        println!("{method:?}: {result:?}");
        ensure!(result.received == 5 && result.problem.is_empty(), "{result:?}");
        ensure!(result.answered_by == ["02:ca:0a:08:00:05"], "{result:?}");
        ensure!(result.source == format!("port {}", "default/n100/p6"), "{result:?}");
    }
    // The suppression entry is there, so that the kernel itself would still answer ARP for the address.
    let neighbours = pair.b.netns.run("ip neigh show dev cwb100")?;
    ensure!(neighbours.contains("10.8.0.5"), "{neighbours}");
    pair.cut()?;
    ensure!(
        pair._workloads[1].run("arping -c 1 -w 2 -I eth0 10.8.0.5").is_ok(),
        "a broadcast ARP request is answered on the spot, which is why it is no probe"
    );
    for method in [v1::ProbeMethod::Unspecified, v1::ProbeMethod::Arp, v1::ProbeMethod::Echo] {
        pair.begin(v1::ProbeOrder { lifetime_ms: 2500, ..order(method) }).await?;
        let result = pair.last().await?;
        ensure!(result.received == 0 && result.sent > 50 && result.lost > 50, "{method:?}: {result:?}");
        ensure!(result.gaps.len() == 1 && result.gaps[0].end_ms == 0, "{result:?}");
    }
    pair.mend()?;
    // Without the owner's entry in the tunnel's FDB the frame is flooded, and still found; without both it is not.
    pair.b.netns.run("bridge fdb del 02:ca:0a:08:00:05 dev cwx100 self")?;
    pair.begin(v1::ProbeOrder { enough: 1, lifetime_ms: 3000, ..order(v1::ProbeMethod::Echo) }).await?;
    ensure!(pair.last().await?.received == 1);
    Ok(())
}

#[tokio::test]
async fn a_node_without_workload_probes_by_arp() -> Result<()> {
    let mut pair = Pair::new("pa", false).await?;
    pair.begin(v1::ProbeOrder { enough: 3, ..order(v1::ProbeMethod::Unspecified) }).await?;
    let result = pair.last().await?;
    ensure!(result.received == 3 && result.source == "interface cwb100", "{result:?}");
    ensure!(result.method() == v1::ProbeMethod::Arp, "{result:?}");
    pair.begin(order(v1::ProbeMethod::Echo)).await?;
    let result = pair.last().await?;
    ensure!(result.problem.contains("from which an echo could come"), "{result:?}");
    pair.begin(v1::ProbeOrder { address: "fd00:8::5".into(), ..order(v1::ProbeMethod::Unspecified) }).await?;
    let result = pair.last().await?;
    ensure!(result.problem.contains("bind a port of this network to the node"), "{result:?}");
    pair.cut()?;
    pair.begin(v1::ProbeOrder { count: 20, ..order(v1::ProbeMethod::Unspecified) }).await?;
    let result = pair.last().await?;
    ensure!(result.received == 0 && result.lost == 20, "{result:?}");
    Ok(())
}

#[tokio::test]
async fn a_gap_is_measured_to_the_interval() -> Result<()> {
    let mut pair = Pair::new("pg", true).await?;
    pair.begin(order(v1::ProbeMethod::Echo)).await?;
    pair.result(|r| r.received >= 10).await?;
    let begin = std::time::Instant::now();
    pair.cut()?;
    // As long as it takes for the prober to miss this many answers.
    pair.result(|r| r.sent > r.received + UNANSWERED).await?;
    pair.mend()?;
    let cut = u32::try_from(begin.elapsed().as_millis())?;
    // A second order for the address is refused while this one goes on.
    pair.begin(v1::ProbeOrder { id: 8, ..order(v1::ProbeMethod::Echo) }).await?;
    let refused = pair.result(|r| r.id == 8).await?;
    ensure!(refused.problem.contains("being probed already, by order 7"), "{refused:?}");
    let healed = pair.result(|r| r.gaps.iter().any(|gap| gap.end_ms > 0 && gap.lost >= UNANSWERED)).await?;
    let gap = healed.gaps.iter().max_by_key(|gap| gap.lost).context("a gap")?;
    let length = gap.end_ms - gap.begin_ms;
    println!("cut for about {cut} ms, measured {length} ms, {} lost, {healed:?}", gap.lost);
    ensure!((INTERVAL_MS * UNANSWERED..=cut + 60).contains(&length), "cut {cut} ms, measured {length} ms");
    pair.prober.asks.send(Ask::Cancel(7)).await?;
    let last = pair.last().await?;
    ensure!(last.id == 7 && last.problem.is_empty() && last.duplicated == 0, "{last:?}");
    // Nothing is left: no packet socket in any of the namespaces, no entry that a probe made.
    for netns in [&pair.a.netns, &pair.b.netns, &pair._workloads[1]] {
        let sockets = netns.run("cat /proc/net/packet")?;
        // Protocol 3 is that of all frames; announcements, which go on for a while, listen to none.
        let listens = |line: &str| line.split_whitespace().nth(3) == Some("0003");
        ensure!(!sockets.lines().any(listens), "{sockets}");
    }
    Ok(())
}

#[tokio::test]
async fn a_probe_ends_with_its_source() -> Result<()> {
    let mut pair = Pair::new("px", true).await?;
    pair.begin(order(v1::ProbeMethod::Echo)).await?;
    pair.result(|r| r.received >= 3).await?;
    pair._workloads[1].run("ip link show dev eth0")?;
    crate::netns::run(&format!("ip netns del {}", pair._workloads[1].name))?;
    let last = pair.last().await?;
    ensure!(
        last.problem.contains("workload has ended") || last.problem.contains("No such device"),
        "{last:?}"
    );
    Ok(())
}
