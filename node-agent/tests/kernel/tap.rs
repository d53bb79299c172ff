//! A VM's side of a tap: enough of one to ask who has an address.
#![allow(unsafe_code, reason = "ioctl on /dev/net/tun")]

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Netns;

pub(crate) struct Tap(File);

impl Tap {
    /// Opens an existing tap in a namespace, as a VM monitor does.
    pub(crate) fn open(netns: &Netns, name: &str) -> Result<Self> {
        Tap::open_as(netns, name, 0)
    }

    /// The same for one of several pairs of queues.
    pub(crate) fn open_queue(netns: &Netns, name: &str) -> Result<Self> {
        Tap::open_as(netns, name, libc::IFF_MULTI_QUEUE)
    }

    fn open_as(netns: &Netns, name: &str, flags: libc::c_int) -> Result<Self> {
        let path = netns.path();
        let name = name.to_owned();
        let thread = std::thread::spawn(move || -> Result<File> {
            causeway_agent::netns::enter(&path)?;
            let tun = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")?;
            // SAFETY: all-zero is a valid ifreq.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
                *to = *from as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | flags) as libc::c_short;
            // SAFETY: the kernel reads and writes one ifreq, which lives on this stack.
            let result = unsafe { libc::ioctl(tun.as_raw_fd(), 0x4004_54ca, &mut request) };
            ensure!(result == 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
            Ok(tun)
        });
        Ok(Tap(thread.join().map_err(|_| anyhow::anyhow!("panicked"))??))
    }

    /// Asks by ARP until somebody answers, and returns who.
    pub(crate) fn resolve(
        &mut self,
        mac: &str,
        own: [u8; 4],
        wanted: [u8; 4],
        patience: Duration,
    ) -> Result<String> {
        let own_mac: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<_, _>>()?;
        let mut frame = vec![0xff; 6];
        frame.extend(&own_mac);
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
        frame.extend(&own_mac);
        frame.extend(own);
        frame.extend([0; 6]);
        frame.extend(wanted);
        frame.resize(60, 0);
        let start = Instant::now();
        let mut asked: Option<Instant> = None;
        while start.elapsed() < patience {
            if asked.is_none_or(|at| at.elapsed() > Duration::from_millis(200)) {
                match self.0.write(&frame) {
                    Err(e) if e.kind() != ErrorKind::WouldBlock && e.raw_os_error() != Some(libc::EIO) => {
                        return Err(e.into());
                    }
                    _ => asked = Some(Instant::now()),
                }
            }
            let mut buffer = [0; 2048];
            match self.0.read(&mut buffer) {
                Ok(n)
                    if n >= 42
                        && buffer[12..14] == [0x08, 0x06]
                        && buffer[20..22] == [0, 2]
                        && buffer[28..32] == wanted =>
                {
                    let from = buffer.get(22..28).context("sender")?;
                    return Ok(from.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"));
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(e) => return Err(e.into()),
            }
        }
        bail!("nobody answered for {wanted:?}")
    }
}
