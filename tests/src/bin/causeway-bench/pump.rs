//! A peer that knows no BGP beyond what it takes to be believed: it sends messages encoded before the session starts,
//! as fast as TCP takes them. How fast the other side takes them is the limit for any speaker. Also the hand-made encoder
//! is independent of the product's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

/// VTEPs over which the routes are spread.
pub(crate) const VTEPS: u32 = 50;
/// Largest UPDATE without extended messages (RFC 4271 §4.1).
const LIMIT: usize = 4096;
const AS: u16 = 65000;
const VNI: u32 = 110;

/// The address of host `n`, and with it its MAC.
pub(crate) fn host(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + n)
}

/// The VTEP of host `n`: consecutive hosts share one.
pub(crate) fn vtep(n: u32, total: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a63_0001 + n / total.div_ceil(VTEPS))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}

fn open(id: Ipv4Addr) -> Vec<u8> {
    let capabilities: &[u8] = &[1, 4, 0, 25, 0, 70, 65, 4, 0, 0, (AS >> 8) as u8, AS as u8];
    let parameter = [&[2, capabilities.len() as u8], capabilities].concat();
    let head =
        [&[4][..], &AS.to_be_bytes(), &90_u16.to_be_bytes(), &id.octets(), &[parameter.len() as u8]].concat();
    message(1, &[head, parameter].concat())
}

/// Type 2 with MAC and address (RFC 7432 §7.2).
pub(crate) fn nlri(rd: Ipv4Addr, n: u32) -> Vec<u8> {
    let address = host(n).octets();
    let mut bytes = vec![2, 0x25, 0, 1];
    bytes.extend(rd.octets());
    bytes.extend([0, VNI as u8]);
    bytes.extend([0; 14]);
    bytes.extend([48, 0x02, 0xca]);
    bytes.extend(address);
    bytes.push(32);
    bytes.extend(address);
    bytes.extend(&VNI.to_be_bytes()[1..]);
    bytes
}

/// ORIGIN, AS_PATH, LOCAL_PREF, and route target 65000:110 with VXLAN encapsulation: of all routes.
fn common() -> [Vec<u8>; 4] {
    let mut communities = vec![0xc0, 16, 16];
    communities.extend([0, 2, (AS >> 8) as u8, AS as u8, 0, 0, 0, VNI as u8, 3, 0x0c, 0, 0, 0, 0, 0, 8]);
    [vec![0x40, 1, 1, 0], vec![0x40, 2, 0], vec![0x40, 5, 4, 0, 0, 0, 100], communities]
}

/// The attributes of a route apart from any message, its next hop among them.
pub(crate) fn attributes(next_hop: Ipv4Addr) -> Vec<Vec<u8>> {
    let mut all = common().to_vec();
    all.push([&[0x40, 3, 4][..], &next_hop.octets()].concat());
    all
}

fn update(next_hop: Ipv4Addr, nlris: &[u8]) -> Vec<u8> {
    let reach = [&[0, 25, 70, 4][..], &next_hop.octets(), &[0], nlris].concat();
    let mut attributes = vec![0x90, 14];
    attributes.extend((reach.len() as u16).to_be_bytes());
    attributes.extend(reach);
    attributes.extend(common().concat());
    let head = [&[0, 0][..], &(attributes.len() as u16).to_be_bytes()].concat();
    message(2, &[head, attributes].concat())
}

/// All routes and the End-of-RIB, packed into messages of at most 4096 bytes.
pub(crate) fn table(rd: Ipv4Addr, total: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut packed = Vec::new();
    for n in 0..total {
        packed.extend(nlri(rd, n));
        let last = n + 1 == total || vtep(n + 1, total) != vtep(n, total);
        if last || packed.len() + 39 + 80 > LIMIT {
            bytes.extend(update(vtep(n, total), &packed));
            packed.clear();
        }
    }
    bytes.extend(message(2, &[0, 0, 0, 6, 0x80, 15, 3, 0, 25, 70]));
    bytes
}

async fn next_message(reader: &mut OwnedReadHalf) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 19];
    reader.read_exact(&mut head).await.context("the peer closed the session")?;
    let length = usize::from(u16::from_be_bytes([head[16], head[17]]));
    let mut body = vec![0; length.saturating_sub(19)];
    reader.read_exact(&mut body).await?;
    Ok((head[18], body))
}

async fn connect(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    loop {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        match socket.connect(to).await {
            Ok(stream) => return Ok(stream),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn establish(from: Ipv4Addr, to: SocketAddr) -> Result<(OwnedReadHalf, OwnedWriteHalf)> {
    let stream = connect(from.into(), to).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(&open(from)).await?;
    loop {
        match next_message(&mut reader).await? {
            (1, _) => writer.write_all(&message(4, &[])).await?,
            (4, _) => return Ok((reader, writer)),
            (kind, body) => bail!("message {kind} before the session was up: {body:02x?}"),
        }
    }
}

/// Sends the table of `total` routes to a peer, then keeps the session up until it is killed.
pub(crate) async fn run(from: Ipv4Addr, to: SocketAddr, total: u32) -> Result<()> {
    let table = table(from, total);
    // A peer that is not ready yet closes at once.
    let (mut reader, mut writer) = loop {
        match establish(from, to).await {
            Ok(session) => break session,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let mut drain = tokio::spawn(async move {
        loop {
            if let (3, body) = next_message(&mut reader).await? {
                bail!("NOTIFICATION {body:02x?}");
            }
        }
    });
    writer.write_all(&table).await?;
    // A KEEPALIVE now and then: FRR 10 looks at what is left of a burst only when something more arrives.
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = tick.tick() => writer.write_all(&message(4, &[])).await?,
            ended = &mut drain => return ended?,
        }
    }
}
