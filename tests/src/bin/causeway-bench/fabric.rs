//! How long a real FRR takes to have our whole table: our speaker, a pump of pre-encoded messages and GoBGP, one after
//! the other into the same FRR.

use std::collections::BTreeMap;
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
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::report::{Aim, Report, usage};
use crate::{fill, pump};

/// Routes in the table.
pub(crate) const TOTAL: u32 = 100_000;
/// Times each sender is measured; the median counts.
const RUNS: usize = 3;
const FRR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SENDER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PUMP: &str = "pump";
const OURS: &str = "causeway";
/// What our process says when its table is full.
const READY: &str = "the table is full";

/// What one sender needed.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// From Established to the last route in FRR's table.
    seconds: f64,
    /// CPU time of the sender until then, seconds, from when it was told to connect with its table full.
    cpu: f64,
    /// Resident memory of the sender then, bytes.
    memory: f64,
}

/// The table as our own routes.
pub(crate) fn routes(total: u32) -> Result<Vec<Route>> {
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

/// The body of the process `causeway-bench speak`: our speaker with the whole table. It says when it has it and connects
/// when it is sent SIGUSR1.
pub(crate) async fn speak() -> Result<()> {
    let mut go = signal(SignalKind::user_defined1())?;
    let config = SpeakerConfig { router_id: SENDER, asn: 65000, listen: Vec::new(), restarting: false };
    let (speaker, mut events, _task) = Speaker::start(config, CancellationToken::new()).await?;
    speaker.replace(routes(TOTAL)?).await;
    speaker.set_synced().await;
    println!("{READY}");
    go.recv().await;
    // Without graceful restart: FRR is to forget the routes as soon as this process ends.
    let peer = PeerConfig {
        connect_retry: Duration::from_millis(100),
        restart_time: None,
        ..PeerConfig::new(FRR.into(), 65000)
    };
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
    /// Routes that FRR has from the sender. Asked over bgpd's own socket, as vtysh does, because starting a vtysh takes
    /// longer than a tenth of what is measured here.
    async fn received(&self) -> Result<u64> {
        let mut socket = UnixStream::connect(self.frr.socket("bgpd")).await.context("bgpd's socket")?;
        socket.write_all(b"show bgp l2vpn evpn summary json\0").await?;
        let mut answer = Vec::new();
        // It ends with three NULs and a status.
        while answer.len() < 4 || answer[answer.len() - 4..answer.len() - 1] != [0, 0, 0] {
            ensure!(socket.read_buf(&mut answer).await? > 0, "bgpd closed its socket");
        }
        let summary: serde_json::Value = serde_json::from_slice(&answer[..answer.len() - 4])?;
        summary["peers"][SENDER.to_string()]["pfxRcd"].as_u64().context("no peer yet")
    }

    /// Waits for Established, then for the last route. CPU time counts from now on.
    async fn measure(&self, pid: u32, go: impl AsyncFnOnce() -> Result<()>) -> Result<Cost> {
        let seen = |log: &str| log.matches("%ADJCHANGE").count();
        let before = seen(&self.frr.daemon("bgpd")?.log());
        let (cpu_before, _) = usage(pid)?;
        go().await?;
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
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        let (cpu, memory) = usage(pid)?;
        Ok(Cost { seconds, cpu: cpu - cpu_before, memory })
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
        let log = self.directory.path().join(format!("{}.log", args[0]));
        // What an earlier one of this name said is not said by this one.
        match std::fs::remove_file(&log) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err.into()),
            _ => {}
        }
        Daemon::spawn(&args[0], command, &log)
    }

    async fn pump(&self) -> Result<Cost> {
        let to = SocketAddr::new(FRR.into(), 179);
        let args = ["pump".into(), SENDER.to_string(), to.to_string(), TOTAL.to_string()];
        self.clean().await?;
        let daemon = self.own(&args)?;
        self.measure(daemon.pid(), async || Ok(())).await
    }

    async fn ours(&self) -> Result<Cost> {
        self.clean().await?;
        let mut daemon = self.own(&["speak".into()])?;
        wait_for("our table is full", Duration::from_secs(60), async || {
            daemon.must_run()?;
            ensure!(daemon.log().contains(READY), "not yet");
            Ok(())
        })
        .await?;
        self.measure(daemon.pid(), async || daemon.signal(Signal::SIGUSR1)).await
    }

    async fn gobgp(&self, version: GoBgpVersion) -> Result<(String, Cost)> {
        let config = format!(
            "[global.config]\n as = 65000\n router-id = \"{SENDER}\"\n local-address-list = [\"{SENDER}\"]\n\
             [[neighbors]]\n [neighbors.config]\n  neighbor-address = \"{FRR}\"\n  peer-as = 65000\n  admin-down = true\n \
             [neighbors.transport.config]\n  local-address = \"{SENDER}\"\n \
             [neighbors.timers.config]\n  connect-retry = 1\n  idle-hold-time-after-reset = 1\n \
             [[neighbors.afi-safis]]\n  [neighbors.afi-safis.config]\n   afi-safi-name = \"l2vpn-evpn\"\n"
        );
        self.clean().await?;
        let gobgp = GoBgp::start(&self.sender, version, &config).await?;
        let fill = ["fill".into(), fill::major(version).to_string(), SENDER.to_string(), TOTAL.to_string()];
        let mut filler = self.own(&fill)?;
        wait_for("GoBGP's table is full", Duration::from_secs(180), async || {
            ensure!(filler.ended()?.context("still adding")?.success(), "{}", filler.log());
            let text = gobgp.cli(&["global", "rib", "summary", "-a", "evpn"]).await?;
            ensure!(text.contains(&format!("Path: {TOTAL}")), "{text}");
            Ok(())
        })
        .await?;
        let enable = async || gobgp.cli(&["neighbor", &FRR.to_string(), "enable"]).await.map(drop);
        let cost = self.measure(gobgp.daemon()?.pid(), enable).await?;
        Ok((format!("GoBGP {}", gobgp.version()), cost))
    }
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    costs[costs.len() / 2]
}

