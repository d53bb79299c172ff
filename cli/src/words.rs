//! Enumerations of the contract as short words, one table each: the short word first, then the contract's name of the
//! number, which manifests may use too.

use causeway_proto::v1;

/// Words of one enumeration. "Unspecified" has none.
pub(crate) type Words = &'static [(&'static str, &'static str, i32)];

/// What a node does for the fabric.
pub(crate) const NODE_MODES: Words = &[
    ("host-vtep", "NODE_MODE_HOST_VTEP", v1::NodeMode::HostVtep as i32),
    ("tor-evpn", "NODE_MODE_TOR_EVPN", v1::NodeMode::TorEvpn as i32),
    ("tor-agent", "NODE_MODE_TOR_AGENT", v1::NodeMode::TorAgent as i32),
    ("tor-static", "NODE_MODE_TOR_STATIC", v1::NodeMode::TorStatic as i32),
    ("host", "NODE_MODE_HOST", v1::NodeMode::Host as i32),
];

/// How a host's bridges are built.
pub(crate) const HOST_BRIDGES: Words = &[
    ("per-network", "HOST_BRIDGE_PER_NETWORK", v1::HostBridge::PerNetwork as i32),
    ("vlan-aware", "HOST_BRIDGE_VLAN_AWARE", v1::HostBridge::VlanAware as i32),
];

/// How a network's traffic to others is routed.
pub(crate) const IRBS: Words = &[
    ("none", "IRB_NONE", v1::Irb::None as i32),
    ("symmetric", "IRB_SYMMETRIC", v1::Irb::Symmetric as i32),
    ("asymmetric", "IRB_ASYMMETRIC", v1::Irb::Asymmetric as i32),
];

/// What kind of workload a port is for.
pub(crate) const WORKLOADS: Words = &[
    ("container", "WORKLOAD_KIND_CONTAINER", v1::WorkloadKind::Container as i32),
    ("vm", "WORKLOAD_KIND_VM", v1::WorkloadKind::Vm as i32),
    ("bare-metal", "WORKLOAD_KIND_BARE_METAL", v1::WorkloadKind::BareMetal as i32),
];

/// How a port hangs on its node.
pub(crate) const ATTACHMENTS: Words = &[
    ("vxlan-bridge", "ATTACHMENT_VXLAN_BRIDGE", v1::Attachment::VxlanBridge as i32),
    ("bridge", "ATTACHMENT_BRIDGE", v1::Attachment::Bridge as i32),
    ("macvlan", "ATTACHMENT_MACVLAN", v1::Attachment::Macvlan as i32),
    ("ipvlan", "ATTACHMENT_IPVLAN", v1::Attachment::Ipvlan as i32),
    ("routed", "ATTACHMENT_ROUTED", v1::Attachment::Routed as i32),
    ("tap", "ATTACHMENT_TAP", v1::Attachment::Tap as i32),
];

/// How macvlans on one parent reach each other.
pub(crate) const MACVLAN_MODES: Words = &[
    ("bridge", "MACVLAN_MODE_BRIDGE", v1::MacvlanMode::Bridge as i32),
    ("private", "MACVLAN_MODE_PRIVATE", v1::MacvlanMode::Private as i32),
    ("vepa", "MACVLAN_MODE_VEPA", v1::MacvlanMode::Vepa as i32),
    ("passthru", "MACVLAN_MODE_PASSTHRU", v1::MacvlanMode::Passthru as i32),
];

/// Whether a port is guarded against spoofing.
pub(crate) const GUARDS: Words =
    &[("on", "GUARD_ON", v1::Guard::On as i32), ("off", "GUARD_OFF", v1::Guard::Off as i32)];

/// Whether a port's addresses are asked for on the wire before their first use.
pub(crate) const ADDRESS_CHECKS: Words = &[
    ("on", "ADDRESS_CHECK_ON", v1::AddressCheck::On as i32),
    ("off", "ADDRESS_CHECK_OFF", v1::AddressCheck::Off as i32),
];

/// The short word of a number; empty when unspecified or unknown.
pub(crate) fn word(words: Words, number: i32) -> &'static str {
    words.iter().find(|(_, _, n)| *n == number).map_or("", |(short, _, _)| short)
}

/// A parser of command-line values.
pub(crate) fn parser(words: Words) -> impl clap::builder::TypedValueParser<Value = i32> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    PossibleValuesParser::new(words.iter().map(|(short, _, _)| *short))
        .map(move |text| words.iter().find(|(short, _, _)| *short == text).map_or(0, |(_, _, n)| *n))
}
