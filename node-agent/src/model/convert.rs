//! From the contract's messages to the model's types.

use std::collections::BTreeSet;
use std::net::{AddrParseError, IpAddr};
use std::path::{Component, Path};

use causeway_proto::{Mac, MacError, NameError, NetworkKey, NumberError, VlanId, Vni, v1};

use super::{Attach, Child, IfAddr, MacvlanMode, NetnsRef, Network, Port, Rate, Remote, Stage};
use crate::dev::Dev;

/// Why an item of the controller's state was refused.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    /// Not a VNI.
    #[error("vni: {0}")]
    Vni(#[from] NumberError),
    /// Not a VLAN id, or not a VNI elsewhere.
    #[error("{0}: {1}")]
    Number(&'static str, NumberError),
    /// Not a MAC.
    #[error("{0}: {1}")]
    Mac(&'static str, MacError),
    /// Multicast or zero.
    #[error("{0}: {1} is not the MAC of one interface (it is a group address or zero)")]
    NotUnicast(&'static str, Mac),
    /// Not a key.
    #[error("{0}: {1}")]
    Name(&'static str, NameError),
    /// Not an IP address.
    #[error("{0}: '{1}' is not an IP address")]
    Address(&'static str, String, #[source] AddrParseError),
    /// Not a prefix length or none.
    #[error("addresses: '{0}' is not ADDRESS/LENGTH")]
    IfAddr(String),
    /// An address that no interface can have.
    #[error("{0}: {1} cannot be used here")]
    Unusable(&'static str, IpAddr),
    /// A VTEP of the other family than ours: one VXLAN device cannot reach it (EAFNOSUPPORT).
    #[error("vtep: {theirs} and this node's own {ours} are not of one family")]
    Family {
        /// What was sent.
        theirs: IpAddr,
        /// What this node has.
        ours: IpAddr,
    },
    /// The VTEP of this node itself.
    #[error("vtep: {0} is this node's own")]
    OwnVtep(IpAddr),
    /// Too small or too large.
    #[error("mtu: {mtu} is not in {min} to 65535")]
    Mtu {
        /// What was sent.
        mtu: u32,
        /// The least that works with the port's addresses.
        min: u32,
    },
    /// Faster than anything can be.
    #[error("{field}: {kbit} kbit/s is more than {FASTEST_KBIT}; 0 is no limit")]
    Rate {
        /// Which direction.
        field: &'static str,
        /// What was sent.
        kbit: u64,
    },
    /// Two gateways of one family, or one without an address of its family.
    #[error("gateways: {0}")]
    Gateway(String),
    /// Neither an absolute path nor `pid:NUMBER`.
    #[error("netns: '{0}' is neither an absolute path nor pid:NUMBER")]
    Netns(String),
    /// No name of an interface.
    #[error(
        "interface: '{0}' is not an interface name (1 to 15 bytes without '/', ':' and spaces, and not lo)"
    )]
    Interface(String),
    /// A value that this agent does not know.
    #[error("{0}: {1} is not known to this agent; it may be older than the controller")]
    Unknown(&'static str, String),
    /// A name of the form that we give to our own devices.
    #[error("interface: {0} is a name of Causeway's own devices")]
    OwnName(String),
    /// A routing table that is not ours to fill.
    #[error("table: {0} cannot be used: 254 for the VRF default, 1000 and more for others")]
    Table(u32),
    /// Not a prefix.
    #[error("{0}: '{1}' is not a prefix (ADDRESS/LENGTH without host bits)")]
    Prefix(&'static str, String),
    /// A route of a routing domain into the same one.
    #[error("next_hops.vrf: {0} is the route's own; a leak leads into another one")]
    LeakToItself(causeway_proto::Name),
    /// A route that leads nowhere.
    #[error("next_hops: a route needs at least one")]
    NoNextHop,
    /// An attachment that does not exist, or that this node cannot have.
    #[error("attachment: {0}")]
    Attachment(&'static str),
}

pub(super) fn address(field: &'static str, text: &str) -> Result<IpAddr, ItemError> {
    let ip: IpAddr = text.parse().map_err(|e| ItemError::Address(field, short(text), e))?;
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        return Err(ItemError::Unusable(field, ip));
    }
    Ok(ip)
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

pub(super) fn mac(field: &'static str, text: &str) -> Result<Mac, ItemError> {
    let mac: Mac = text.parse().map_err(|e| ItemError::Mac(field, e))?;
    if mac.is_unicast() { Ok(mac) } else { Err(ItemError::NotUnicast(field, mac)) }
}

/// IPv4 needs 68 (RFC 791), IPv6 1280 (RFC 8200); the kernel drops IPv6 from a device below that.
fn mtu(mtu: u32, ipv6: bool) -> Result<u32, ItemError> {
    let min = if ipv6 { 1280 } else { 68 };
    if (min..=65535).contains(&mtu) { Ok(mtu) } else { Err(ItemError::Mtu { mtu, min }) }
}

pub(super) fn vtep(text: &str) -> Result<IpAddr, ItemError> {
    address("vtep", text)
}

pub(super) fn other_vtep(text: &str, ours: Option<IpAddr>) -> Result<IpAddr, ItemError> {
    let theirs = vtep(text)?;
    match ours {
        Some(ours) if ours == theirs => Err(ItemError::OwnVtep(theirs)),
        Some(ours) if ours.is_ipv4() != theirs.is_ipv4() => Err(ItemError::Family { theirs, ours }),
        _ => Ok(theirs),
    }
}

pub(super) fn network(network: &v1::NodeNetwork) -> Result<(Vni, Network), ItemError> {
    let vni = Vni::try_from(network.vni)?;
    let name = NetworkKey {
        vrf: network.vrf.parse().map_err(|e| ItemError::Name("vrf", e))?,
        network: network.network.parse().map_err(|e| ItemError::Name("network", e))?,
    };
    let bridge_mac = mac("bridge_mac", &network.bridge_mac)?;
    let vlan = match network.vlan {
        0 => None,
        vlan => Some(VlanId::try_from(vlan).map_err(|e| ItemError::Number("vlan", e))?),
    };
    let gateways = network.gateways.iter().map(|a| if_addr(a)).collect::<Result<BTreeSet<_>, _>>()?;
    let gateway_mac = match gateways.is_empty() {
        true => None,
        false => Some(mac("gateway_mac", &network.gateway_mac)?),
    };
    let mtu = mtu(network.mtu, gateways.iter().any(|a| a.ip.is_ipv6()))?;
    Ok((vni, Network { name, mtu, bridge_mac, vlan, gateways, gateway_mac }))
}

/// `host`: the node is a host behind switches.
fn attach(port: &v1::NodePort, host: bool) -> Result<Attach, ItemError> {
    use v1::{Attachment as A, MacvlanMode as M};
    let bad = |why| Err(ItemError::Attachment(why));
    let Ok(kind) = v1::WorkloadKind::try_from(port.kind) else {
        return bad("the kind of workload is none that this agent knows; update the agent");
    };
    let Ok(attachment) = A::try_from(port.attachment) else {
        return bad("is none that this agent knows; update the agent");
    };
    let mode = match M::try_from(port.macvlan_mode) {
        Ok(M::Unspecified | M::Bridge) => MacvlanMode::Bridge,
        Ok(M::Private) => MacvlanMode::Private,
        Ok(M::Vepa) => MacvlanMode::Vepa,
        Ok(M::Passthru) => MacvlanMode::Passthru,
        Err(_) => return bad("the macvlan mode is none that this agent knows; update the agent"),
    };
    let vm = kind == v1::WorkloadKind::Vm;
    let attach = match attachment {
        _ if kind == v1::WorkloadKind::BareMetal => Attach::BareMetal,
        _ if port.adopted => Attach::Adopted,
        A::Unspecified if vm => Attach::Tap,
        A::Unspecified if host => Attach::Bridge,
        A::Unspecified | A::VxlanBridge => Attach::VxlanBridge,
        A::Bridge => Attach::Bridge,
        A::Macvlan => Attach::Child(Child::Macvlan(mode)),
        A::Ipvlan => Attach::Child(Child::Ipvlan),
        A::Routed => Attach::Routed,
        A::Tap => Attach::Tap,
    };
    match attach {
        Attach::VxlanBridge if host => {
            bad("VXLAN_BRIDGE needs a node of mode HOST_VTEP; this one is a HOST: use BRIDGE")
        }
        Attach::Bridge | Attach::Child(_) | Attach::Routed if !host => {
            bad("BRIDGE, MACVLAN, IPVLAN and ROUTED need a node of mode HOST; use VXLAN_BRIDGE here")
        }
        Attach::VxlanBridge | Attach::Bridge | Attach::Child(_) | Attach::Routed if vm => {
            bad("a VM is attached by TAP")
        }
        Attach::Tap if !vm => bad("TAP is for VMs"),
        attach => Ok(attach),
    }
}

pub(super) fn port(port: &v1::NodePort, host: bool) -> Result<Port, ItemError> {
    let attach = attach(port, host)?;
    let id = port.id.parse().map_err(|e| ItemError::Name("id", e))?;
    let (netns, interface) = match attach {
        Attach::BareMetal => (NetnsRef::Node, Dev::port(&id)),
        Attach::Tap if port.interface.is_empty() => (NetnsRef::Node, Dev::port(&id)),
        Attach::Tap => (NetnsRef::Node, interface(&port.interface)?),
        _ => (netns(&port.netns)?, interface(&port.interface)?),
    };
    let addresses = port.addresses.iter().map(|a| if_addr(a)).collect::<Result<BTreeSet<_>, _>>()?;
    let gateways = gateways(&port.gateways, &addresses)?;
    let gateway_mac = match port.gateway_mac.as_str() {
        "" => None,
        text => Some(mac("gateway_mac", text)?),
    };
    Ok(Port {
        id,
        vni: Vni::try_from(port.vni)?,
        mac: mac("mac", &port.mac)?,
        mtu: mtu(port.mtu, addresses.iter().any(|a| a.ip.is_ipv6()))?,
        addresses,
        gateways,
        gateway_mac,
        netns,
        interface,
        generation: port.generation,
        guarded: port.guarded,
        rate: rate(port.rate.as_ref())?,
        attach,
        stage: stage(port.stage)?,
        address_check_ms: port.address_check_ms,
        queues: port.queues.clamp(1, 256),
    })
}

/// One that is not known may be anything but active.
fn stage(stage: i32) -> Result<Stage, ItemError> {
    use v1::PortStage as S;
    match S::try_from(stage) {
        Ok(S::Unspecified | S::Active) => Ok(Stage::Active),
        Ok(S::Prepared) => Ok(Stage::Prepared),
        Ok(S::Held) => Ok(Stage::Held),
        Err(_) => Err(ItemError::Unknown("stage", stage.to_string())),
    }
}

/// What the kernel's arithmetic of bytes a second and nanoseconds carries without loss, a thousand times what there is.
const FASTEST_KBIT: u64 = 1_000_000_000;

fn rate(rate: Option<&v1::RateLimit>) -> Result<Rate, ItemError> {
    let Some(&v1::RateLimit { in_kbit, out_kbit }) = rate else { return Ok(Rate::default()) };
    for (field, kbit) in [("rate.in_kbit", in_kbit), ("rate.out_kbit", out_kbit)] {
        if kbit > FASTEST_KBIT {
            return Err(ItemError::Rate { field, kbit });
        }
    }
    Ok(Rate { in_kbit, out_kbit })
}

pub(super) fn if_addr(text: &str) -> Result<IfAddr, ItemError> {
    let bad = || ItemError::IfAddr(short(text));
    let (ip, length) = text.split_once('/').ok_or_else(bad)?;
    let ip = address("addresses", ip)?;
    let digits = length.bytes().all(|b| b.is_ascii_digit());
    let length: u8 = length.parse().map_err(|_| bad())?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    if digits && (1..=longest).contains(&length) { Ok(IfAddr { ip, length }) } else { Err(bad()) }
}

fn gateways(texts: &[String], addresses: &BTreeSet<IfAddr>) -> Result<BTreeSet<IpAddr>, ItemError> {
    let mut gateways = BTreeSet::new();
    for text in texts {
        let gateway = address("gateways", text)?;
        let same = |ip: IpAddr| ip.is_ipv4() == gateway.is_ipv4();
        if let Some(other) = gateways.iter().find(|&&g| same(g) && g != gateway) {
            return Err(ItemError::Gateway(format!("{other} and {gateway} are of one family")));
        }
        if !addresses.iter().any(|a| same(a.ip)) {
            return Err(ItemError::Gateway(format!("{gateway}: the port has no address of its family")));
        }
        gateways.insert(gateway);
    }
    Ok(gateways)
}

fn netns(text: &str) -> Result<NetnsRef, ItemError> {
    let bad = || ItemError::Netns(short(text));
    if let Some(pid) = text.strip_prefix("pid:") {
        let digits = pid.bytes().all(|b| b.is_ascii_digit());
        return match pid.parse() {
            Ok(pid) if digits && pid > 0 => Ok(NetnsRef::Pid(pid)),
            _ => Err(bad()),
        };
    }
    let path = Path::new(text);
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain && path != Path::new("/") && !text.contains('\0') {
        Ok(NetnsRef::Path(path.to_owned()))
    } else {
        Err(bad())
    }
}

/// The kernel's rule (`dev_valid_name`), and `lo`, which every namespace has.
pub(super) fn interface(name: &str) -> Result<Dev, ItemError> {
    let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':' && c != '%';
    let fine = (1..=15).contains(&name.len()) && name.chars().all(allowed);
    if fine && !["lo", ".", "..", "all", "default"].contains(&name) {
        Ok(Dev::new(name))
    } else {
        Err(ItemError::Interface(short(name)))
    }
}

pub(super) fn remote(remote: &v1::RemoteMac, ours: Option<IpAddr>) -> Result<(Vni, Mac, Remote), ItemError> {
    let vtep = other_vtep(&remote.vtep, ours)?;
    let addresses = remote.addresses.iter().map(|a| address("addresses", a)).collect::<Result<_, _>>()?;
    Ok((Vni::try_from(remote.vni)?, mac("mac", &remote.mac)?, Remote { vtep, addresses }))
}

pub(super) fn flood(flood: &v1::FloodTarget, ours: Option<IpAddr>) -> Result<(Vni, IpAddr), ItemError> {
    Ok((Vni::try_from(flood.vni)?, other_vtep(&flood.vtep, ours)?))
}
