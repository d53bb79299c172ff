//! Health and metrics over HTTP: `/healthz` (the process runs), `/readyz` (it can do its work, and if not why),
//! `/metrics` (Prometheus).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use causeway_bgp::SessionState;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::fabric::Fabric;
use crate::metrics::{Metrics, PeerLabel, RecordLabel};
use crate::state::State;

/// How far the controller has come.
#[derive(Debug, Clone, Default)]
pub(crate) enum Phase {
    /// The store has not been read yet, and why.
    #[default]
    Starting,
    /// The store does not answer.
    NoStore(String),
    /// The API is served.
    Serving(State, Fabric),
    /// The API is not served any more.
    Stopping,
}

/// What the pages show. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    phase: Arc<Mutex<Phase>>,
    metrics: Metrics,
    registry: Arc<Registry>,
}

impl Health {
    /// At the start.
    pub(crate) fn new(metrics: Metrics, registry: Arc<Registry>) -> Self {
        Health { phase: Arc::default(), metrics, registry }
    }

    /// The controller has come further.
    pub(crate) fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is ready, and a line for everything that counts. Peers are told but do not count: a controller
    /// without peers still serves the API and the agents.
    async fn ready(&self) -> (bool, String) {
        match self.phase() {
            Phase::Starting => (false, "not ready: the store has not been read yet\n".to_owned()),
            Phase::NoStore(reason) => (false, format!("not ready: {reason}\n")),
            Phase::Stopping => (false, "not ready: the controller is stopping\n".to_owned()),
            Phase::Serving(state, fabric) => {
                let connected = state.is_connected();
                let store = match connected {
                    true => format!("ok: store, revision {}\n", state.snapshot().revision),
                    false => "not ready: the connection to the store is lost; reads go on, writes fail\n"
                        .to_owned(),
                };
                let (peers, unusable) = fabric.peers().await;
                let up = peers.values().filter(|peer| peer.state == SessionState::Established).count();
                let all = peers.len() + unusable.len();
                let word = if up == all { "ok" } else { "warning" };
                (
                    connected,
                    format!("{store}ok: API is served\n{word}: {up} of {all} BGP peers established\n"),
                )
            }
        }
    }

    /// Brings gauges up to date that are read and not counted.
    async fn refresh(&self) {
        let Phase::Serving(state, fabric) = self.phase() else { return };
        let metrics = &self.metrics;
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let snapshot = state.snapshot();
        metrics.store_connected.set(i64::from(state.is_connected()));
        metrics.store_revision.set(snapshot.revision.0);
        metrics.undecodable.set(number(state.undecodable()));
        for (kind, count) in [
            ("vrf", snapshot.vrfs.len()),
            ("network", snapshot.networks.len()),
            ("subnet", snapshot.subnets.len()),
            ("node", snapshot.nodes.len()),
            ("peer", snapshot.peers.len()),
            ("port", snapshot.ports.len()),
            ("bound_port", snapshot.by_node.len()),
        ] {
            metrics.records.get_or_create(&RecordLabel { kind }).set(number(count));
        }
        let (macs, floods) =
            fabric.with_table(|table| (table.imports().macs.len(), table.imports().floods.len()));
        metrics.imported_macs.set(number(macs));
        metrics.imported_floods.set(number(floods));
        let (peers, unusable) = fabric.peers().await;
        metrics.peers_unusable.set(number(unusable.len()));
        // Peers that are gone shall not stay with their last values.
        for family in
            [&metrics.peer_up, &metrics.peer_routes_in, &metrics.peer_routes_out, &metrics.peer_queue]
        {
            family.clear();
        }
        metrics.peer_treat_as_withdraw.clear();
        for (address, peer) in peers {
            let label = PeerLabel { peer: address.to_string() };
            let up = peer.state == SessionState::Established;
            metrics.peer_up.get_or_create(&label).set(i64::from(up));
            metrics.peer_routes_in.get_or_create(&label).set(number(peer.routes_in));
            metrics.peer_routes_out.get_or_create(&label).set(number(peer.routes_out));
            metrics.peer_queue.get_or_create(&label).set(number(peer.queue));
            let treated: u64 = peer.counters.treat_as_withdraw.values().sum();
            let treated = i64::try_from(treated).unwrap_or(i64::MAX);
            metrics.peer_treat_as_withdraw.get_or_create(&label).set(treated);
        }
    }
}

/// Binds an address.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves the pages until `cancel`.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Health,
    cancel: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, router).with_graceful_shutdown(cancel.cancelled_owned()).await
}

async fn readyz(Extract(health): Extract<Health>) -> impl IntoResponse {
    let (ready, text) = health.ready().await;
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text)
}

async fn metrics(Extract(health): Extract<Health>) -> impl IntoResponse {
    health.refresh().await;
    let mut text = String::new();
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match prometheus_client::encoding::text::encode(&mut text, &health.registry) {
        Ok(()) => (StatusCode::OK, kind, text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, kind, String::new()),
    }
}
