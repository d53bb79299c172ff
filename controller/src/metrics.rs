//! What is counted, for Prometheus. Labels are bounded: never a port, a MAC or an address.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Which method was called and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Call {
    /// Service and method, for example `PortService/CreatePort`.
    pub(crate) method: &'static str,
    /// gRPC code, for example `Ok` or `NotFound`.
    pub(crate) code: String,
}

/// Which method was called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    /// Service and method.
    method: &'static str,
}

/// A BGP peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PeerLabel {
    /// Its address.
    pub(crate) peer: String,
}

/// Time of calls by method.
#[derive(Debug, Clone)]
pub(crate) struct CallTimes(Family<Method, Histogram, fn() -> Histogram>);

impl Default for CallTimes {
    fn default() -> Self {
        // 0.1 ms to 13 s.
        CallTimes(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 2.0, 18))))
    }
}

impl CallTimes {
    /// Counts one call.
    pub(crate) fn observe(&self, method: &'static str, seconds: f64) {
        self.0.get_or_create(&Method { method }).observe(seconds);
    }
}

/// Findings of one kind about what a peer says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FindingLabel {
    /// For example `elsewhere`.
    pub(crate) presence: &'static str,
    /// The peer's address.
    pub(crate) peer: String,
}

/// All metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) calls: Family<Call, Counter>,
    pub(crate) call_seconds: CallTimes,
    pub(crate) routes_desired: Gauge,
    pub(crate) route_changes: Counter,
    pub(crate) routes_received: Counter,
    pub(crate) peer_ups: Counter,
    pub(crate) peer_downs: Counter,
    pub(crate) peer_up: Family<PeerLabel, Gauge>,
    pub(crate) peer_routes_in: Family<PeerLabel, Gauge>,
    pub(crate) peer_routes_out: Family<PeerLabel, Gauge>,
    pub(crate) peer_queue: Family<PeerLabel, Gauge>,
    pub(crate) peer_treat_as_withdraw: Family<PeerLabel, Gauge>,
    pub(crate) peers_unusable: Gauge,
    pub(crate) agents: Gauge,
    pub(crate) agent_snapshots: Counter,
    pub(crate) agent_deltas: Counter,
    pub(crate) agents_refused: Counter,
    pub(crate) status_writes: Counter,
    pub(crate) status_write_errors: Counter,
    pub(crate) watches: Gauge,
    pub(crate) store_connected: Gauge,
    pub(crate) store_revision: Gauge<u64, AtomicU64>,
    pub(crate) undecodable: Gauge,
    pub(crate) quarantines_cut_short: Counter,
    pub(crate) ports_leaked: Gauge,
    pub(crate) records: Family<RecordLabel, Gauge>,
    pub(crate) conflicts: Gauge,
    pub(crate) fabric_findings: Family<FindingLabel, Gauge>,
    pub(crate) fabric_alarms: Counter,
    pub(crate) fabric_compare_seconds: Gauge<f64, AtomicU64>,
    pub(crate) imported_macs: Gauge,
    pub(crate) imported_floods: Gauge,
}

/// A kind of record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RecordLabel {
    /// For example `port`.
    pub(crate) kind: &'static str,
}

impl Metrics {
    /// Metrics and the registry that shows them.
    pub(crate) fn new() -> (Metrics, Arc<Registry>) {
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("causeway");
        metrics.register_api(registry.sub_registry_with_prefix("api"));
        metrics.register_bgp(registry.sub_registry_with_prefix("bgp"));
        metrics.register_fabric(registry.sub_registry_with_prefix("fabric"));
        metrics.register_agents(registry.sub_registry_with_prefix("agent"));
        metrics.register_store(registry.sub_registry_with_prefix("store"));
        (metrics, Arc::new(registry))
    }

    fn register_api(&self, r: &mut Registry) {
        r.register("calls", "Finished gRPC calls", self.calls.clone());
        r.register_with_unit("call", "Time of unary gRPC calls", Unit::Seconds, self.call_seconds.0.clone());
        r.register("watches", "Open WatchPorts streams", self.watches.clone());
    }

    fn register_bgp(&self, r: &mut Registry) {
        r.register("routes_desired", "Routes of the first complete table", self.routes_desired.clone());
        r.register("route_changes", "Changes of desired routes", self.route_changes.clone());
        r.register("received", "Route changes received", self.routes_received.clone());
        r.register("peer_ups", "Sessions established", self.peer_ups.clone());
        r.register("peer_downs", "Sessions lost", self.peer_downs.clone());
        r.register("peer_established", "1 while the session is established", self.peer_up.clone());
        r.register("peer_routes_in", "Routes received and kept", self.peer_routes_in.clone());
        r.register("peer_routes_out", "Routes sent and not withdrawn", self.peer_routes_out.clone());
        r.register("peer_queue", "Route changes waiting to be sent", self.peer_queue.clone());
        r.register(
            "peer_treated_as_withdrawn",
            "Routes treated as withdrawn (RFC 7606)",
            self.peer_treat_as_withdraw.clone(),
        );
        r.register("peers_unusable", "Declared peers without a usable key file", self.peers_unusable.clone());
        r.register("conflicts", "Received routes for MACs of ports", self.conflicts.clone());
        r.register("imported_macs", "MACs that the fabric knows in our networks", self.imported_macs.clone());
        r.register("imported_floods", "Flood targets that the fabric knows", self.imported_floods.clone());
    }

    fn register_fabric(&self, r: &mut Registry) {
        r.register(
            "findings",
            "Alarms that stand, by what a peer says and by peer; absent: none",
            self.fabric_findings.clone(),
        );
        r.register("alarms", "Alarms raised", self.fabric_alarms.clone());
        r.register_with_unit(
            "compare",
            "Time of the last comparison of everything",
            Unit::Seconds,
            self.fabric_compare_seconds.clone(),
        );
    }

    fn register_agents(&self, r: &mut Registry) {
        r.register("sessions", "Agents connected to this controller", self.agents.clone());
        r.register("snapshots", "Complete states sent", self.agent_snapshots.clone());
        r.register("deltas", "Changes of states sent", self.agent_deltas.clone());
        r.register("refused", "Sessions refused", self.agents_refused.clone());
        r.register("status_writes", "Transactions that wrote statuses", self.status_writes.clone());
        r.register("status_write_errors", "Those that failed", self.status_write_errors.clone());
    }

    fn register_store(&self, r: &mut Registry) {
        r.register("connected", "1 while the store answers", self.store_connected.clone());
        r.register("revision", "Revision of the snapshot", self.store_revision.clone());
        r.register("undecodable", "Values that cannot be read", self.undecodable.clone());
        r.register("records", "Records by kind", self.records.clone());
        r.register(
            "quarantines_cut_short",
            "Quarantines that ended early because a pool ran dry",
            self.quarantines_cut_short.clone(),
        );
        r.register(
            "ports_leaked",
            "Bound ports whose agent has not found their workload for the grace period",
            self.ports_leaked.clone(),
        );
    }
}
