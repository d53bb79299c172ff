//! Limits are measured with TCP through them: bytes that arrive at the workload's link within a time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_agent::model::NetnsRef;
use causeway_agent::netns::Netns as Inside;
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, assert_settled, dev, network, port};
use crate::netns::{Netns, wait_for};

/// Bytes that pass from one workload to another, as long as this lives.
pub(crate) struct Stream {
    to: Inside,
    /// Where they are counted; `None`: at all links.
    link: Option<String>,
    stop: Arc<AtomicBool>,
}

/// What arrived in a span, as frames.
struct Span {
    bytes: u64,
    elapsed: Duration,
}

impl Span {
    fn kbit(&self) -> u64 {
        self.bytes * 8 / (self.elapsed.as_millis().max(1) as u64)
    }

    /// No more than tokens came in the time, than a bucket holds, and than a busy machine keeps between the bucket and the
    /// link for a moment.
    fn is_within(&self, limit: u64) -> bool {
        const BUCKET: u64 = 72_297;
        let time = (self.elapsed + Duration::from_millis(100)).as_millis() as u64;
        self.bytes <= limit * time / 8 + BUCKET.max(limit * 10 / 8)
    }
}

impl Stream {
    pub(crate) fn open(from: &Netns, to: &Netns, address: &str) -> Result<Self> {
        let inside = |netns: &Netns| Inside::open(&NetnsRef::Path(netns.path()));
        let (from, to) = (inside(from)?, inside(to)?);
        let listener = to.run(|| TcpListener::bind("0.0.0.0:0"))??;
        let target = format!("{address}:{}", listener.local_addr()?.port());
        let mut sender = from.run(|| TcpStream::connect(target))??;
        let (mut receiver, _) = listener.accept()?;
        let stream = Stream { to, link: None, stop: Arc::default() };
        // Both end when the other does, or with the test's process.
        for socket in [&sender, &receiver] {
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
        }
        let stop = Arc::clone(&stream.stop);
        std::thread::spawn(move || {
            let block = [0x5a; 65536];
            while !stop.load(Ordering::Relaxed) && sender.write_all(&block).is_ok() {}
        });
        std::thread::spawn(move || {
            let mut block = [0; 65536];
            while let Ok(1..) = receiver.read(&mut block) {}
        });
        Ok(stream)
    }

    /// Counts at one link: a host counts what it limits before and behind the limit.
    pub(crate) fn at(mut self, link: &str) -> Self {
        self.link = Some(link.to_owned());
        self
    }

    /// What the workload's link counts: a starved reader and segments that come in the wrong order don't change it.
    fn arrived(&self) -> Result<u64> {
        let table = self.to.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        let mut received = 0;
        for (name, counters) in table.lines().filter_map(|line| line.split_once(':')) {
            if self.link.as_ref().map_or(name.trim() != "lo", |link| name.trim() == link) {
                received += counters.split_whitespace().next().context("no counter")?.parse::<u64>()?;
            }
        }
        Ok(received)
    }

    /// Waits for `bytes` more.
    async fn span(&self, bytes: u64) -> Result<Span> {
        let (start, first) = (Instant::now(), self.arrived()?);
        let mut span = Span { bytes: 0, elapsed: Duration::ZERO };
        wait_for("bytes", PATIENCE, || {
            span.bytes = self.arrived()? - first;
            span.elapsed = start.elapsed();
            Ok(span.bytes >= bytes)
        })
        .await?;
        Ok(span)
    }

