//! The contract's enumerations and ours.

use causeway_proto::v1;

use crate::model::{AddressCheck, Attachment, Guard, HostBridge, Irb, MacvlanMode, NodeMode, WorkloadKind};

/// A node's mode.
pub(crate) fn mode(mode: NodeMode) -> v1::NodeMode {
    match mode {
        NodeMode::HostVtep => v1::NodeMode::HostVtep,
        NodeMode::TorEvpn => v1::NodeMode::TorEvpn,
        NodeMode::TorAgent => v1::NodeMode::TorAgent,
        NodeMode::TorStatic => v1::NodeMode::TorStatic,
        NodeMode::Host => v1::NodeMode::Host,
    }
}

/// A mode of the contract; `None` for one that is not known, or not given.
pub(crate) fn read_mode(mode: i32) -> Option<NodeMode> {
    match v1::NodeMode::try_from(mode).ok()? {
        v1::NodeMode::Unspecified => None,
        v1::NodeMode::HostVtep => Some(NodeMode::HostVtep),
        v1::NodeMode::TorEvpn => Some(NodeMode::TorEvpn),
        v1::NodeMode::TorAgent => Some(NodeMode::TorAgent),
        v1::NodeMode::TorStatic => Some(NodeMode::TorStatic),
        v1::NodeMode::Host => Some(NodeMode::Host),
    }
}

/// How a network is routed.
pub(crate) fn irb(irb: Option<Irb>) -> v1::Irb {
    match irb {
        None => v1::Irb::Unspecified,
        Some(Irb::None) => v1::Irb::None,
        Some(Irb::Symmetric) => v1::Irb::Symmetric,
        Some(Irb::Asymmetric) => v1::Irb::Asymmetric,
    }
}

/// How a network is routed; the outer `None`: not known.
pub(crate) fn read_irb(irb: i32) -> Option<Option<Irb>> {
    Some(match v1::Irb::try_from(irb).ok()? {
        v1::Irb::Unspecified => None,
        v1::Irb::None => Some(Irb::None),
        v1::Irb::Symmetric => Some(Irb::Symmetric),
        v1::Irb::Asymmetric => Some(Irb::Asymmetric),
    })
}

/// How a port is attached.
pub(crate) fn attachment(attachment: Attachment) -> v1::Attachment {
    match attachment {
        Attachment::VxlanBridge => v1::Attachment::VxlanBridge,
        Attachment::Bridge => v1::Attachment::Bridge,
        Attachment::Macvlan => v1::Attachment::Macvlan,
        Attachment::Ipvlan => v1::Attachment::Ipvlan,
        Attachment::Routed => v1::Attachment::Routed,
        Attachment::Tap => v1::Attachment::Tap,
    }
}

/// An attachment; the outer `None`: not known, the inner: not given.
pub(crate) fn read_attachment(attachment: i32) -> Option<Option<Attachment>> {
    Some(match v1::Attachment::try_from(attachment).ok()? {
        v1::Attachment::Unspecified => None,
        v1::Attachment::VxlanBridge => Some(Attachment::VxlanBridge),
        v1::Attachment::Bridge => Some(Attachment::Bridge),
        v1::Attachment::Macvlan => Some(Attachment::Macvlan),
        v1::Attachment::Ipvlan => Some(Attachment::Ipvlan),
        v1::Attachment::Routed => Some(Attachment::Routed),
        v1::Attachment::Tap => Some(Attachment::Tap),
    })
}

/// How bridges are built.
pub(crate) fn host_bridge(bridge: HostBridge) -> v1::HostBridge {
    match bridge {
        HostBridge::PerNetwork => v1::HostBridge::PerNetwork,
        HostBridge::VlanAware => v1::HostBridge::VlanAware,
    }
}

/// How bridges are built; `None`: not known.
pub(crate) fn read_host_bridge(bridge: i32) -> Option<HostBridge> {
    match v1::HostBridge::try_from(bridge).ok()? {
        v1::HostBridge::Unspecified | v1::HostBridge::PerNetwork => Some(HostBridge::PerNetwork),
        v1::HostBridge::VlanAware => Some(HostBridge::VlanAware),
    }
}

/// A kind of workload.
pub(crate) fn kind(kind: WorkloadKind) -> v1::WorkloadKind {
    match kind {
        WorkloadKind::Container => v1::WorkloadKind::Container,
        WorkloadKind::Vm => v1::WorkloadKind::Vm,
        WorkloadKind::BareMetal => v1::WorkloadKind::BareMetal,
    }
}

/// A kind of workload; `None`: not known.
pub(crate) fn read_kind(kind: i32) -> Option<WorkloadKind> {
    match v1::WorkloadKind::try_from(kind).ok()? {
        v1::WorkloadKind::Unspecified | v1::WorkloadKind::Container => Some(WorkloadKind::Container),
        v1::WorkloadKind::Vm => Some(WorkloadKind::Vm),
        v1::WorkloadKind::BareMetal => Some(WorkloadKind::BareMetal),
    }
}

/// A macvlan's mode.
pub(crate) fn macvlan_mode(mode: MacvlanMode) -> v1::MacvlanMode {
    match mode {
        MacvlanMode::Bridge => v1::MacvlanMode::Bridge,
        MacvlanMode::Private => v1::MacvlanMode::Private,
        MacvlanMode::Vepa => v1::MacvlanMode::Vepa,
        MacvlanMode::Passthru => v1::MacvlanMode::Passthru,
    }
}

/// A macvlan's mode; the outer `None`: not known, the inner: not given.
pub(crate) fn read_macvlan_mode(mode: i32) -> Option<Option<MacvlanMode>> {
    Some(match v1::MacvlanMode::try_from(mode).ok()? {
        v1::MacvlanMode::Unspecified => None,
        v1::MacvlanMode::Bridge => Some(MacvlanMode::Bridge),
        v1::MacvlanMode::Private => Some(MacvlanMode::Private),
        v1::MacvlanMode::Vepa => Some(MacvlanMode::Vepa),
        v1::MacvlanMode::Passthru => Some(MacvlanMode::Passthru),
    })
}

/// Whether a port is guarded.
pub(crate) fn guard(guard: Option<Guard>) -> v1::Guard {
    match guard {
        None => v1::Guard::Unspecified,
        Some(Guard::On) => v1::Guard::On,
        Some(Guard::Off) => v1::Guard::Off,
    }
}

/// Whether a port is guarded; the outer `None`: not known, the inner: not given.
pub(crate) fn read_guard(guard: i32) -> Option<Option<Guard>> {
    Some(match v1::Guard::try_from(guard).ok()? {
        v1::Guard::Unspecified => None,
        v1::Guard::On => Some(Guard::On),
        v1::Guard::Off => Some(Guard::Off),
    })
}

/// Whether a port's addresses are asked for before their first use.
pub(crate) fn address_check(check: Option<AddressCheck>) -> v1::AddressCheck {
    match check {
        None => v1::AddressCheck::Unspecified,
        Some(AddressCheck::On) => v1::AddressCheck::On,
        Some(AddressCheck::Off) => v1::AddressCheck::Off,
    }
}

/// Whether a port's addresses are asked for; the outer `None`: not known, the inner: not given.
pub(crate) fn read_address_check(check: i32) -> Option<Option<AddressCheck>> {
    Some(match v1::AddressCheck::try_from(check).ok()? {
        v1::AddressCheck::Unspecified => None,
        v1::AddressCheck::On => Some(AddressCheck::On),
        v1::AddressCheck::Off => Some(AddressCheck::Off),
    })
}
