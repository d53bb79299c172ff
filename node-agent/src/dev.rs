//! Names and marks of the kernel objects that belong to Causeway: how it knows its own from everybody else's.
//!
//! A link is ours if its name has our form **and** it carries link group 77 or an alias that starts with `causeway:`.
//! Neighbours, addresses, routes and rules are ours by protocol 77. FDB entries carry no mark that the kernel keeps: they are
//! ours by sitting on a device of ours.

use std::fmt;
use std::sync::Arc;

use causeway_proto::{PortKey, Vni};

use crate::rate::Direction;

/// Link group of all our links.
pub const LINK_GROUP: u32 = 77;
/// Protocol number of our neighbours, addresses, routes and rules; free in iproute2's and FRR's tables.
pub const PROTOCOL: u8 = 77;
/// What the alias of each link of ours begins with.
pub const ALIAS_PREFIX: &str = "causeway:";
/// The kernel keeps aliases of up to 255 bytes.
const ALIAS_LIMIT: usize = 255;

/// Name of a network device, at most 15 bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dev(Arc<str>);

/// What a device of ours is for, as its name says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Bridge of a network.
    Bridge(Vni),
    /// VXLAN device of a network.
    Vxlan(Vni),
    /// Host side of a workload's veth pair.
    Port,
    /// What frames from a workload are passed through to be limited.
    Shaper,
    /// What frames to or from a macvlan or ipvlan are passed through to be limited.
    Diverter,
    /// VLAN of an uplink, for a network.
    Vlan(Vni),
    /// The host's own macvlan beside those of a network.
    Shim(Vni),
    /// The one VLAN-aware bridge of a host.
    Trunk,
}

/// What a device of a switch or of routing is for, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FabricRole {
    /// The VLAN-aware bridge of a switch.
    Switch,
    /// A network's VLAN device on it (switched virtual interface).
    Svi(Vni),
    /// Bridge of an L3 VNI: the interface that routes into it.
    Router(Vni),
    /// VXLAN device of an L3 VNI.
    Transit(Vni),
    /// VRF device with its routing table.
    Vrf(u32),
}

impl Dev {
    /// The device with this name; the kernel refuses names that are too long.
    pub fn new(name: &str) -> Self {
        Dev(name.into())
    }

    /// `cwb` and the VNI.
    pub fn bridge(vni: Vni) -> Self {
        Dev(format!("cwb{vni}").into())
    }

    /// `cwx` and the VNI.
    pub fn vxlan(vni: Vni) -> Self {
        Dev(format!("cwx{vni}").into())
    }

    /// `cwu` and the VNI.
    pub fn vlan(vni: Vni) -> Self {
        Dev(format!("cwu{vni}").into())
    }

    /// `cws` and the VNI.
    pub fn shim(vni: Vni) -> Self {
        Dev(format!("cws{vni}").into())
    }

    /// `cwtrunk`.
    pub fn trunk() -> Self {
        Dev("cwtrunk".into())
    }

