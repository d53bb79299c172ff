//! Speakers on loopback addresses, and a peer made of raw octets.
#![allow(dead_code, unreachable_pub, reason = "a module of several test files, each uses its part")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_bgp::{
    Attributes, Esi, Event, PeerConfig, PeerMode, PeerState, Route, RouteDistinguisher, RouteKey, Speaker,
    SpeakerConfig,
};
use causeway_proto::Mac;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Everything that is waited for is waited for so long at most.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Running {
    pub speaker: Speaker,
    pub events: mpsc::Receiver<Event>,
    pub task: JoinHandle<()>,
    pub cancel: CancellationToken,
    pub address: SocketAddr,
}

/// `127.x.y.z` of this number.
pub fn loopback(number: u32) -> IpAddr {
    let [_, b, c, d] = number.to_be_bytes();
    IpAddr::from([127, b, c, d])
}

pub async fn start(address: IpAddr, asn: u32, restarting: bool) -> Result<Running> {
    let router_id = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => [10, 0, 0, 6].into(),
    };
    start_as(address, asn, router_id.into(), restarting).await
}

pub async fn start_as(address: IpAddr, asn: u32, router_id: u32, restarting: bool) -> Result<Running> {
    let cancel = CancellationToken::new();
    let listen = vec![SocketAddr::new(address, 0)];
    let config = SpeakerConfig { router_id: router_id.into(), asn, listen, restarting };
    let (speaker, events, task) = Speaker::start(config, cancel.clone()).await?;
    let address = *speaker.listen_addresses().first().context("listens")?;
    Ok(Running { speaker, events, task, cancel, address })
}

impl Running {
    pub async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.task).await.context("the speaker ends")??;
        Ok(())
    }

    /// The next event for which `wanted` says something.
    pub async fn wait<T>(&mut self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> Result<T> {
        let found = async {
            loop {
                let event = self.events.recv().await.context("the speaker has stopped")?;
                if let Some(found) = wanted(&event) {
                    return Ok(found);
                }
            }
        };
        tokio::time::timeout(DEADLINE, found).await.with_context(|| format!("no event: {what}"))?
    }

    pub async fn wait_up(&mut self) -> Result<()> {
        self.wait("peer up", |event| matches!(event, Event::PeerUp { .. }).then_some(())).await
    }

    pub async fn wait_down(&mut self) -> Result<String> {
        self.wait("peer down", |event| match event {
            Event::PeerDown { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    pub async fn wait_sent(&mut self, ticket: causeway_bgp::Ticket) -> Result<()> {
        self.wait("sent", |event| matches!(event, Event::Sent(t) if *t >= ticket).then_some(())).await
    }

    pub async fn wait_end_of_rib(&mut self) -> Result<()> {
        self.wait("end of rib", |event| matches!(event, Event::EndOfRib { .. }).then_some(())).await
    }

    /// State of the only peer.
    pub async fn peer(&self) -> Result<PeerState> {
        self.speaker.peers().await.pop().context("a peer")
    }

    /// Keys of all routes received, in order.
    pub async fn keys_in(&self) -> Vec<RouteKey> {
        let routes = self.speaker.routes_in(&Default::default()).await;
        let mut keys: Vec<_> = routes.into_iter().map(|route| route.route.key).collect();
        keys.sort_unstable();
        keys
    }
}

/// Waits until `check` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) -> Result<()> {
    let all = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, all).await.with_context(|| what.to_owned())
}

/// TCP sockets between two IPv4 addresses whose owner has not closed them, both ends counted.
pub fn open_sockets(a: IpAddr, b: IpAddr) -> Result<usize> {
    // Established, the two of the handshake, and closed by the peer only (include/net/tcp_states.h).
    const OPEN: [&str; 4] = ["01", "02", "03", "08"];
    let address = |field: &str| {
        let number = u32::from_str_radix(field.split(':').next()?, 16).ok()?;
        Some(IpAddr::from(number.to_ne_bytes()))
    };
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let sockets = table.lines().skip(1).filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ends = [fields[1], fields[2]].map(address);
        OPEN.contains(&fields[3]) && (ends == [Some(a), Some(b)] || ends == [Some(b), Some(a)])
    });
    Ok(sockets.count())
}

