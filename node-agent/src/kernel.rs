//! The data plane: what the reconciler asks of it, and the Linux kernel as one.

mod apply;
mod child;
mod divert;
mod events;
mod fabric;
mod lan;
mod observe;
mod rate;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::dev::Dev;
use crate::guard::monitor::TableMonitor;
use crate::lan::moves::Moves;
use crate::model::{Attach, Desired, Key, NetnsRef};
use crate::netlink::NetlinkError;
use crate::netlink::monitor::Monitor;
use crate::netlink::socket::Connection;
use crate::netns::{NetnsError, NetnsId, own_id};
use crate::observed::Observed;
use crate::op::{At, Op};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A device that the step needs is not there.
    #[error("interface {0} is missing")]
    NoDevice(Dev),
    /// The workload's namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A file below /proc/sys cannot be written.
    #[error("sysctl {name}: {source}")]
    Sysctl {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else is in the way.
    #[error("{0}")]
    Conflict(String),
    /// The guard table cannot be changed.
    #[error(transparent)]
    Guard(#[from] crate::guard::nft::NftError),
    /// The tap cannot be made.
    #[error("make tap {dev}: {source}")]
    Tap {
        /// Its name.
        dev: Dev,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The announcement's socket cannot be opened.
    #[error("announce: {0}")]
    Announce(#[source] io::Error),
}

impl OpError {
    /// The kernel's errno, if it is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            OpError::Netlink(error) => error.errno(),
            _ => None,
        }
    }
}

/// What has been heard since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// What to compare again; the observed state has been brought up to date for these.
    pub keys: BTreeSet<Key>,
    /// Events were lost: only a full look tells what is.
    pub lost: bool,
    /// Something of a host behind switches may have changed.
    pub host: bool,
    /// Addresses of the host changed.
    pub addresses: bool,
}

/// What the reconciler needs. The kernel is one; [`Observed`] itself serves as the other, in tests.
pub trait Dataplane {
    /// Reads everything back.
    fn observe(&mut self, desired: &Desired) -> Result<Observed, NetlinkError>;

    /// Reads these keys back. FDB entries and neighbours are kept up to date by events and are not read one by one.
    fn refresh(
        &mut self,
        keys: &BTreeSet<Key>,
        desired: &Desired,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError>;

    /// Takes steps in order and says what became of each. Later ones are tried when an earlier one fails.
    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>>;

    /// Takes in what has happened meanwhile, without waiting.
    fn hear(&mut self, desired: &Desired, observed: &mut Observed) -> Result<Heard, NetlinkError>;

    /// Waits until there may be something to hear.
    fn wait(&mut self) -> impl Future<Output = ()>;

    /// Ports whose namespace came, went or changed: looks at files only.
    fn changed_namespaces(&mut self, desired: &Desired) -> BTreeSet<Key>;
}

/// A workload's namespace under observation. Its socket keeps the namespace alive, so [`Kernel::changed_namespaces`]
/// lets go of it as soon as its name is gone.
#[derive(Debug)]
struct Watch {
    netns: NetnsRef,
    id: Option<NetnsId>,
    task: Option<AbortHandle>,
    /// Hears of guard rules.
    rules: Option<AbortHandle>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.iter().chain(&self.rules).for_each(AbortHandle::abort);
    }
}

/// Ports in whose namespaces something happened.
#[derive(Debug, Default)]
struct Stirred {
    ports: Mutex<BTreeSet<Dev>>,
    notify: Notify,
}

impl Stirred {
    fn add(&self, dev: Dev) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(dev);
        self.notify.notify_one();
    }

    fn take(&self) -> BTreeSet<Dev> {
        std::mem::take(&mut *self.ports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The Linux kernel, in the network namespace of the thread that opened this.
#[derive(Debug)]
pub struct Kernel {
    connection: Connection,
    monitor: AsyncFd<Monitor>,
    own: NetnsId,
    /// Devices of ours by index, and back.
    names: BTreeMap<u32, Dev>,
    indexes: BTreeMap<Dev, u32>,
    watches: BTreeMap<Dev, Watch>,
    stirred: Arc<Stirred>,
    /// Hears of changes to bridge-family rules.
    tables: AsyncFd<TableMonitor>,
    fabric: fabric::Index,
    /// Taps of VMs, whoever made them.
    taps: BTreeSet<Dev>,
    /// Where macvlans and ipvlans of ours are, or were.
    children: BTreeSet<At>,
    pub(crate) moves: Option<Moves>,
}

impl Kernel {
    /// Opens sockets in this thread's namespace. Must be called, and used, inside a current-thread tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let monitor = Monitor::of_host().and_then(Monitor::register).map_err(NetlinkError::Socket)?;
        Ok(Kernel {
            connection: Connection::open()?,
            monitor,
            own: own_id().map_err(NetlinkError::Socket)?,
            names: BTreeMap::new(),
            indexes: BTreeMap::new(),
            watches: BTreeMap::new(),
            stirred: Arc::new(Stirred::default()),
            tables: TableMonitor::open().and_then(TableMonitor::register).map_err(NetlinkError::Socket)?,
            fabric: fabric::Index::default(),
            taps: BTreeSet::new(),
            children: BTreeSet::new(),
            moves: None,
        })
    }

    /// Lets it move the host's own addresses.
    pub fn with_moves(self, moves: Moves) -> Self {
        Kernel { moves: Some(moves), ..self }
    }

    /// Tells it where macvlans and ipvlans of an earlier state may be.
    pub fn remember(&mut self, desired: &Desired) {
        for port in desired.ports().values().filter(|p| matches!(p.attach, Attach::Child(_))) {
            let (dev, netns, interface) = (Dev::port(&port.id), port.netns.clone(), port.interface.clone());
            self.children.insert(At { dev, netns, interface });
        }
    }

    fn learn_index(&mut self, dev: &Dev, index: u32) {
        self.forget_index(dev);
        self.names.insert(index, dev.clone());
        self.indexes.insert(dev.clone(), index);
    }

    fn forget_index(&mut self, dev: &Dev) {
        if let Some(index) = self.indexes.remove(dev) {
            self.names.remove(&index);
        }
    }

    /// After a failed request the socket may still deliver its late answer: a fresh one cannot.
    fn reopen_after(&mut self, failed: bool) {
        if failed {
            match Connection::open() {
                Ok(connection) => self.connection = connection,
                Err(error) => tracing::error!(%error, "cannot reopen netlink socket"),
            }
        }
    }
}
