//! Who answers for an address on the wire: every address is asked for at every host, all the time, from a place that is
//! no host of the fabric.
//!
//! A request goes into a host's tunnel as if it came from another one, so that the bridge behind it floods it to all ports
//! there (a host's own knowledge of addresses elsewhere answers nothing that comes from a tunnel). It names a MAC of its
//! own as asker (`02:cc`, host, number), which the answer repeats. What counts is the answer that a host puts into its
//! tunnel: what got past the port's guard and its bridge.

use std::collections::HashSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use causeway_tests::Netns;
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::history::{Answer, At};

/// Between two requests for an address at a host.
const ROUND: Duration = Duration::from_millis(50);
/// The first two bytes of the MAC that a request names as its asker's.
const ASKER: u16 = 0x02cc;
/// linux/if_ether.h.
const ETH_P_ALL: u16 = 3;
const ETH_P_ARP: u16 = 0x0806;
/// linux/if_packet.h.
const PACKET_OUTGOING: u8 = 4;
/// Bytes of an ARP packet over Ethernet, with its Ethernet header.
const FRAME: usize = 42;
/// IANA.
const VXLAN_PORT: u16 = 4789;

/// Where a host is asked, and where its answers are seen.
struct Ear {
    name: String,
    vtep: Ipv4Addr,
    socket: Socket,
    /// Its tunnels' devices.
    tunnels: HashSet<u32>,
    /// What it was asked: which address, when.
    asked: Vec<(Ipv4Addr, At)>,
}

/// Asks, and notes who answers.
pub(crate) struct Asker {
    out: UdpSocket,
    vni: u32,
    addresses: Vec<Ipv4Addr>,
    ears: Vec<Ear>,
    next: At,
    pub(crate) answers: Vec<Answer>,
}

impl Asker {
    /// Asks for these addresses from `from`, an address of the calling thread's namespace.
    pub(crate) fn new(from: Ipv4Addr, vni: u32, addresses: Vec<Ipv4Addr>) -> Result<Asker> {
        let out = UdpSocket::bind((from, 0)).with_context(|| format!("cannot ask from {from}"))?;
        out.set_nonblocking(true)?;
        Ok(Asker { out, vni, addresses, ears: Vec::new(), next: At::ZERO, answers: Vec::new() })
    }

