//! Nodes: which fields belong to which mode.

use causeway_proto::{Name, NetworkKey, v1};

use super::{Fields, LONGEST_SITE, UNDERLAY_MTU, UNDERLAY_MTUS, read_mac, short, words};
use crate::model::{HostBridge, Node, NodeMode, Uplink, parse_esi};
use crate::ports::plan::interface_name;

/// Links of a host at most.
const MOST_UPLINKS: usize = 2;

pub(super) fn read(fields: &mut Fields, node: &v1::Node) -> Option<Node> {
    let name: Option<Name> = fields.required("name", &node.name);
    let mode = words::read_mode(node.mode);
    if mode.is_none() {
        let reason = match node.mode {
            0 => "is required".to_owned(),
            other => format!("{other} is not a mode that this controller knows"),
        };
        fields.add("mode", reason);
    }
    let host = mode == Some(NodeMode::Host);
    let vtep = if host { None } else { fields.host_address("vtep", &node.vtep) };
    if host && !node.vtep.is_empty() {
        fields.add("vtep", "makes no sense for a host behind switches: they have the VTEPs");
    }
    let underlay_mtu = fields.within("underlay_mtu", node.underlay_mtu, UNDERLAY_MTUS, UNDERLAY_MTU);
    if node.site.len() > LONGEST_SITE {
        fields.add("site", format!("is longer than {LONGEST_SITE} bytes"));
    }
    let labels = fields.labels(&node.labels);
    let uplinks = read_uplinks(fields, &node.uplinks, host);
    let switch = mode.is_some_and(NodeMode::is_switch);
    let anycast_vtep = match node.anycast_vtep.as_str() {
        "" => None,
        text => fields.host_address("anycast_vtep", text),
    };
    only(fields, mode.is_none() || switch, "anycast_vtep", anycast_vtep.is_some(), "switches");
    if let (Some(anycast), Some(own)) = (anycast_vtep, vtep)
        && (anycast == own || anycast.is_ipv4() != own.is_ipv4())
    {
        fields.add("anycast_vtep", format!("{anycast} must be of the family of {own}, and another one"));
    }
    let router_mac = read_mac(fields, "router_mac", &node.router_mac);
    only(fields, !host, "router_mac", router_mac.is_some(), "nodes with a VTEP");
    let esi = read_esi(fields, &node.esi);
    only(fields, mode.is_none() || host, "esi", esi.is_some(), "hosts");
    if esi.is_some() && node.uplinks.len() < 2 {
        fields.add("esi", "needs two uplinks");
    }
    let mut networks: Vec<NetworkKey> = fields.list("networks", &node.networks);
    networks.sort_unstable();
    only(fields, mode.is_none() || switch, "networks", !networks.is_empty(), "switches");
    let host_bridge = words::read_host_bridge(node.host_bridge).unwrap_or_else(|| {
        fields.add("host_bridge", format!("{} is not known", node.host_bridge));
        HostBridge::default()
    });
    only(fields, mode.is_none() || host, "host_bridge", host_bridge != HostBridge::default(), "hosts");
    only(fields, mode.is_none() || host, "move_addresses", node.move_addresses, "hosts");
    if !host && vtep.is_none() {
        return None;
    }
    Some(Node {
        name: name?,
        mode: mode?,
        vtep,
        underlay_mtu,
        site: node.site.clone(),
        labels,
        uplinks,
        anycast_vtep,
        router_mac,
        esi,
        networks,
        host_bridge,
        move_addresses: node.move_addresses,
    })
}

fn only(fields: &mut Fields, allowed: bool, field: &str, given: bool, whom: &str) {
    if given && !allowed {
        fields.add(field, format!("is for {whom} only"));
    }
}

fn read_esi(fields: &mut Fields, text: &str) -> Option<causeway_bgp::Esi> {
    if text.is_empty() {
        return None;
    }
    parse_esi(text).map_err(|error| fields.add("esi", error.to_string())).ok()
}

fn read_uplinks(fields: &mut Fields, uplinks: &[v1::Uplink], host: bool) -> Vec<Uplink> {
    if !host {
        only(fields, false, "uplinks", !uplinks.is_empty(), "hosts");
        return Vec::new();
    }
    if uplinks.is_empty() {
        fields.add("uplinks", "are required: through which switch frames go");
    } else if uplinks.len() > MOST_UPLINKS {
        fields.add("uplinks", format!("are more than {MOST_UPLINKS}"));
        return Vec::new();
    }
    let mut read: Vec<Uplink> = Vec::new();
    for (i, uplink) in uplinks.iter().enumerate() {
        let at = |field: &str| format!("uplinks[{i}].{field}");
        let switch: Option<Name> = fields.required(&at("switch"), &uplink.switch);
        if let Err(reason) = interface_name(&uplink.interface) {
            fields.add(&at("interface"), format!("'{}' {reason}", short(&uplink.interface)));
        }
        if !uplink.switch_interface.is_empty()
            && let Err(reason) = interface_name(&uplink.switch_interface)
        {
            fields.add(&at("switch_interface"), format!("'{}' {reason}", short(&uplink.switch_interface)));
        }
        let Some(switch) = switch else { continue };
        if read.iter().any(|known| known.interface == uplink.interface) {
            fields.add(&at("interface"), format!("{} is there twice", short(&uplink.interface)));
        }
        if read.iter().any(|known| known.switch == switch) {
            fields.add(&at("switch"), format!("{switch} is there twice: two uplinks go to two switches"));
        }
        read.push(Uplink {
            interface: uplink.interface.clone(),
            switch,
            switch_interface: uplink.switch_interface.clone(),
        });
    }
    read
}