    /// Waits for `bytes` more and returns what that makes in kbit/s.
    pub(crate) async fn kbit(&self, bytes: u64) -> Result<u64> {
        Ok(self.span(bytes).await?.kbit())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One host with two workloads in one network.
struct Pair {
    host: Host,
    workloads: [Netns; 2],
    state: v1::NodeState,
}

impl Pair {
    async fn new(rate: v1::RateLimit, guarded: bool) -> Result<Self> {
        let host = Host::new("r", "192.0.2.1")?;
        let workloads = [Netns::new("w5")?, Netns::new("w6")?];
        let mut ports = vec![port(5, 100, &workloads[0]), port(6, 100, &workloads[1])];
        ports[0].rate = Some(rate);
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
        let mut pair = Pair { host, workloads, state };
        pair.host.set(&pair.state).await?;
        pair.settle().await?;
        Ok(pair)
    }

    async fn settle(&self) -> Result<()> {
        let settled = || Ok(assert_settled(&self.host.look(&self.state)?).is_ok());
        wait_for("settled", PATIENCE, settled).await.map(|_| ())
    }

    async fn limit(&mut self, in_kbit: u64, out_kbit: u64) -> Result<()> {
        self.state.revision += 1;
        self.state.ports[0].rate = Some(v1::RateLimit { in_kbit, out_kbit });
        let (revision, ports) = (self.state.revision, vec![self.state.ports[0].clone()]);
        self.host.change(v1::NodeDelta { revision, ports, ..v1::NodeDelta::default() }).await?;
        self.settle().await
    }
}

/// Spans that are measured before a flow counts as slow: a machine busy with other things starves the sender, not the
/// limit, and some span of several shows that.
const SPANS: usize = 10;

/// Never more than the limit, and at least nine tenths of it in some span. Half a second at this rate passes first: what
/// was in a bucket or a queue.
pub(crate) async fn ensure_limited(what: &str, stream: &Stream, limit: u64) -> Result<()> {
    stream.span(limit * 125 / 2).await?;
    let mut best = 0;
    for _ in 0..SPANS {
        let span = stream.span(limit * 125).await?;
        let kbit = span.kbit();
        println!("{what}: {kbit} of {limit} kbit/s, {} %", kbit * 100 / limit);
        ensure!(
            span.is_within(limit),
            "{what}: {} bytes in {:?} exceed {limit} kbit/s",
            span.bytes,
            span.elapsed
        );
        best = best.max(kbit);
        if best * 10 >= limit * 9 {
            return Ok(());
        }
    }
    anyhow::bail!("{what}: {best} of {limit} kbit/s at best is too slow")
}

async fn is_limited_live(from: usize, set: fn(u64) -> (u64, u64)) -> Result<()> {
    let (i, o) = set(20_000);
    let mut pair = Pair::new(v1::RateLimit { in_kbit: i, out_kbit: o }, true).await?;
    let to = 1 - from;
    let address = if to == 0 { "10.8.0.5" } else { "10.8.0.6" };
    let stream = Stream::open(&pair.workloads[from], &pair.workloads[to], address)?;
    ensure_limited("set", &stream, 20_000).await?;
    let (i, o) = set(60_000);
    pair.limit(i, o).await?;
    ensure_limited("raised under load", &stream, 60_000).await?;
    let (i, o) = set(10_000);
    pair.limit(i, o).await?;
    ensure_limited("lowered under load", &stream, 10_000).await?;
    pair.limit(0, 0).await?;
    stream.kbit(20_000_000).await?;
    let mut free = 0;
    for _ in 0..SPANS {
        free = free.max(stream.kbit(20_000_000).await?);
        println!("lifted: {free} kbit/s");
        if free > 120_000 {
            break;
        }
    }
    ensure!(free > 120_000, "still limited: {free} kbit/s");
    let links = pair.host.netns.run("ip -o link")?;
    ensure!(!links.contains("cwi"), "{links}");
    let qdiscs = pair.host.netns.run("tc qdisc show")?;
    ensure!(!qdiscs.contains("tbf") && !qdiscs.contains("ingress"), "{qdiscs}");
    Ok(())
}

#[tokio::test]
async fn towards_the_workload_is_limited_live() -> Result<()> {
    is_limited_live(1, |kbit| (kbit, 0)).await
}

#[tokio::test]
async fn from_the_workload_is_limited_live() -> Result<()> {
    is_limited_live(0, |kbit| (0, kbit)).await
}

#[tokio::test]
async fn limits_apply_to_their_own_direction_and_port() -> Result<()> {
    let pair = Pair::new(v1::RateLimit { in_kbit: 10_000, out_kbit: 40_000 }, false).await?;
    let inwards = Stream::open(&pair.workloads[1], &pair.workloads[0], "10.8.0.5")?;
    ensure_limited("in", &inwards, 10_000).await?;
    drop(inwards);
    let outwards = Stream::open(&pair.workloads[0], &pair.workloads[1], "10.8.0.6")?;
    ensure_limited("out", &outwards, 40_000).await
}

#[tokio::test]
async fn damaged_limits_are_repaired_and_survive_a_restart() -> Result<()> {
    let mut pair = Pair::new(v1::RateLimit { in_kbit: 5_000, out_kbit: 7_000 }, false).await?;
    let own = dev(5, 100)?;
    let shaper = own.replace("cwp", "cwi");
    let qdiscs = |pair: &Pair| pair.host.netns.run("tc qdisc show");
    let whole = qdiscs(&pair)?;
    ensure!(whole.contains("rate 5Mbit") && whole.contains("rate 7Mbit"), "{whole}");
    for damage in [
        format!("tc qdisc del dev {own} root"),
        format!("tc qdisc del dev {own} ingress"),
        format!("tc filter del dev {own} ingress"),
        format!("tc qdisc del dev {shaper} root"),
        format!("tc qdisc change dev {own} root handle 4d: tbf rate 1gbit burst 100k limit 1m"),
        format!("ip link set dev {shaper} down"),
        format!("ip link del dev {shaper}"),
    ] {
        pair.host.netns.run(&damage)?;
        // Not to be fooled by a look before the agent has heard of it.
        let repaired = || {
            let same = qdiscs(&pair)?.lines().count() == whole.lines().count();
            Ok(same && assert_settled(&pair.host.look(&pair.state)?).is_ok())
        };
        wait_for(&damage, PATIENCE, repaired).await?;
        ensure!(pair.workloads[0].pings("10.8.0.6"), "after {damage}");
    }
    let before = pair.host.netns.run(&format!("tc -d filter show dev {own} ingress"))? + &qdiscs(&pair)?;
    pair.host.stop();
    pair.host.start()?;
    let state = pair.state.clone();
    pair.host.set(&state).await?;
    pair.host.wait_port("default/n100/p5", 1, "").await?;
    let after = pair.host.netns.run(&format!("tc -d filter show dev {own} ingress"))? + &qdiscs(&pair)?;
    ensure!(before == after, "made again:\n{before}\n{after}");

    pair.state.ports.remove(0);
    let revision = pair.state.revision + 1;
    let deleted_ports = vec!["default/n100/p5".to_owned()];
    pair.host.change(v1::NodeDelta { revision, deleted_ports, ..v1::NodeDelta::default() }).await?;
    wait_for("gone", PATIENCE, || Ok(!pair.host.netns.run("ip -o link")?.contains(&shaper))).await?;
    pair.settle().await
}

#[tokio::test]
async fn qdisc_of_somebody_else_is_left_alone() -> Result<()> {
    let mut pair = Pair::new(v1::RateLimit::default(), false).await?;
    let own = dev(5, 100)?;
    pair.host
        .netns
        .run(&format!("tc qdisc add dev {own} root handle 9: tbf rate 1gbit burst 100k limit 1m"))?;
    pair.state.revision += 1;
    pair.state.ports[0].generation += 1;
    pair.state.ports[0].rate = Some(v1::RateLimit { in_kbit: 5_000, out_kbit: 0 });
    let (revision, ports) = (pair.state.revision, vec![pair.state.ports[0].clone()]);
    pair.host.change(v1::NodeDelta { revision, ports, ..v1::NodeDelta::default() }).await?;
    pair.host.wait_port("default/n100/p5", 2, "not Causeway's").await?;
    ensure!(pair.host.netns.run("tc qdisc show")?.contains("tbf 9:"));
    Ok(())
}
