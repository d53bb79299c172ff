//! How long a real FRR takes to have our whole table: our speaker, a pump of pre-encoded messages and GoBGP, one after
//! the other into the same FRR.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_bgp::{
    Attributes, Esi, PeerConfig, Route, RouteDistinguisher, RouteKey, RouteTarget, Speaker, SpeakerConfig,
};
use causeway_proto::{Mac, Vni};
use causeway_tests::frr::FrrVersion;
use causeway_tests::gobgp::GoBgpVersion;
use causeway_tests::process::Daemon;
use causeway_tests::slot::Slot;
use causeway_tests::{Frr, GoBgp, Netns, wait_for};
use tokio_util::sync::CancellationToken;

use crate::pump;
use crate::report::{Aim, Report};

/// Routes in the table.
const TOTAL: u32 = 100_000;
/// Times each sender is measured; the median counts.
const RUNS: usize = 3;
const FRR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SENDER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const FEEDER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

/// What one sender needed.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// From Established to the last route in FRR's table.
    seconds: f64,
    /// CPU time of the sender until then, seconds; from its start.
    cpu: f64,
    /// Resident memory of the sender then, bytes.
    memory: f64,
}

/// CPU seconds and resident bytes of a process.
fn usage(pid: u32) -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("odd /proc/PID/stat")?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).context("odd /proc/PID/stat");
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; field 24, in pages.
    Ok(((field(11)? + field(12)?) / 100.0, field(21)? * 4096.0))
}

/// The table as our own routes.
fn routes(total: u32) -> Result<Vec<Route>> {
    let rd = RouteDistinguisher::new(SENDER, 110);
    let vni = Vni::try_from(110)?;
    let target = RouteTarget::new(65000, 110).context("65000:110 is a route target")?;
    let mut attributes: Option<Arc<Attributes>> = None;
    Ok((0..total)
        .map(|n| {
            let next_hop = IpAddr::V4(pump::vtep(n, total));
            let shared = match attributes.take() {
                Some(a) if a.next_hop == next_hop => a,
                _ => Arc::new(Attributes {
                    next_hop,
                    vni: Some(vni),
                    l3_vni: None,
                    route_targets: vec![target],
                    sequence: 0,
                    sticky: false,
                    router_mac: None,
                    default_gateway: false,
                    pmsi: None,
                    esi: Esi::default(),
                    gateway: None,
                }),
            };
            attributes = Some(shared.clone());
            let ip = pump::host(n);
            let key = RouteKey::MacIp { rd, etag: 0, mac: Mac::from_ipv4(ip), ip: Some(ip.into()) };
            Route { key, attributes: shared }
        })
        .collect())
}

/// The body of the process `causeway-bench speak`: our speaker with the whole table.
pub(crate) async fn speak() -> Result<()> {
    let config = SpeakerConfig { router_id: SENDER, asn: 65000, listen: Vec::new(), restarting: false };
    let (speaker, mut events, _task) = Speaker::start(config, CancellationToken::new()).await?;
    speaker.replace(routes(TOTAL)?).await;
    speaker.set_synced().await;
    let peer = PeerConfig { connect_retry: Duration::from_millis(100), ..PeerConfig::new(FRR.into(), 65000) };
    speaker.set_peers(vec![peer]).await;
    while events.recv().await.is_some() {}
    Ok(())
}

struct Bench {
    frr: Frr,
    sender: Netns,
    directory: causeway_tests::slot::Directory,
}

fn frr_config() -> String {
    format!(
        "router bgp 65000\n bgp router-id {FRR}\n bgp log-neighbor-changes\n no bgp default ipv4-unicast\n \
         neighbor {SENDER} remote-as 65000\n neighbor {SENDER} passive\n neighbor {SENDER} timers 30 90\n \
         address-family l2vpn evpn\n  neighbor {SENDER} activate\n \
         exit-address-family\n"
    )
}

impl Bench {
    async fn received(&self) -> Result<u64> {
        let summary = self.frr.json("show bgp l2vpn evpn summary json").await?;
        summary["peers"][SENDER.to_string()]["pfxRcd"].as_u64().context("no peer yet")
    }

