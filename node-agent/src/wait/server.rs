//! The server side of the readiness socket.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_proto::{PortKey, v1};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::stand;
use super::book::Book;
use super::peer::{Peer, peer};
use super::{Leg, Level, Said};
use crate::local::Local;
use crate::model::NetnsRef;
use crate::netns::{NetnsId, identify, own_id};

/// Processes that wait at once; more wait for their turn.
const CALLERS: usize = 4096;
/// Bytes of a request.
const REQUEST: u64 = 512;
/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one may wait.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Between two tries to take the socket.
const RETRY: Duration = Duration::from_secs(5);
/// Between two requests to the controller to prove a port: it may be another controller by then.
const PROVE_AGAIN: Duration = Duration::from_secs(2);
/// How old the list of namespaces may be: names change hands without a word.
const FRESH: Duration = Duration::from_millis(250);

/// What answers callers.
#[derive(Debug, Clone)]
pub struct Server {
    local: watch::Receiver<Arc<Local>>,
    book: watch::Receiver<Arc<Book>>,
    prove: mpsc::Sender<v1::ProveRequest>,
    index: Arc<Mutex<Index>>,
}

/// Ports by namespace.
#[derive(Debug, Default)]
struct Index {
    local: Arc<Local>,
    /// Where the ports of `local` are: which namespaces these names stand for is looked up only if one is new, or seldom.
    places: BTreeMap<PortKey, NetnsRef>,
    made: Option<Instant>,
    ports: BTreeMap<NetnsId, BTreeSet<PortKey>>,
}

/// What a caller wants.
struct Request {
    level: Level,
    timeout: Duration,
    port: Option<PortKey>,
}

impl Server {
    /// One that answers from these. `prove` takes what the controller shall prove.
    pub fn new(
        local: watch::Receiver<Arc<Local>>,
        book: watch::Receiver<Arc<Book>>,
        prove: mpsc::Sender<v1::ProveRequest>,
    ) -> Server {
        Server { local, book, prove, index: Arc::default() }
    }