/// Segments that the kernel has dropped for a wrong MD5 key, or for one too many or too few.
pub fn md5_refusals() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = lines.next().zip(lines.next()).context("TcpExt has names and values")?;
    let counters = names.split_whitespace().zip(values.split_whitespace());
    let wanted = counters.filter(|(name, _)| name.starts_with("TCPMD5"));
    let numbers = wanted.map(|(_, value)| value.parse::<u64>()).collect::<Result<Vec<_>, _>>()?;
    ensure!(numbers.len() == 3, "TCPMD5NotFound, TCPMD5Unexpected, TCPMD5Failure in {names}");
    Ok(numbers.iter().sum())
}

/// How `own` sees `other`, with quick retries.
pub fn towards(own: &Running, other: &Running, asn: u32, mode: PeerMode) -> PeerConfig {
    PeerConfig {
        port: other.address.port(),
        local_address: Some(own.address.ip()),
        mode,
        hold_time: Duration::from_secs(9),
        connect_retry: Duration::from_millis(300),
        ..PeerConfig::new(other.address.ip(), asn)
    }
}

/// A passive peer at this address.
pub fn passive(address: IpAddr, asn: u32) -> PeerConfig {
    PeerConfig {
        mode: PeerMode::Passive,
        hold_time: Duration::from_secs(30),
        restart_time: Some(Duration::from_secs(60)),
        ..PeerConfig::new(address, asn)
    }
}

pub fn attributes() -> Attributes {
    Attributes {
        next_hop: IpAddr::from([10, 98, 0, 1]),
        vni: 110.try_into().ok(),
        l3_vni: None,
        route_targets: "65000:110".parse().into_iter().collect(),
        sequence: 0,
        sticky: false,
        router_mac: None,
        default_gateway: false,
        pmsi: None,
        esi: Esi::default(),
        gateway: None,
    }
}

pub fn key(host: u32) -> RouteKey {
    let [a, b, c, d] = host.to_be_bytes();
    RouteKey::MacIp {
        rd: RouteDistinguisher::new([10, 99, 0, 100].into(), 110),
        etag: 0,
        mac: Mac::new([2, 0, a, b, c, d]),
        ip: Some(IpAddr::from([10, b, c, d])),
    }
}

pub fn route(host: u32) -> Route {
    Route { key: key(host), attributes: Arc::new(attributes()) }
}

pub fn routes(hosts: std::ops::Range<u32>) -> Vec<Route> {
    let shared = Arc::new(attributes());
    hosts.map(|host| Route { key: key(host), attributes: Arc::clone(&shared) }).collect()
}

