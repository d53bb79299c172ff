//! How fast routes are written and read, and how soon a BGP peer has 100,000 of them from us, beside a pump that writes the
//! same octets prepared beforehand.
//!
//! `bench_bgp [REMOTE PORT VTY-SOCKET [ROUNDS]]`: the peer is FRR's bgpd, passive, iBGP in AS 65000, expects 127.0.0.1 and has
//! EVPN on; its vty socket (`bgpd.vty`) is asked how many routes it has, which takes a millisecond.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use causeway_bgp::{
    Attributes, Esi, Event, PeerConfig, PeerMode, Route, RouteDistinguisher, RouteKey, Speaker, SpeakerConfig,
};
use causeway_proto::Mac;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const ROUTES: u32 = 100_000;
const VTEPS: u32 = 50;
const OWN: Ipv4Addr = Ipv4Addr::LOCALHOST;
const AS: u32 = 65000;

fn routes() -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for vtep in 0..VTEPS {
        let attributes = Arc::new(Attributes {
            next_hop: IpAddr::from([10, 98, 0, u8::try_from(vtep + 1)?]),
            vni: Some(110.try_into()?),
            l3_vni: None,
            route_targets: vec!["65000:110".parse()?],
            sequence: 0,
            sticky: false,
            router_mac: None,
            default_gateway: false,
            pmsi: None,
            esi: Esi::default(),
            gateway: None,
        });
        for host in vtep * (ROUTES / VTEPS)..(vtep + 1) * (ROUTES / VTEPS) {
            let [a, b, c, d] = host.to_be_bytes();
            let mac = Mac::new([2, 0, a, b, c, d]);
            let ip = Some(IpAddr::from([10, b, c, d]));
            let key = RouteKey::MacIp { rd: RouteDistinguisher::new(OWN, 110), etag: 0, mac, ip };
            routes.push(Route { key, attributes: Arc::clone(&attributes) });
        }
    }
    Ok(routes)
}

fn codec(routes: &[Route]) -> Result<()> {
    let start = Instant::now();
    let octets = causeway_bgp::bench::encode(routes, AS);
    let encoded = start.elapsed();
    let start = Instant::now();
    let read = causeway_bgp::bench::decode(&octets).context("own octets cannot be read")?;
    let decoded = start.elapsed();
    ensure!(read == routes.len());
    let rate = |time: Duration| routes.len() as f64 / time.as_secs_f64() / 1e6;
    println!("encode {:.1} million routes/s, decode {:.1} million routes/s", rate(encoded), rate(decoded));
    Ok(())
}

/// Asks bgpd a question: NUL ends it, and three NULs with a status octet end the answer.
fn ask(stream: &mut UnixStream, question: &str) -> Result<String> {
    stream.write_all(format!("{question}\0").as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !(answer.len() >= 4 && answer[answer.len() - 4..answer.len() - 1] == [0; 3]) {
        let read = stream.read(&mut part)?;
        ensure!(read > 0, "bgpd has closed its vty socket");
        answer.extend_from_slice(&part[..read]);
    }
    Ok(String::from_utf8_lossy(&answer[..answer.len() - 4]).into_owned())
}

/// Waits until the peer has so many routes.
fn wait(socket: &str, wanted: u32) -> Result<()> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.to_owned())?;
    ask(&mut stream, "enable")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        let text = ask(&mut stream, "show bgp l2vpn evpn summary json")?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        let peer = answer.pointer("/peers/127.0.0.1");
        if peer.and_then(|peer| peer["pfxRcd"].as_u64()) == Some(u64::from(wanted)) {
            return Ok(());
        }
        std::thread::yield_now();
    }
    bail!("the peer has not got {wanted} routes in 60 s")
}

async fn blocking_wait(socket: &str, wanted: u32) -> Result<()> {
    let socket = socket.to_owned();
    tokio::task::spawn_blocking(move || wait(&socket, wanted)).await?
}

async fn pump(remote: SocketAddr, octets: &[u8], socket: &str) -> Result<Duration> {
    let tcp = tokio::net::TcpSocket::new_v4()?;
    tcp.bind(SocketAddr::new(OWN.into(), 0))?;
    let mut stream = tcp.connect(remote).await?;
    stream.set_nodelay(true)?;
    let keepalive = [&[0xff; 16][..], &[0, 19, 4]].concat();
    let capabilities = [1, 4, 0, 25, 0, 70, 2, 0, 65, 4, 0, 0, 0xfd, 0xe8];
    let mut open = [&[0xff; 16][..], &[0, 45, 1, 4, 0xfd, 0xe8, 0, 180], &OWN.octets()].concat();
    open.extend([16, 2, 14]);
    open.extend(capabilities);
    stream.write_all(&open).await?;
    stream.write_all(&keepalive).await?;
    let mut seen = 0;
    while seen < 2 {
        // Its OPEN and its KEEPALIVE.
        let mut header = [0; 19];
        stream.read_exact(&mut header).await?;
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
        stream.read_exact(&mut body).await?;
        ensure!(header[18] != 3, "NOTIFICATION {body:?}");
        seen += 1;
    }
    let start = Instant::now();
    stream.write_all(octets).await?;
    blocking_wait(socket, ROUTES).await?;
    Ok(start.elapsed())
}

async fn speaker(remote: SocketAddr, routes: Vec<Route>, socket: &str) -> Result<(Duration, Duration)> {
    let config = SpeakerConfig { router_id: OWN, asn: AS, listen: Vec::new(), restarting: false };
    let cancel = CancellationToken::new();
    let (speaker, mut events, task) = Speaker::start(config, cancel.clone()).await?;
    let peer = PeerConfig {
        port: remote.port(),
        local_address: Some(OWN.into()),
        mode: PeerMode::Active,
        restart_time: None,
        ..PeerConfig::new(remote.ip(), AS)
    };
    let ticket = speaker.replace(routes).await;
    speaker.set_synced().await;
    speaker.set_peers(vec![peer]).await;
    let mut up = None;
    let written = loop {
        match events.recv().await.context("the speaker has stopped")? {
            Event::PeerUp { .. } => up = Some(Instant::now()),
            Event::Sent(sent) if sent == ticket => break Instant::now(),
            _ => {}
        }
    };
    let up = up.context("sent before it was up")?;
    blocking_wait(socket, ROUTES).await?;
    let there = up.elapsed();
    cancel.cancel();
    task.await?;
    Ok((there, written - up))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<()> {
    let routes = routes()?;
    codec(&routes)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [remote, port, socket, rest @ ..] = &arguments[..] else { return Ok(()) };
    let remote = SocketAddr::new(remote.parse()?, port.parse()?);
    let rounds: usize = rest.first().map_or(Ok(3), |text| text.parse())?;
    let octets = causeway_bgp::bench::encode(&routes, AS);
    let (mut pumped, mut spoken, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        pumped.push(pump(remote, &octets, socket).await?);
        blocking_wait(socket, 0).await?;
        // Purged from the neighbour's table, and soon from bgpd's others.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (there, out) = speaker(remote, routes.clone(), socket).await?;
        spoken.push(there);
        written.push(out);
        blocking_wait(socket, 0).await?;
        // Purged from the neighbour's table, and soon from bgpd's others.
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    let (pump, own) = (median(pumped), median(spoken));
    println!(
        "{ROUTES} routes into the peer, median of {rounds}: pump {:.3} s, speaker {:.3} s ({:.2} x), written after {:.3} s",
        pump.as_secs_f64(),
        own.as_secs_f64(),
        own.as_secs_f64() / pump.as_secs_f64(),
        median(written).as_secs_f64(),
    );
    Ok(())
}
