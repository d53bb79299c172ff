//! What hosts' kernels say of the ports on them: one thread hears the netlink sockets of all of them.
//!
//! The kernel puts a message into a socket when something happens; when it is read is another matter. What was not there
//! at one look and is at the next happened in between, and that is all that is claimed. The same thread asks the wire
//! (`wire`), since it knows the devices.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use causeway_tests::{Netns, wait_for};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt::RcvBufForce,
};

use crate::history::{Answer, At, Between, Presence};
use crate::wire::Asker;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// linux/rtnetlink.h: link and neighbour changes.
const GROUPS: u32 = 0x1 | 0x4;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWNEIGH: u16 = 28;
/// linux/if_link.h, linux/neighbour.h.
const IFLA_IFNAME: u16 = 3;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const AF_BRIDGE: u8 = 7;
const IFF_UP: u32 = 1;
/// Devices of ports.
const OURS: &str = "cwp";

/// A message that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Link {
        index: u32,
        name: String,
        up: bool,
    },
    Gone {
        index: u32,
    },
    /// The bridge knows a MAC behind a device.
    Behind {
        index: u32,
        mac: String,
    },
}

/// The messages of one datagram.
fn parse(mut bytes: &[u8]) -> Vec<Heard> {
    let mut all = Vec::new();
    while let Some(length) = u32_at(bytes, 0).map(|n| n as usize).filter(|n| (16..=bytes.len()).contains(n)) {
        all.extend(message(&bytes[..length]));
        bytes = &bytes[(length.next_multiple_of(4)).min(bytes.len())..];
    }
    all
}

fn message(bytes: &[u8]) -> Option<Heard> {
    let index = u32_at(bytes, 20)?;
    match u16_at(bytes, 4)? {
        RTM_NEWLINK => {
            // A bridge port's own messages (AF_BRIDGE) have the flags too; names are text that ends with a zero.
            let name = attribute(bytes.get(32..)?, IFLA_IFNAME)?;
            let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned();
            Some(Heard::Link { index, name, up: u32_at(bytes, 24)? & IFF_UP != 0 })
        }
        // For AF_BRIDGE it says that the device left its bridge.
        RTM_DELLINK if bytes.get(16) != Some(&AF_BRIDGE) => Some(Heard::Gone { index }),
        // A device's own MAC is permanent.
        RTM_NEWNEIGH if bytes.get(16) == Some(&AF_BRIDGE) && u16_at(bytes, 24)? & NUD_PERMANENT == 0 => {
            let mac = attribute(bytes.get(28..)?, NDA_LLADDR)?;
            let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(Heard::Behind { index, mac: mac.join(":") })
        }
        _ => None,
    }
}

fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        // The two highest bits are flags.
        if u16_at(bytes, 2)? & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A device of a port.
#[derive(Debug, Default)]
struct Device {
    name: String,
    up: Option<Between>,
    mac: Option<(String, Between)>,
}

/// What one host has, and had.
#[derive(Debug, Default)]
struct Host {
    name: String,
    devices: HashMap<u32, Device>,
    past: Vec<Presence>,
}

impl Host {
    fn hear(&mut self, heard: Heard, when: Between) {
        match heard {
            Heard::Link { index, name, up } if name.starts_with(OURS) => {
                let device = self.devices.entry(index).or_default();
                device.name = name;
                match (up, device.up) {
                    (true, None) => device.up = Some(when),
                    (false, Some(_)) => self.down(index, when),
                    _ => {}
                }
            }
            Heard::Gone { index } => {
                self.down(index, when);
                self.devices.remove(&index);
            }
            // The multicast groups of the host itself are no workload's.
            Heard::Behind { index, mac } if !mac.starts_with("33:33") && !mac.starts_with("01:") => {
                let known = self.devices.get(&index).and_then(|device| device.mac.as_ref());
                if known.is_none_or(|(known, _)| *known != mac) {
                    let up = self.devices.get(&index).is_some_and(|device| device.up.is_some());
                    self.down(index, when);
                    if let Some(device) = self.devices.get_mut(&index) {
                        device.up = up.then_some(when);
                        device.mac = Some((mac, when));
                    }
                }
            }
            Heard::Link { .. } | Heard::Behind { .. } => {}
        }
    }

    fn down(&mut self, index: u32, when: Between) {
        let Some(device) = self.devices.get_mut(&index) else { return };
        if let (Some(up), Some((mac, known))) = (device.up.take(), device.mac.clone()) {
            self.past.push(presence(&self.name, &device.name, mac, up, known, Some(when)));
        }
    }

    fn all(mut self) -> Vec<Presence> {
        for device in self.devices.into_values() {
            if let (Some(up), Some((mac, known))) = (device.up, device.mac) {
                self.past.push(presence(&self.name, &device.name, mac, up, known, None));
            }
        }
        self.past
    }
}

/// From when the device was up and its MAC known.
fn presence(
    node: &str,
    device: &str,
    mac: String,
    up: Between,
    known: Between,
    to: Option<Between>,
) -> Presence {
    let from = Between(up.0.max(known.0), up.1.max(known.1));
    Presence { node: node.to_owned(), device: device.to_owned(), mac, from, to }
}

/// Hears hosts until it is asked what it saw.
#[derive(Debug)]
pub(crate) struct Sight {
    end: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<Seen>>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By the kernels.
    pub(crate) ports: Vec<Presence>,
    /// On the wire.
    pub(crate) answers: Vec<Answer>,
}