/// Octets from hexadecimal; blanks and `|` are ignored, `M` is the marker.
pub fn hex(text: &str) -> Vec<u8> {
    let mut digits: Vec<u8> = Vec::new();
    for c in text.chars() {
        match (c, c.to_digit(16)) {
            ('M', _) => digits.extend([15; 32]),
            (_, Some(digit)) => digits.push(digit as u8),
            _ => {}
        }
    }
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A message of this type around a body.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![0xff; 16];
    octets.extend((19 + body.len() as u16).to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    octets
}

/// An UPDATE with these path attributes.
pub fn update(attributes: &str) -> Vec<u8> {
    let attributes = hex(attributes);
    let mut body = vec![0, 0];
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    message(2, &body)
}

pub const KEEPALIVE: &str = "M 0013 04";
pub const END_OF_RIB: &str = "80 0f 03 0019 46";
/// Capabilities of a well-equipped peer, without graceful restart.
pub const CAPABILITIES: &str = "01 04 00190046 | 02 00 | 46 00 | 06 00 | 41 04 0000fde8";

/// An OPEN: AS and identifier in hexadecimal, capabilities as they are.
pub fn open(asn: &str, hold: u16, id: &str, capabilities: &str) -> Vec<u8> {
    let capabilities = hex(capabilities);
    let mut body = vec![4];
    body.extend(hex(asn));
    body.extend(hold.to_be_bytes());
    body.extend(hex(id));
    if capabilities.is_empty() {
        body.push(0);
    } else {
        body.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
        body.extend(capabilities);
    }
    message(1, &body)
}

/// The peer made of raw octets.
pub struct Raw {
    pub stream: TcpStream,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Message(u8, Vec<u8>),
    Closed,
    Nothing,
}

impl Raw {
    pub async fn connect(from: IpAddr, to: SocketAddr) -> Result<Raw> {
        let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = tokio::time::timeout(DEADLINE, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(Raw { stream })
    }

    pub async fn send(&mut self, octets: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(octets).await?)
    }

    /// The next message: type and body.
    pub async fn read(&mut self, within: Duration) -> Result<Answer> {
        let read = async {
            let mut header = [0; 19];
            if self.stream.read_exact(&mut header).await.is_err() {
                return Ok(Answer::Closed);
            }
            ensure!(header[..16] == [0xff; 16], "marker");
            let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
            ensure!(length >= 19, "length");
            let mut body = vec![0; length - 19];
            self.stream.read_exact(&mut body).await?;
            Ok(Answer::Message(header[18], body))
        };
        match tokio::time::timeout(within, read).await {
            Ok(answer) => answer,
            Err(_) => Ok(Answer::Nothing),
        }
    }

    /// The next message of this type; others are passed over.
    pub async fn expect(&mut self, kind: u8) -> Result<Vec<u8>> {
        loop {
            match self.read(DEADLINE).await? {
                Answer::Message(got, body) if got == kind => return Ok(body),
                Answer::Message(3, body) => bail!("NOTIFICATION {body:02x?} instead of type {kind}"),
                Answer::Message(..) => {}
                other => bail!("{other:?} instead of type {kind}"),
            }
        }
    }

    /// Code and subcode of the NOTIFICATION that must come now, then the end.
    pub async fn expect_notification(&mut self) -> Result<(u8, u8, Vec<u8>)> {
        let body = loop {
            match self.read(DEADLINE).await? {
                Answer::Message(3, body) => break body,
                Answer::Message(..) => {}
                other => bail!("{other:?} instead of a NOTIFICATION"),
            }
        };
        ensure!(self.read(DEADLINE).await? == Answer::Closed, "closes after a NOTIFICATION");
        Ok((body[0], body[1], body[2..].to_vec()))
    }

    /// Goes through the OPENs to Established.
    pub async fn establish(&mut self, open: &[u8]) -> Result<()> {
        self.send(open).await?;
        self.expect(1).await?;
        self.expect(4).await?;
        self.send(&hex(KEEPALIVE)).await
    }

    /// The announced and withdrawn type 2 keys of the next UPDATE, by their last MAC octets; `None`: End-of-RIB.
    pub async fn expect_update(&mut self) -> Result<Vec<u8>> {
        self.expect(2).await
    }
}

/// A raw peer in an Established session with a new speaker.
pub async fn established(number: u32, capabilities: &str) -> Result<(Running, Raw)> {
    let mut running = start(loopback(number), 65000, false).await?;
    let peer = loopback(number + 1);
    running.speaker.set_peers(vec![passive(peer, 65000)]).await;
    let mut raw = Raw::connect(peer, running.address).await?;
    raw.establish(&open("fde8", 30, "0a630001", capabilities)).await?;
    running.wait_up().await?;
    Ok((running, raw))
}

/// An announcement of host `number` of the raw peer.
pub fn announcement(number: u8) -> Vec<u8> {
    update(&format!(
        "80 0e 30 0019 46 04 0a620001 00
           02 25 0001 0a630001 006e 00000000000000000000 00000000 30 0200000000{number:02x} 20 0a000a{number:02x} 00006e
         40 01 01 00 | 40 02 00 | 40 05 04 00000064 | c0 10 10 0002fde80000006e 030c000000000008"
    ))
}

/// Last octet of the MAC of a type 2.
pub fn host(key: &RouteKey) -> u8 {
    match key {
        RouteKey::MacIp { mac, .. } => mac.octets()[5],
        _ => 0,
    }
}