/// All senders in turn, several times, so that what else happens on the machine meets all of them.
async fn rounds(bench: &Bench) -> Result<BTreeMap<String, Cost>> {
    let mut costs: BTreeMap<String, Vec<Cost>> = BTreeMap::new();
    for _ in 0..RUNS {
        costs.entry(PUMP.into()).or_default().push(bench.pump().await?);
        costs.entry(OURS.into()).or_default().push(bench.ours().await?);
        for version in GoBgpVersion::ALL {
            let (name, cost) = bench.gobgp(version).await?;
            costs.entry(name).or_default().push(cost);
        }
    }
    Ok(costs.into_iter().map(|(name, costs)| (name, median(costs))).collect())
}

async fn one_frr(report: &mut Report, version: FrrVersion) -> Result<()> {
    let (router, sender) = (Netns::new("rr").await?, Netns::new("tx").await?);
    Netns::join((&router, "wire0", &["10.0.0.1/24"]), (&sender, "wire0", &["10.0.0.2/24"])).await?;
    let frr = Frr::start(&router, version, &frr_config()).await?;
    let title = format!("{TOTAL} type-2 routes into FRR {}", frr.version());
    let bench = Bench { frr, sender, directory: Slot::get()?.directory("bench")? };
    let costs = rounds(&bench).await?;
    let cost = |name: &str| costs.get(name).copied().with_context(|| format!("{name} was not measured"));
    let (pump, ours) = (cost(PUMP)?, cost(OURS)?);
    let time = format!("{title}: time");
    report.versus(&time, ours.seconds, "s", (PUMP, pump.seconds), Aim::RatioAtMost(1.3));
    let per_route = |bytes: f64| bytes / f64::from(TOTAL);
    for (name, theirs) in costs.iter().filter(|(name, _)| ![PUMP, OURS].contains(&name.as_str())) {
        let at_most = Aim::RatioAtMost(1.0);
        report.versus(&time, ours.seconds, "s", (name, theirs.seconds), at_most);
        report.versus(&format!("{title}: CPU"), ours.cpu, "s", (name, theirs.cpu), at_most);
        let memory = (name.as_str(), per_route(theirs.memory));
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