    /// Waits for Established, then for the last route.
    async fn measure(&self, pid: u32) -> Result<Cost> {
        let seen = |log: &str| log.matches("%ADJCHANGE").count();
        let before = seen(&self.frr.daemon("bgpd")?.log());
        let limit = Instant::now() + Duration::from_secs(60);
        while seen(&self.frr.daemon("bgpd")?.log()) == before {
            ensure!(Instant::now() < limit, "the session with FRR does not come up");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let start = Instant::now();
        while self.received().await? < u64::from(TOTAL) {
            ensure!(
                start.elapsed() < Duration::from_secs(120),
                "only {} routes in 120 s",
                self.received().await?
            );
        }
        let seconds = start.elapsed().as_secs_f64();
        let (cpu, memory) = usage(pid)?;
        Ok(Cost { seconds, cpu, memory })
    }

    /// FRR without a session and without routes.
    async fn clean(&self) -> Result<()> {
        wait_for("FRR forgot the routes", Duration::from_secs(60), async || {
            let summary = self.frr.json("show bgp l2vpn evpn summary json").await?;
            let state = summary["peers"][SENDER.to_string()]["state"].as_str().unwrap_or_default();
            ensure!(state != "Established" && self.received().await? == 0, "{state}");
            Ok(())
        })
        .await
    }

    fn own(&self, args: &[String]) -> Result<Daemon> {
        let program: PathBuf = std::env::current_exe()?;
        let mut command = self.sender.command(&program.to_string_lossy());
        command.args(args);
        Daemon::spawn(&args[0], command, &self.directory.path().join(format!("{}.log", args[0])))
    }

    fn pump(&self, from: Ipv4Addr, to: Ipv4Addr) -> Result<Daemon> {
        let to = SocketAddr::new(to.into(), 179);
        self.own(&["pump".into(), from.to_string(), to.to_string(), TOTAL.to_string()])
    }

    async fn one_process(&self, start: impl Fn() -> Result<Daemon>) -> Result<Cost> {
        let mut costs = Vec::new();
        for _ in 0..RUNS {
            self.clean().await?;
            let daemon = start()?;
            costs.push(self.measure(daemon.pid()).await?);
        }
        Ok(median(costs))
    }

    async fn gobgp(&self, version: GoBgpVersion) -> Result<(String, Cost)> {
        let config = format!(
            "[global.config]\n as = 65000\n router-id = \"{SENDER}\"\n local-address-list = [\"{SENDER}\"]\n\
             [[neighbors]]\n [neighbors.config]\n  neighbor-address = \"{FEEDER}\"\n  peer-as = 65000\n \
             [neighbors.transport.config]\n  passive-mode = true\n  local-address = \"{SENDER}\"\n \
             [neighbors.route-reflector.config]\n  route-reflector-client = true\n  route-reflector-cluster-id = \"{SENDER}\"\n \
             [[neighbors.afi-safis]]\n  [neighbors.afi-safis.config]\n   afi-safi-name = \"l2vpn-evpn\"\n\
             [[neighbors]]\n [neighbors.config]\n  neighbor-address = \"{FRR}\"\n  peer-as = 65000\n  admin-down = true\n \
             [neighbors.transport.config]\n  local-address = \"{SENDER}\"\n \
             [neighbors.timers.config]\n  connect-retry = 1\n  idle-hold-time-after-reset = 1\n \
             [[neighbors.afi-safis]]\n  [neighbors.afi-safis.config]\n   afi-safi-name = \"l2vpn-evpn\"\n"
        );
        let mut costs = Vec::new();
        let mut name = String::new();
        for _ in 0..RUNS {
            self.clean().await?;
            let gobgp = GoBgp::start(&self.sender, version, &config).await?;
            name = format!("GoBGP {}", gobgp.version());
            let _feeder = self.pump(FEEDER, SENDER)?;
            wait_for("GoBGP's table is full", Duration::from_secs(120), async || {
                let text = gobgp.cli(&["global", "rib", "summary", "-a", "evpn"]).await?;
                ensure!(text.contains(&format!("Path: {TOTAL}")), "{text}");
                Ok(())
            })
            .await?;
            let pid = gobgp.daemon()?.pid();
            let (before, _) = usage(pid)?;
            gobgp.cli(&["neighbor", &FRR.to_string(), "enable"]).await?;
            let mut cost = self.measure(pid).await?;
            cost.cpu -= before;
            costs.push(cost);
        }
        Ok((name, median(costs)))
    }
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    costs[costs.len() / 2]
}

async fn one_frr(report: &mut Report, version: FrrVersion) -> Result<()> {
    let (router, sender) = (Netns::new("rr").await?, Netns::new("tx").await?);
    Netns::join((&router, "wire0", &["10.0.0.1/24"]), (&sender, "wire0", &["10.0.0.2/24", "10.0.0.3/24"])).await?;
    let frr = Frr::start(&router, version, &frr_config()).await?;
    let name = format!("FRR {}", frr.version());
    let bench = Bench { frr, sender, directory: Slot::get()?.directory("bench")? };
    let pump = bench.one_process(|| bench.pump(SENDER, FRR)).await?;
    let ours = bench.one_process(|| bench.own(&["speak".into()])).await?;
    let title = format!("{TOTAL} type-2 routes into {name}");
    report.versus(
        &format!("{title}: time"),
        ours.seconds,
        "s",
        ("pump", pump.seconds),
        Aim::RatioAtMost(1.3),
    );
    for version in GoBgpVersion::ALL {
        let (peer, theirs) = bench.gobgp(version).await?;
        let at_most = Aim::RatioAtMost(1.0);
        report.versus(&format!("{title}: time"), ours.seconds, "s", (&peer, theirs.seconds), at_most);
        report.versus(&format!("{title}: CPU"), ours.cpu, "s", (&peer, theirs.cpu), at_most);
        let per_route = |bytes: f64| bytes / f64::from(TOTAL);
        let memory = (peer.as_str(), per_route(theirs.memory));
        report.versus(&format!("{title}: memory a route"), per_route(ours.memory), "bytes", memory, at_most);
    }
    Ok(())
}

/// Measures on both FRRs.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    for version in FrrVersion::ALL {
        one_frr(report, version).await?;
    }
    Ok(())
}
