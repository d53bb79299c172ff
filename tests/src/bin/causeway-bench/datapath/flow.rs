//! Both ends of a measured TCP connection, each a process of its own in the namespace that it stands for.
//!
//! A connection begins with one byte that says what for: [`SINK`], [`ECHO`] or [`WHO`].

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

/// The server listens here, on every address of its namespace.
pub(crate) const PORT: u16 = 7777;
/// Takes all that comes; answers at the end with two little-endian u64: bytes and nanoseconds since the warm-up.
const SINK: u8 = b's';
/// Gives every message back.
const ECHO: u8 = b'e';
/// Answers with the address it sees the client at, and closes.
const WHO: u8 = b'w';
/// What is written and read at once in a stream.
const CHUNK: usize = 128 * 1024;
/// Bytes of a request, and of its response.
const MESSAGE: usize = 64;
/// What arrives before is not counted: TCP is still finding out how fast it may be.
const WARM_UP: Duration = Duration::from_millis(300);
/// Round trips before those that are timed.
const WARM_UP_TRIPS: u32 = 200;
/// Longest time that one end waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(crate) enum Flow {
    /// Serves one connection after the other until it is killed.
    Serve,
    /// Prints the address that the server sees us at.
    Who { server: Ipv4Addr },
    /// Sends as fast as it can; prints bits a second as the server counted them.
    Send { server: Ipv4Addr, seconds: f64 },
    /// Asks and waits for the answer, again and again; prints the nanoseconds of each round trip.
    Ask { server: Ipv4Addr, trips: u32 },
}

impl Flow {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Flow::Serve => serve(&TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?),
            Flow::Who { server } => {
                let mut seen = String::new();
                connect((server, PORT).into(), WHO)?.read_to_string(&mut seen)?;
                println!("{seen}");
                Ok(())
            }
            Flow::Send { server, seconds } => {
                println!("{}", send((server, PORT).into(), Duration::try_from_secs_f64(seconds)?)?);
                Ok(())
            }
            Flow::Ask { server, trips } => {
                let times = ask((server, PORT).into(), trips)?;
                let lines: Vec<String> = times.iter().map(|t| t.as_nanos().to_string()).collect();
                println!("{}", lines.join("\n"));
                Ok(())
            }
        }
    }
}

fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream.set_write_timeout(Some(PATIENCE))?)
}

fn connect(server: SocketAddr, purpose: u8) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)
        .with_context(|| format!("cannot connect to {server}"))?;
    prepare(&stream)?;
    stream.write_all(&[purpose])?;
    Ok(stream)
}

fn serve(listener: &TcpListener) -> Result<()> {
    loop {
        let (stream, client) = listener.accept()?;
        // A client that goes wrong says so itself; the next one is served.
        if let Err(err) = answer(stream, client) {
            println!("{client}: {err:#}");
        }
    }
}

fn answer(mut stream: TcpStream, client: SocketAddr) -> Result<()> {
    prepare(&stream)?;
    let mut purpose = [0];
    stream.read_exact(&mut purpose)?;
    match purpose[0] {
        WHO => Ok(stream.write_all(client.ip().to_string().as_bytes())?),
        ECHO => echo(stream),
        SINK => sink(stream),
        other => bail!("{other} is no purpose"),
    }
}

fn echo(mut stream: TcpStream) -> Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        match stream.read_exact(&mut message) {
            Ok(()) => stream.write_all(&message)?,
            Err(err) if err.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(err) => return Err(err.into()),
        }
    }
}

fn sink(mut stream: TcpStream) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    let start = Instant::now();
    let (mut bytes, mut since) = (0_u64, None);
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            count if since.is_some() => bytes += count as u64,
            _ if start.elapsed() >= WARM_UP => since = Some(Instant::now()),
            _ => {}
        }
    }
    let time = since.map_or(0, |since| u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
    stream.write_all(&[bytes.to_le_bytes(), time.to_le_bytes()].concat())?;
    Ok(())
}

fn send(server: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = connect(server, SINK)?;
    let chunk = vec![0x5a; CHUNK];
    let start = Instant::now();
    while start.elapsed() < time + WARM_UP {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let (mut bytes, mut nanos) = ([0; 8], [0; 8]);
    stream.read_exact(&mut bytes).context("no count from the server")?;
    stream.read_exact(&mut nanos)?;
    let (bytes, nanos) = (u64::from_le_bytes(bytes), u64::from_le_bytes(nanos));
    ensure!(bytes > 0 && nanos > 0, "nothing arrived after the warm-up of {WARM_UP:?}");
    Ok(bytes as f64 * 8e9 / nanos as f64)
}

fn ask(server: SocketAddr, trips: u32) -> Result<Vec<Duration>> {
    let mut stream = connect(server, ECHO)?;
    let mut message = [0x5a; MESSAGE];
    let mut times = Vec::new();
    for trip in 0..WARM_UP_TRIPS.saturating_add(trips) {
        let start = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        if trip >= WARM_UP_TRIPS {
            times.push(start.elapsed());
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server on loopback for so many connections.
    fn with_server<T>(connections: usize, body: impl FnOnce(SocketAddr) -> T) -> T {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..connections {
                    let (stream, client) = listener.accept().unwrap();
                    answer(stream, client).unwrap();
                }
            });
            body(address)
        })
    }

    #[test]
    fn both_ends_agree_on_what_was_sent() {
        with_server(1, |server| {
            let rate = send(server, Duration::from_millis(100)).unwrap();
            assert!(rate > 1e6, "{rate} bit/s over loopback");
        });
    }

    #[test]
    fn every_trip_is_timed_and_the_client_is_seen() {
        with_server(2, |server| {
            assert_eq!(ask(server, 50).unwrap().len(), 50);
            let mut seen = String::new();
            connect(server, WHO).unwrap().read_to_string(&mut seen).unwrap();
            assert_eq!(seen, "127.0.0.1");
        });
    }
}