    /// `cwp` and 48 bits of a hash (FNV-1a) of the port's key: the same on every start and every node.
    pub fn port(id: &PortKey) -> Self {
        let hash = id
            .to_string()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Dev(format!("cwp{:012x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff).into())
    }

    /// For a port's host side: the device that frames from the workload are passed through to be limited.
    #[must_use]
    pub fn shaper(&self) -> Self {
        Dev(format!("cwi{}", self.0.strip_prefix("cwp").unwrap_or(&self.0)).into())
    }

    /// For a port without a host side, by the name that it would have: the device that frames to (`cwj`) or from it (`cwk`)
    /// are passed through to be limited.
    #[must_use]
    pub fn diverter(&self, direction: Direction) -> Self {
        let kind = if direction == Direction::In { "cwj" } else { "cwk" };
        Dev(format!("{kind}{}", self.0.strip_prefix("cwp").unwrap_or(&self.0)).into())
    }

    /// For what frames are passed through to be limited: the host side that it belongs to, or would.
    pub fn shaped(&self) -> Option<Self> {
        let role = self.role()?;
        let hash = self.0.get(3..).filter(|_| matches!(role, Role::Shaper | Role::Diverter))?;
        Some(Dev(format!("cwp{hash}").into()))
    }

    /// `cwbr0`.
    pub fn switch() -> Self {
        Dev("cwbr0".into())
    }

    /// `cwg` and the VNI.
    pub fn svi(vni: Vni) -> Self {
        Dev(format!("cwg{vni}").into())
    }

    /// `cwr` and the L3 VNI.
    pub fn router(vni: Vni) -> Self {
        Dev(format!("cwr{vni}").into())
    }

    /// `cwl` and the L3 VNI.
    pub fn transit(vni: Vni) -> Self {
        Dev(format!("cwl{vni}").into())
    }

    /// `cwf` and the number of the routing table.
    pub fn vrf(table: u32) -> Self {
        Dev(format!("cwf{table}").into())
    }

    /// What it is for in switching and routing; `None` if the name is none that we give there.
    pub fn fabric_role(&self) -> Option<FabricRole> {
        if *self == Dev::switch() {
            return Some(FabricRole::Switch);
        }
        let (kind, digits) = self.0.split_at_checked(3)?;
        let number: u32 = digits.parse().ok().filter(|n: &u32| n.to_string() == digits)?;
        let vni = Vni::try_from(number).ok();
        match kind {
            "cwg" => vni.map(FabricRole::Svi),
            "cwr" => vni.map(FabricRole::Router),
            "cwl" => vni.map(FabricRole::Transit),
            "cwf" => Some(FabricRole::Vrf(number)),
            _ => None,
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is for; `None` if the name is none that we give.
    pub fn role(&self) -> Option<Role> {
        let vni = |digits: &str| {
            let number: u32 = digits.parse().ok()?;
            // "007" and "+7" parse too, but we never write them.
            (number.to_string() == digits).then(|| Vni::try_from(number).ok()).flatten()
        };
        if let Some(rest) = self.0.strip_prefix("cwb") {
            return vni(rest).map(Role::Bridge);
        }
        if let Some(rest) = self.0.strip_prefix("cwx") {
            return vni(rest).map(Role::Vxlan);
        }
        if let Some(rest) = self.0.strip_prefix("cwu") {
            return vni(rest).map(Role::Vlan);
        }
        if let Some(rest) = self.0.strip_prefix("cws") {
            return vni(rest).map(Role::Shim);
        }
        if &*self.0 == "cwtrunk" {
            return Some(Role::Trunk);
        }
        let (kind, hash) = self.0.split_at_checked(3)?;
        let role = match kind {
            "cwp" => Role::Port,
            "cwi" => Role::Shaper,
            "cwj" | "cwk" => Role::Diverter,
            _ => return None,
        };
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (hash.len() == 12 && hash.bytes().all(hex)).then_some(role)
    }
}

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Alias of a network's bridge and VXLAN device.
pub fn network_alias(network: &str) -> String {
    cut(format!("{ALIAS_PREFIX}net={network}"))
}

/// Alias of a VRF device and of what routes for it.
pub fn vrf_alias(vrf: &str) -> String {
    cut(format!("{ALIAS_PREFIX}vrf={vrf}"))
}

/// Alias of the bridge of a switch.
pub fn switch_alias(node: &str) -> String {
    cut(format!("{ALIAS_PREFIX}switch={node}"))
}

/// Alias of a port's host side. The generation in it is what a restarted agent knows about announcements: it is
/// written after the address was announced, so equal means announced.
pub fn port_alias(id: &PortKey, generation: u64) -> String {
    cut(format!("{ALIAS_PREFIX}gen={generation};port={id}"))
}

/// True if an alias says that the port has been announced here, whatever its binding's generation was.
pub(crate) fn says_announced(alias: &str, id: &PortKey) -> bool {
    let rest = alias.strip_prefix(ALIAS_PREFIX).and_then(|rest| rest.strip_prefix("gen="));
    let generation = rest.and_then(|rest| rest.split_once(';')).and_then(|(digits, _)| digits.parse().ok());
    generation.is_some_and(|generation| generation > 0 && alias == port_alias(id, generation))
}

fn cut(mut text: String) -> String {
    let end = (0..=ALIAS_LIMIT.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn roles_are_read_back_from_names() {
        let vni = Vni::try_from(16_777_215).unwrap();
        assert_eq!(Dev::bridge(vni).role(), Some(Role::Bridge(vni)));
        assert_eq!(Dev::vxlan(vni).role(), Some(Role::Vxlan(vni)));
        for name in
            ["cwb", "cwb0", "cwb007", "cwb+7", "cwb16777216", "cwx1a", "cwp1", "cwpABCDEF012345", "br0", ""]
        {
            assert_eq!(Dev::new(name).role(), None, "{name}");
        }
    }

    #[test]
    fn fabric_roles_are_read_back_from_names() {
        let vni = Vni::try_from(16_777_215).unwrap();
        for (dev, role) in [
            (Dev::switch(), FabricRole::Switch),
            (Dev::svi(vni), FabricRole::Svi(vni)),
            (Dev::router(vni), FabricRole::Router(vni)),
            (Dev::transit(vni), FabricRole::Transit(vni)),
            (Dev::vrf(u32::MAX), FabricRole::Vrf(u32::MAX)),
        ] {
            assert!(dev.as_str().len() <= 15);
            assert_eq!((dev.fabric_role(), dev.role()), (Some(role), None));
        }
        for name in ["cwg", "cwg0", "cwg007", "cwr+7", "cwl16777216", "cwf-1", "cwbr1", "cwé", "cwv7", "eth0"]
        {
            assert_eq!(Dev::new(name).fabric_role(), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn port_names_fit_and_are_ours(name in "[a-z0-9]{1,9}/[a-z0-9]{1,9}/[A-Za-z0-9][A-Za-z0-9._:/-]{0,200}") {
            let id: PortKey = name.parse().unwrap();
            let dev = Dev::port(&id);
            prop_assert_eq!(dev.as_str().len(), 15);
            prop_assert_eq!(dev.role(), Some(Role::Port));
            let aside = [dev.shaper(), dev.diverter(Direction::In), dev.diverter(Direction::Out)];
            for other in aside {
                prop_assert_eq!(other.shaped(), Some(dev.clone()));
            }
            prop_assert!(port_alias(&id, u64::MAX).len() <= 255);
            prop_assert!(says_announced(&port_alias(&id, 7), &id));
            prop_assert!(!says_announced(&port_alias(&id, 0), &id), "prepared or held");
            prop_assert!(!says_announced("", &id));
        }
    }
}
