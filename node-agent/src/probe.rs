//! Probes: frames from a workload of this node to an address elsewhere, which show whether it is reached through the
//! fabric, and for how long it was not.
//!
//! ```text
//! controller ── order, cancel ──▶ prober (a thread) ── a task a probe ──▶ packet socket at the source
//!            ◀── results ───────────────┘
//! ```
//!
//! A frame must not be answered on the way. A bridge that suppresses ARP answers requests, broadcast ones and on older
//! kernels also those to one MAC, from what it was told: that proves nothing. So probes are ICMP echo requests, addressed
//! to the owner's MAC, or ARP requests without a sender address, which no bridge answers (see `frame`).

pub(crate) mod frame;
mod order;
mod run;
pub(crate) mod socket;
mod source;
mod tally;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use causeway_proto::{Vni, v1};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::local::Local;
use order::Order;

/// Probes of a node at once.
pub const PROBES: usize = 128;
/// Room for what the controller asks.
const ASKED: usize = 256;
/// Room for results; one that does not fit is covered by the next of its probe.
const RESULTS: usize = 1024;

/// What a prober is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Begin.
    Probe(v1::ProbeOrder),
    /// End the probe with this id.
    Cancel(u64),
    /// End all: who ordered them is gone.
    CancelAll,
}

/// A running prober. It ends when `stop` is cancelled or `asks` is dropped, and leaves nothing behind.
#[derive(Debug)]
pub struct ProberHandle {
    /// Where it takes orders.
    pub asks: mpsc::Sender<Ask>,
    /// What it finds.
    pub results: mpsc::Receiver<v1::ProbeResult>,
    thread: JoinHandle<()>,
}

impl ProberHandle {
    /// Starts one, in the network namespace `netns` or in that of the caller.
    pub fn start(
        netns: Option<PathBuf>,
        local: watch::Receiver<Arc<Local>>,
        stop: CancellationToken,
    ) -> std::io::Result<ProberHandle> {
        let (asks, take_asks) = mpsc::channel(ASKED);
        let (out, results) = mpsc::channel(RESULTS);
        let work = move || {
            let entered = netns.map_or(Ok(()), |netns| crate::netns::enter(&netns));
            let runtime =
                entered.and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            match runtime {
                Ok(runtime) => {
                    let prober =
                        Prober { local, out, running: BTreeMap::new(), begun: 0, tasks: JoinSet::new() };
                    runtime.block_on(prober.run(take_asks, stop));
                }
                Err(error) => tracing::error!(%error, "this node cannot probe"),
            }
        };
        let thread = std::thread::Builder::new().name("prober".into()).spawn(work)?;
        Ok(ProberHandle { asks, results, thread })
    }

    /// Waits until its thread has ended.
    pub fn join(self) {
        let ProberHandle { thread, asks, .. } = self;
        drop(asks);
        // A panic has been printed by then.
        let _ = thread.join();
    }
}

/// A probe under way, or whose end was asked for.
#[derive(Debug)]
struct Running {
    id: u64,
    vni: Vni,
    target: IpAddr,
    /// Cancelled when it shall end, and by itself before its last result goes out.
    cancel: CancellationToken,
}

struct Prober {
    local: watch::Receiver<Arc<Local>>,
    out: mpsc::Sender<v1::ProbeResult>,
    /// By the order in which they began: ids are the controller's.
    running: BTreeMap<u64, Running>,
    begun: u64,
    tasks: JoinSet<u64>,
}

impl Prober {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                ask = asks.recv() => match ask {
                    Some(ask) => self.take(ask),
                    None => break,
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
            }
        }
        // Sockets close with their tasks.
        self.tasks.shutdown().await;
    }

    /// A task that panicked has printed so, and keeps its address: which one it was is not known.
    fn ended(&mut self, ended: Result<u64, tokio::task::JoinError>) {
        if let Ok(serial) = ended {
            self.running.remove(&serial);
        }
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Probe(order) => {
                let id = order.id;
                if let Err(problem) = self.begin(&order) {
                    tracing::debug!(probe = id, address = order.address, %problem, "not probed");
                    let refused = v1::ProbeResult { id, finished: true, problem, ..Default::default() };
                    // Whoever ordered it gives up by itself if it hears nothing.
                    let _ = self.out.try_send(refused);
                }
            }
            Ask::Cancel(id) => {
                self.running.values().filter(|r| r.id == id).for_each(|running| running.cancel.cancel());
            }
            Ask::CancelAll => self.running.values().for_each(|running| running.cancel.cancel()),
        }
    }

    fn begin(&mut self, order: &v1::ProbeOrder) -> Result<(), String> {
        let order = Order::read(order)?;
        let mut alive = self.running.values().filter(|running| !running.cancel.is_cancelled());
        let clash = |r: &&Running| r.id == order.id || (r.vni, r.target) == (order.vni, order.target);
        if let Some(other) = alive.find(clash) {
            return Err(format!("{} is being probed already, by order {}", other.target, other.id));
        }
        if self.running.len() >= PROBES {
            return Err(format!(
                "this node has {PROBES} probes under way, which is the most it does at once"
            ));
        }
        let local = Arc::clone(&self.local.borrow());
        let cancel = CancellationToken::new();
        let (id, vni, target) = (order.id, order.vni, order.target);
        let probe = run::Probe::open(&local, order).map_err(|error| error.to_string())?;
        self.begun += 1;
        let serial = self.begun;
        self.running.insert(serial, Running { id, vni, target, cancel: cancel.clone() });
        let out = self.out.clone();
        self.tasks.spawn(async move {
            probe.run(&out, cancel).await;
            serial
        });
        Ok(())
    }
}