    /// Serves the socket at `path` until `stop`. One that cannot be taken is tried again: the data plane does not
    /// depend on it.
    pub async fn run(self, path: PathBuf, stop: CancellationToken) {
        let mut said = String::new();
        loop {
            match bind(&path).await {
                Ok(listener) => {
                    tracing::info!(path = %path.display(), "readiness socket is open");
                    stop.run_until_cancelled(self.accept(listener)).await;
                    // Gone already is fine. Callers that are cut off try again until their time is over.
                    let _ = std::fs::remove_file(&path);
                    return;
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        tracing::warn!(path = %path.display(), %error, "no readiness socket, trying again");
                        said = text;
                    }
                }
            }
            if stop.run_until_cancelled(sleep(RETRY)).await.is_none() {
                return;
            }
        }
    }

    async fn accept(&self, listener: UnixListener) {
        let room = Arc::new(Semaphore::new(CALLERS));
        let mut callers = JoinSet::new();
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let server = self.clone();
                        callers.spawn(async move {
                            if let Err(error) = server.serve(stream).await {
                                tracing::debug!(%error, "caller of the readiness socket is gone");
                            }
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "readiness socket takes no caller");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = callers.join_next() => {}
            }
        }
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let who = peer(&stream);
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader.take(REQUEST));
        let mut line = String::new();
        let asked = match timeout(PATIENCE, reader.read_line(&mut line)).await {
            Err(_) => Err("nothing was asked; say: wait LEVEL MILLISECONDS".to_owned()),
            Ok(read) => read.map(|_| Request::read(&line))?,
        };
        let checked = who.and_then(|who| Ok((who, asked?)));
        let (who, request) =
            match checked.and_then(|(who, request)| Ok((self.check(who, &request)?, request))) {
                Ok(checked) => checked,
                Err(why) => return say(&mut writer, &Said::Refused(why)).await,
            };
        // A caller that goes away shows by the end of what it says.
        let mut rest = [0_u8; 64];
        tokio::select! {
            done = self.wait(who, request, &mut writer) => done,
            _ = async { while reader.read(&mut rest).await.is_ok_and(|read| read > 0) {} } => Ok(()),
        }
    }

    /// Whether the caller may ask what it asks; in the host's own namespace only root may, and only by name.
    fn check(&self, who: Peer, request: &Request) -> Result<Option<NetnsId>, String> {
        let own = own_id().map_err(|error| format!("the agent's own namespace is not known: {error}"))?;
        if who.netns != own {
            return Ok(Some(who.netns));
        }
        match (&request.port, who.uid) {
            (Some(_), 0) => Ok(None),
            (Some(_), _) => Err("only root may ask for a port from the host's own network namespace".into()),
            (None, _) => Err(format!(
                "process {} runs in the host's own network namespace, which is no port's; run this inside the \
                 workload, or as root name the port: --port NETWORK/NAME",
                who.pid
            )),
        }
    }

    async fn wait(
        &self,
        netns: Option<NetnsId>,
        request: Request,
        writer: &mut (impl AsyncWriteExt + Unpin),
    ) -> io::Result<()> {
        let deadline = Instant::now() + request.timeout;
        let (mut local, mut book) = (self.local.clone(), self.book.clone());
        let mut said = None;
        let mut prove_at = Instant::now();
        loop {
            // Marked as seen before the look: what changes during it wakes.
            local.borrow_and_update();
            book.borrow_and_update();
            let ports = match self.ports(netns, request.port.as_ref()) {
                Ok(ports) => ports,
                Err(why) => return say(writer, &Said::Refused(why)).await,
            };
            let waits = match self.look(&ports, request.level) {
                Ok(ready) => return say(writer, &Said::Ready(ready)).await,
                Err(waits) => waits,
            };
            let now = Instant::now();
            if now >= deadline {
                return say(writer, &Said::Late(waits.0, waits.1)).await;
            }
            if said.as_ref() != Some(&waits) {
                say(writer, &Said::Waiting(waits.0, waits.1.clone())).await?;
                said = Some(waits);
            }
            let proves = request.level == Level::Proven && !ports.is_empty();
            if proves && now >= prove_at {
                self.ask(&ports, deadline - now);
                prove_at = now + PROVE_AGAIN;
            }
            // A name of a namespace may change hands without a word.
            let again = if ports.is_empty() { now + FRESH } else { now + PROVE_AGAIN };
            tokio::select! {
                changed = local.changed() => changed.map_err(io::Error::other)?,
                changed = book.changed() => changed.map_err(io::Error::other)?,
                () = sleep_until(again.min(deadline)) => {}
            }
        }
    }

    fn look(&self, ports: &BTreeSet<PortKey>, level: Level) -> Result<String, (Leg, String)> {
        let (local, book) = (Arc::clone(&self.local.borrow()), Arc::clone(&self.book.borrow()));
        if ports.is_empty() {
            let on = if local.node.is_empty() { String::new() } else { format!(" of node {}", local.node) };
            let text = format!("no port{on} is bound to this network namespace yet");
            return Err((Leg::Allocation, text));
        }
        stand(&local, &book, ports, level)
    }

    /// The ports that are waited for: of the namespace, or the one that root named.
    fn ports(&self, netns: Option<NetnsId>, named: Option<&PortKey>) -> Result<BTreeSet<PortKey>, String> {
        let Some(netns) = netns else { return Ok(named.cloned().into_iter().collect()) };
        let own = self.index().ports.get(&netns).cloned().unwrap_or_default();
        match named {
            None => Ok(own),
            Some(port) if own.contains(port) => Ok([port.clone()].into()),
            Some(_) if own.is_empty() => Ok(own),
            Some(port) => Err(format!("port {port} is not one of this network namespace")),
        }
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let local = Arc::clone(&self.local.borrow());
        let fresh = index.made.is_some_and(|made| made.elapsed() < FRESH);
        if fresh && Arc::ptr_eq(&index.local, &local) {
            return index;
        }
        let inside = local.ports.iter().filter(|(_, port)| port.attach.has_inside());
        let places: BTreeMap<PortKey, NetnsRef> =
            inside.map(|(id, port)| (id.clone(), port.netns.clone())).collect();
        if !fresh || places != index.places {
            let mut ports: BTreeMap<NetnsId, BTreeSet<PortKey>> = BTreeMap::new();
            for (id, netns) in places.iter().filter_map(|(id, netns)| Some((id, identify(netns)?))) {
                ports.entry(netns).or_default().insert(id.clone());
            }
            (index.ports, index.places, index.made) = (ports, places, Some(Instant::now()));
        }
        index.local = local;
        index
    }

    /// Has the controller prove what is not proven; lost while there is none, and asked again then.
    fn ask(&self, ports: &BTreeSet<PortKey>, left: Duration) {
        let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).min(600_000);
        for port in ports {
            let request = v1::ProveRequest { port: port.to_string(), timeout_ms };
            let _ = self.prove.try_send(request);
        }
    }
}

impl Request {
    fn read(line: &str) -> Result<Request, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (level, time, port) = match words.as_slice() {
            ["wait", level, time] => (level, time, None),
            ["wait", level, time, port] => (level, time, Some(port)),
            _ => return Err("say: wait LEVEL MILLISECONDS".into()),
        };
        let port = port.map(|port| port.parse().map_err(|error| format!("port '{port}': {error}")));
        let time: u64 = time.parse().map_err(|_| format!("'{time}' is no number of milliseconds"))?;
        Ok(Request {
            level: level.parse()?,
            timeout: Duration::from_millis(time).min(LONGEST),
            port: port.transpose()?,
        })
    }
}

async fn say(writer: &mut (impl AsyncWriteExt + Unpin), said: &Said) -> io::Result<()> {
    writer.write_all(format!("{said}\n").as_bytes()).await
}

/// Takes the socket. One that nobody serves any more is replaced, one that is served is not.
async fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(known) if known.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Anybody may ask: who asks hears of its own ports only.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}
