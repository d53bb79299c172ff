//! The gRPC API: services, what they share, and the addresses they are served at. Reads are answered from the snapshot
//! and work while the store is away; writes go through the store.

mod agent;
mod alarms;
mod caller;
mod config;
mod events;
mod explain;
mod fabric;
mod history;
mod ipam;
mod moves;
mod parse;
mod port;
mod port_message;
mod readiness;
mod ready;
pub(crate) mod serve;
pub(crate) mod status;
mod timeline;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway_proto::Revision;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};

use crate::agents::Agents;
use crate::derive::View;
use crate::fabric::Fabric;
use crate::history::History;
use crate::intent::Intent;
use crate::leaks::Leaks;
use crate::metrics::{Call, Metrics};
use crate::moves::task::Mover;
use crate::ports::Ports;
use crate::ready::Ready;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::steps::Steps;
use crate::store::Store;

use status::Refusal;

/// How long a unary call may take when the client says nothing, or more.
const LONGEST_CALL: Duration = Duration::from_secs(30);
/// How much earlier than the client's deadline an answer is given, so that it still arrives.
const MARGIN: Duration = Duration::from_millis(20);
/// How long a read waits for the snapshot to show what this controller wrote last.
const READ_OWN_WRITES: Duration = Duration::from_millis(250);

/// What all services share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) state: State,
    pub(crate) intent: Intent,
    pub(crate) ports: Ports,
    pub(crate) mover: Mover,
    pub(crate) leaks: Leaks,
    pub(crate) fabric: Fabric,
    pub(crate) agents: Agents,
    pub(crate) history: History,
    /// For how long the history is kept, in milliseconds; `None`: for ever.
    pub(crate) history_ms: Option<i64>,
    pub(crate) steps: Steps,
    /// Name of this controller.
    pub(crate) name: String,
    pub(crate) ready: Ready,
    pub(crate) metrics: Metrics,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Highest revision that a write of this controller returned.
    pub(crate) written: Arc<AtomicU64>,
}

impl App {
    /// Remembers a write, for the reads that follow.
    fn wrote(&self, revision: Revision) {
        self.written.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// The snapshot, showing what was written through this controller before. Costs writes nothing; a read right
    /// behind a write waits for the store's watch.
    async fn snapshot(&self) -> Arc<Snapshot> {
        let written = Revision(self.written.load(Ordering::Relaxed));
        let snapshot = self.state.snapshot();
        if snapshot.revision >= written || !self.state.is_connected() {
            return snapshot;
        }
        match timeout(READ_OWN_WRITES, self.state.wait_for(written)).await {
            Ok(Ok(snapshot)) => snapshot,
            Ok(Err(_)) | Err(_) => self.state.snapshot(),
        }
    }

    /// Everything that is derived from: this snapshot, and what the fabric says now. Both share their content.
    fn view(&self, snapshot: &Snapshot) -> View {
        let imports = self.fabric.with_table(|table| table.imports().clone());
        View { snapshot: Arc::new(snapshot.clone()), imports, asn: self.fabric.context().asn }
    }

    /// Runs a unary call: within its deadline, counted, its error as a status.
    async fn unary<T>(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<Response<T>, Status> {
        let started = Instant::now();
        let limit = deadline(metadata);
        let result = match timeout(limit, work).await {
            Ok(result) => result.map_err(Status::from),
            Err(_) => Err(Refusal::late(method).into()),
        };
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.calls.get_or_create(&Call { method, code: format!("{code:?}") }).inc();
        self.metrics.call_seconds.observe(method, started.elapsed().as_secs_f64());
        if let Err(status) = &result {
            tracing::debug!(method, ?code, message = status.message(), "call refused");
        }
        result.map(Response::new)
    }
}

/// How long a call may take: what the client says (`grpc-timeout`), less a little, within our own limit.
fn deadline(metadata: &MetadataMap) -> Duration {
    let asked = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    match asked {
        Some(asked) => asked.saturating_sub(MARGIN).max(asked / 2).min(LONGEST_CALL),
        None => LONGEST_CALL,
    }
}

/// The gRPC wire form: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_clients_send_them() {
        let limit = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            deadline(&metadata)
        };
        assert_eq!(limit("5S"), Duration::from_millis(4980));
        assert_eq!(limit("10m"), Duration::from_millis(5));
        assert_eq!(limit("1000000u"), Duration::from_millis(980));
        for unreadable in ["", "S", "-1S", "5x", "123456789S", "99999999H", "é"] {
            let mut metadata = MetadataMap::new();
            if let Ok(value) = unreadable.parse() {
                metadata.insert("grpc-timeout", value);
            }
            assert_eq!(deadline(&metadata), LONGEST_CALL, "{unreadable}");
        }
    }
}