fn listen(netns: &Netns) -> Result<OwnedFd> {
    netns.enter(async || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        setsockopt(&socket, RcvBufForce, &(16 << 20))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(socket)
    })
}

impl Sight {
    /// Listens in these namespaces, by the names of their hosts, and lets `asker` ask; times count from `begin`.
    pub(crate) fn start<'n>(
        hosts: impl IntoIterator<Item = (&'n str, &'n Netns)>,
        asker: Option<Asker>,
        begin: Instant,
    ) -> Result<Sight> {
        let mut sockets = BTreeMap::new();
        for (name, netns) in hosts {
            sockets.insert(name.to_owned(), listen(netns)?);
        }
        let (end, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, round) = (Arc::clone(&end), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || look(&sockets, asker, begin, &ended, &round));
        Ok(Sight { end, rounds, thread })
    }

    /// Waits until everything was asked for so many times more.
    pub(crate) async fn more_rounds(&self, more: u64) -> Result<()> {
        let until = self.rounds.load(Ordering::SeqCst) + more;
        wait_for("the wire is asked again", Duration::from_secs(60), async || {
            ensure!(self.rounds.load(Ordering::SeqCst) >= until, "not yet");
            Ok(())
        })
        .await
    }

    /// What was seen.
    pub(crate) fn finish(self) -> Result<Seen> {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that hears the kernel panicked"))?
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, which does nothing else")]
fn look(
    sockets: &BTreeMap<String, OwnedFd>,
    mut asker: Option<Asker>,
    begin: Instant,
    end: &AtomicBool,
    rounds: &AtomicU64,
) -> Result<Seen> {
    let mut buffer = vec![0; 64 * 1024];
    let mut hosts: Vec<Host> =
        sockets.keys().map(|name| Host { name: name.clone(), ..Host::default() }).collect();
    // When each was found empty last.
    let mut empty = vec![At::ZERO; hosts.len()];
    loop {
        let last = end.load(Ordering::SeqCst);
        for ((host, empty), socket) in hosts.iter_mut().zip(&mut empty).zip(sockets.values()) {
            loop {
                let asked = begin.elapsed();
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => {
                        let when = Between(*empty, begin.elapsed());
                        for heard in parse(&buffer[..length]) {
                            if let (Some(asker), Heard::Link { index, name, .. }) = (&mut asker, &heard) {
                                asker.device(&host.name, *index, name);
                            }
                            host.hear(heard, when);
                        }
                    }
                    Err(Errno::EAGAIN) => {
                        *empty = asked;
                        break;
                    }
                    Err(Errno::ENOBUFS) => bail!("host {}: the kernel said more than was heard", host.name),
                    Err(errno) => return Err(errno).context("hear the kernel"),
                }
            }
        }
        if let Some(asker) = &mut asker
            && asker.turn(begin)?
        {
            rounds.fetch_add(1, Ordering::SeqCst);
        }
        if last {
            let ports = hosts.into_iter().flat_map(Host::all).collect();
            return Ok(Seen { ports, answers: asker.map(|asker| asker.answers).unwrap_or_default() });
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(n: u64) -> Between {
        Between(At::from_millis(n), At::from_millis(n + 1))
    }

    fn link(up: bool) -> Heard {
        Heard::Link { index: 7, name: "cwp1".into(), up }
    }

    fn behind(mac: &str) -> Heard {
        Heard::Behind { index: 7, mac: mac.into() }
    }

    #[test]
    fn a_port_is_there_while_it_is_up_and_its_mac_known() {
        let mut host = Host { name: "h".into(), ..Host::default() };
        let story = [link(false), link(true), behind("02:a"), behind("33:33:0"), link(true), link(false)];
        for (n, heard) in (0..).zip(story) {
            host.hear(heard, between(n * 10));
        }
        // Up again it is there at once, with another MAC it is another one, and what goes is gone.
        let story = [link(true), behind("02:b"), Heard::Gone { index: 7 }, link(true)];
        for (n, heard) in (10..).zip(story) {
            host.hear(heard, between(n * 10));
        }
        let seen: Vec<_> = host.all().into_iter().map(|p| (p.mac, p.from, p.to)).collect();
        let want = [
            ("02:a".to_owned(), between(20), Some(between(50))),
            ("02:a".to_owned(), between(100), Some(between(110))),
            ("02:b".to_owned(), between(110), Some(between(120))),
        ];
        assert_eq!(seen, want);
    }

    #[tokio::test]
    async fn the_kernel_is_understood() -> Result<()> {
        let netns = Netns::new("sight").await?;
        let sight = Sight::start([("h", &netns)], None, Instant::now())?;
        let lines = [
            "link add br0 type bridge",
            "link add cwp1 type veth peer name in1",
            "link set cwp1 master br0",
            "link set cwp1 up",
        ];
        netns.ip(&lines).await?;
        netns
            .run(&["bridge", "fdb", "replace", "02:00:00:00:00:05", "dev", "cwp1", "master", "static"])
            .await?;
        netns.ip(&["link set cwp1 down", "link set cwp1 up"]).await?;
        let seen = sight.finish()?.ports;
        let ours: Vec<_> = seen.iter().filter(|p| p.mac == "02:00:00:00:00:05").collect();
        anyhow::ensure!(ours.len() == 2 && ours.iter().all(|p| p.device == "cwp1"), "{seen:#?}");
        anyhow::ensure!(ours[0].to.is_some() && ours[1].to.is_none(), "{seen:#?}");
        Ok(())
    }
}