    /// This host, too. In the order in which they are added they are numbered.
    pub(crate) fn add(&mut self, name: &str, netns: &Netns, vtep: Ipv4Addr) -> Result<()> {
        let socket = netns.enter(async || {
            let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            socket.attach_filter(&answers_only())?;
            socket.set_recv_buffer_size(4 << 20)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        let ear = Ear { name: name.to_owned(), vtep, socket, tunnels: HashSet::new(), asked: Vec::new() };
        self.ears.push(ear);
        Ok(())
    }

    /// A host has this device.
    pub(crate) fn device(&mut self, host: &str, index: u32, name: &str) {
        if name == format!("cwx{}", self.vni)
            && let Some(ear) = self.ears.iter_mut().find(|ear| ear.name == host)
        {
            ear.tunnels.insert(index);
        }
    }

    /// Notes what was answered, and asks again when it is time; true if it asked.
    pub(crate) fn turn(&mut self, begin: Instant) -> Result<bool> {
        self.hear(begin)?;
        if begin.elapsed() < self.next {
            return Ok(false);
        }
        self.next = begin.elapsed() + ROUND;
        for n in 0..self.ears.len() {
            for at in 0..self.addresses.len() {
                self.ask(n, self.addresses[at], begin);
            }
        }
        // The kernel carries a frame to the workload and back before it comes back to whoever sent it.
        self.hear(begin)?;
        Ok(true)
    }

    fn ask(&mut self, host: usize, address: Ipv4Addr, begin: Instant) {
        let ear = &mut self.ears[host];
        let request = ear.asked.len();
        ear.asked.push((address, begin.elapsed()));
        let packet = question(self.vni, host as u8, request as u32, address);
        // A host that cannot take it in now, does not answer; the next one comes soon.
        let _ = self.out.send_to(&packet, (ear.vtep, VXLAN_PORT));
    }

    fn hear(&mut self, begin: Instant) -> Result<()> {
        let mut buffer = [0; 256];
        for (host, ear) in self.ears.iter().enumerate() {
            while let Some((length, device, kind)) = receive(ear.socket.as_raw_fd(), &mut buffer)? {
                let heard = begin.elapsed();
                let out = kind == PACKET_OUTGOING && ear.tunnels.contains(&device);
                let Some(said) = answer(&buffer[..length]).filter(|said| out && said.host == host) else {
                    continue;
                };
                let Some((_, asked)) = ear.asked.get(said.request as usize) else { continue };
                self.answers.push(Answer {
                    node: ear.name.clone(),
                    request: said.request,
                    address: said.address.to_string(),
                    mac: said.mac,
                    asked: *asked,
                    heard,
                });
            }
        }
        Ok(())
    }
}

/// A frame's length, its device, and how it is on its way there.
type Frame = (usize, u32, u8);

/// The next frame; `None`: no more.
fn receive(socket: RawFd, buffer: &mut [u8]) -> Result<Option<Frame>> {
    match recvfrom::<LinkAddr>(socket, buffer) {
        Ok((length, Some(from))) => Ok(Some((length, from.ifindex() as u32, from.pkttype()))),
        // A device went down under it: told once, and the socket goes on.
        Ok((_, None)) | Err(Errno::ENETDOWN) => Ok(Some((0, 0, 0))),
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno).context("hear the wire"),
    }
}

/// Classic BPF: ARP replies to one of our askers.
fn answers_only() -> Vec<SockFilter> {
    const LOAD_HALF: u16 = 0x28;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let lines = [
        (LOAD_HALF, 0, 0, 12),
        (EQUAL, 0, 5, u32::from(ETH_P_ARP)),
        (LOAD_HALF, 0, 0, 20),
        (EQUAL, 0, 3, 2),
        (LOAD_HALF, 0, 0, 32),
        (EQUAL, 0, 1, u32::from(ASKER)),
        (RETURN, 0, 0, FRAME as u32),
        (RETURN, 0, 0, 0),
    ];
    lines.into_iter().map(|(code, yes, no, k)| SockFilter::new(code, yes, no, k)).collect()
}

/// An ARP request (RFC 826) inside VXLAN (RFC 7348 §5). It names a sender's address, since one without (RFC 5227 §1.1)
/// tells a host that is about to use the address that somebody else is, too.
fn question(vni: u32, host: u8, request: u32, address: Ipv4Addr) -> Vec<u8> {
    let [high, low] = ASKER.to_be_bytes();
    let [_, a, b, c] = request.to_be_bytes();
    let mut packet = vec![0x08, 0, 0, 0];
    packet.extend((vni << 8).to_be_bytes());
    packet.extend([0xff; 6]);
    // The same for all, so that nobody has to learn many.
    packet.extend([0x02, 0xcd, 0, 0, 0, host]);
    packet.extend(ETH_P_ARP.to_be_bytes());
    packet.extend([0, 1, 0x08, 0, 6, 4, 0, 1]);
    packet.extend([high, low, host, a, b, c]);
    let [n, e, t, _] = address.octets();
    packet.extend([n, e, t, 250]);
    packet.extend([0; 6]);
    packet.extend(address.octets());
    packet
}

/// What a frame answers.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    host: usize,
    request: u32,
    address: Ipv4Addr,
    mac: String,
}

fn answer(frame: &[u8]) -> Option<Said> {
    let frame: &[u8; FRAME] = frame.get(..FRAME)?.try_into().ok()?;
    let is_one = frame[12..14] == ETH_P_ARP.to_be_bytes()
        && frame[20..22] == [0, 2]
        && frame[32..34] == ASKER.to_be_bytes();
    is_one.then(|| Said {
        host: usize::from(frame[34]),
        request: u32::from_be_bytes([0, frame[35], frame[36], frame[37]]),
        address: Ipv4Addr::new(frame[28], frame[29], frame[30], frame[31]),
        mac: frame[22..28].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
    })
}

