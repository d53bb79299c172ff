//! Declarative records as `apply` reads them back.

use causeway_proto::v1;
use serde::Serialize;

use super::{Labels, is_default};
use crate::words::{self, word};

/// A declarative record.
#[derive(Debug, Serialize)]
#[serde(tag = "kind")]
pub(crate) enum RecordView {
    Vrf(VrfView),
    Network(NetworkView),
    Subnet(SubnetView),
    Node(NodeView),
    Peer(PeerView),
}

#[derive(Debug, Serialize)]
pub(crate) struct VrfView {
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    l3_vni: u32,
    #[serde(skip_serializing_if = "is_default")]
    export_targets: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    import_targets: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    routes: Vec<VrfRouteView>,
    #[serde(skip_serializing_if = "is_default")]
    no_connected: bool,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct VrfRouteView {
    prefix: String,
    node: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct NetworkView {
    #[serde(skip_serializing_if = "is_default")]
    vrf: String,
    name: String,
    vni: u32,
    #[serde(skip_serializing_if = "is_default")]
    vlan: u32,
    #[serde(skip_serializing_if = "is_default")]
    mtu: u32,
    #[serde(skip_serializing_if = "is_default")]
    export_targets: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    import_targets: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    sticky_seconds: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine_seconds: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    labels: Labels,
    #[serde(skip_serializing_if = "is_default")]
    irb: &'static str,
    #[serde(skip_serializing_if = "is_default")]
    gateway_mac: String,
    #[serde(skip_serializing_if = "is_default")]
    attachments: Vec<&'static str>,
    #[serde(skip_serializing_if = "is_default")]
    no_guard: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    address_check_ms: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SubnetView {
    #[serde(skip_serializing_if = "is_default")]
    vrf: String,
    network: String,
    prefix: String,
    #[serde(skip_serializing_if = "is_default")]
    gateway: String,
    #[serde(skip_serializing_if = "is_default")]
    ranges: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    exclusions: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    reservations: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct NodeView {
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    mode: &'static str,
    #[serde(skip_serializing_if = "is_default")]
    vtep: String,
    #[serde(skip_serializing_if = "is_default")]
    underlay_mtu: u32,
    #[serde(skip_serializing_if = "is_default")]
    site: String,
    #[serde(skip_serializing_if = "is_default")]
    labels: Labels,
    #[serde(skip_serializing_if = "is_default")]
    uplinks: Vec<UplinkView>,
    #[serde(skip_serializing_if = "is_default")]
    anycast_vtep: String,
    #[serde(skip_serializing_if = "is_default")]
    router_mac: String,
    #[serde(skip_serializing_if = "is_default")]
    esi: String,
    #[serde(skip_serializing_if = "is_default")]
    networks: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    host_bridge: &'static str,
    #[serde(skip_serializing_if = "is_default")]
    move_addresses: bool,
}

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct UplinkView {
    interface: String,
    switch: String,
    #[serde(skip_serializing_if = "is_default")]
    switch_interface: String,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct PeerView {
    address: String,
    asn: u32,
    #[serde(skip_serializing_if = "is_default")]
    port: u32,
    #[serde(skip_serializing_if = "is_default")]
    local_address: String,
    #[serde(skip_serializing_if = "is_default")]
    passive: bool,
    #[serde(skip_serializing_if = "is_default")]
    md5_key_file: String,
    #[serde(skip_serializing_if = "is_default")]
    gtsm_hops: u32,
    #[serde(skip_serializing_if = "is_default")]
    hold_seconds: u32,
    #[serde(skip_serializing_if = "is_default")]
    restart_seconds: u32,
    #[serde(skip_serializing_if = "is_default")]
    no_graceful_restart: bool,
}

impl RecordView {
    /// `None` for a record of a kind that this version does not know.
    pub(crate) fn new(resource: &v1::Resource) -> Option<Self> {
        use v1::resource::Spec;
        Some(match resource.spec.clone()? {
            Spec::Vrf(r) => RecordView::Vrf(VrfView {
                name: r.name,
                l3_vni: r.l3_vni,
                export_targets: r.export_targets,
                import_targets: r.import_targets,
                routes: r
                    .routes
                    .into_iter()
                    .map(|r| VrfRouteView { prefix: r.prefix, node: r.node })
                    .collect(),
                no_connected: r.no_connected,
            }),
            Spec::Network(r) => RecordView::Network(NetworkView {
                vrf: r.vrf,
                name: r.name,
                vni: r.vni,
                vlan: r.vlan,
                mtu: r.mtu,
                export_targets: r.export_targets,
                import_targets: r.import_targets,
                sticky_seconds: r.sticky_seconds,
                quarantine_seconds: r.quarantine_seconds,
                labels: r.labels,
                irb: word(words::IRBS, r.irb),
                gateway_mac: r.gateway_mac,
                attachments: r.attachments.into_iter().map(|a| word(words::ATTACHMENTS, a)).collect(),
                no_guard: r.no_guard,
                address_check_ms: r.address_check_ms,
            }),
            Spec::Subnet(r) => RecordView::Subnet(SubnetView {
                vrf: r.vrf,
                network: r.network,
                prefix: r.prefix,
                gateway: r.gateway,
                ranges: r.ranges,
                exclusions: r.exclusions,
                reservations: r.reservations,
            }),
            Spec::Node(r) => RecordView::Node(NodeView::from(r)),
            Spec::Peer(r) => RecordView::Peer(PeerView::from(r)),
        })
    }
}

fn uplink(u: v1::Uplink) -> UplinkView {
    UplinkView { interface: u.interface, switch: u.switch, switch_interface: u.switch_interface }
}

impl From<v1::Node> for NodeView {
    fn from(r: v1::Node) -> Self {
        NodeView {
            mode: word(words::NODE_MODES, r.mode),
            name: r.name,
            vtep: r.vtep,
            underlay_mtu: r.underlay_mtu,
            site: r.site,
            labels: r.labels,
            uplinks: r.uplinks.into_iter().map(uplink).collect(),
            anycast_vtep: r.anycast_vtep,
            router_mac: r.router_mac,
            esi: r.esi,
            networks: r.networks,
            host_bridge: word(words::HOST_BRIDGES, r.host_bridge),
            move_addresses: r.move_addresses,
        }
    }
}

impl From<v1::Peer> for PeerView {
    fn from(r: v1::Peer) -> Self {
        PeerView {
            address: r.address,
            asn: r.asn,
            port: r.port,
            local_address: r.local_address,
            passive: r.passive,
            md5_key_file: r.md5_key_file,
            gtsm_hops: r.gtsm_hops,
            hold_seconds: r.hold_seconds,
            restart_seconds: r.restart_seconds,
            no_graceful_restart: r.no_graceful_restart,
        }
    }
}