#[cfg(test)]
mod tests {
    use causeway_tests::wait_for;

    use super::*;

    const VTEP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

    #[test]
    fn only_answers_to_our_requests_are_taken_up() {
        let address = Ipv4Addr::new(10, 8, 0, 12);
        let mut frame = question(110, 3, 0x0001_0203, address).split_off(8);
        assert_eq!((frame.len(), answer(&frame)), (FRAME, None), "a request is no answer");
        // What a kernel makes of it: the two sides change places.
        let asker = frame[22..32].to_vec();
        frame[20..22].copy_from_slice(&[0, 2]);
        frame[22..28].copy_from_slice(&[2, 0xca, 10, 8, 0, 12]);
        frame[28..32].copy_from_slice(&address.octets());
        frame[32..42].copy_from_slice(&asker);
        let said = Said { host: 3, request: 0x0001_0203, address, mac: "02:ca:0a:08:00:0c".into() };
        assert_eq!(answer(&frame), Some(said));
        for short in 0..FRAME {
            assert_eq!(answer(&frame[..short]), None);
        }
        frame[33] ^= 1;
        assert_eq!(answer(&frame), None, "somebody else's");
    }

    /// A host with a tunnel and two workloads with the same address: both are heard, each once to each request.
    #[test]
    fn everybody_who_answers_is_heard_and_nobody_else() -> Result<()> {
        causeway_tests::netns::with_pair(async |_core, host| {
            let (one, two) = (Netns::new("one").await?, Netns::new("two").await?);
            host.ip(&[
                "link add cwb110 type bridge",
                "link add cwx110 type vxlan id 110 dstport 4789 local 10.9.0.2 nolearning",
                "link set cwx110 master cwb110",
                "link set cwx110 type bridge_slave neigh_suppress on learning off",
                "link set cwb110 up",
                "link set cwx110 up",
            ])
            .await?;
            for (n, workload) in [(1, &one), (2, &two)] {
                let end = format!("cwp{n}");
                Netns::join((host, &end, &[]), (workload, "eth0", &["10.8.0.12/24"])).await?;
                host.ip(&[&format!("link set {end} master cwb110")]).await?;
            }
            let wanted = [12, 13].map(|last| Ipv4Addr::new(10, 8, 0, last));
            let mut asker = Asker::new(Ipv4Addr::new(10, 9, 0, 1), 110, wanted.to_vec())?;
            asker.add("h", host, VTEP)?;
            let index = host.run(&["cat", "/sys/class/net/cwx110/ifindex"]).await?;
            asker.device("h", index.trim().parse()?, "cwx110");
            let begin = Instant::now();
            let both = |asker: &Asker| asker.answers.len() >= 2;
            wait_for("both answer", Duration::from_secs(20), async || {
                asker.turn(begin)?;
                anyhow::ensure!(both(&asker), "{:?}", asker.answers);
                Ok(())
            })
            .await?;
            let first = asker.answers[0].request;
            let same: Vec<&Answer> = asker.answers.iter().filter(|answer| answer.request == first).collect();
            anyhow::ensure!(same.len() == 2 && same[0].mac != same[1].mac, "{:#?}", asker.answers);
            let fine = |answer: &Answer| answer.address == "10.8.0.12" && answer.asked <= answer.heard;
            anyhow::ensure!(asker.answers.iter().all(fine), "{:#?}", asker.answers);
            // One goes: from the next request on there is one answer only.
            host.ip(&["link set cwp2 down"]).await?;
            asker.hear(begin)?;
            let (request, known) = (asker.ears[0].asked.len() as u32, asker.answers.len());
            wait_for("the other answers", Duration::from_secs(20), async || {
                asker.turn(begin)?;
                anyhow::ensure!(asker.answers.len() > known, "no more answers");
                Ok(())
            })
            .await?;
            let since: Vec<&Answer> = asker.answers.iter().filter(|a| a.request >= request).collect();
            let numbers: HashSet<u32> = since.iter().map(|answer| answer.request).collect();
            anyhow::ensure!(numbers.len() == since.len(), "{since:#?}");
            Ok(())
        })
    }
}
