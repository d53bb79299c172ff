//! A node's state as JSON: what `causeway-agent state` and `causeway node config --format json` print, and what
//! `causeway-agent render` reads.

use causeway_proto::v1;
use serde::{Deserialize, Serialize};

/// Why a text is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not the JSON that we expect; says where.
    #[error("not a node's state: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A word that is none of a field's.
    #[error("{field}: '{word}' is none of {}", words.join(", "))]
    Word {
        /// Which field.
        field: &'static str,
        /// What it says.
        word: String,
        /// What it may say.
        words: Vec<String>,
    },
}

macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident of $proto:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct $name { $($field: $kind),* }

        impl From<v1::$proto> for $name {
            fn from(from: v1::$proto) -> Self {
                $name { $($field: from.$field.into()),* }
            }
        }

        impl From<$name> for v1::$proto {
            #[allow(clippy::needless_update, reason = "some messages have fields that are no part of the text")]
            fn from(from: $name) -> Self {
                v1::$proto { $($field: from.$field.into(),)* ..v1::$proto::default() }
            }
        }
    };
}

mirror!(Network of NodeNetwork {
    vni: u32, vrf: String, network: String, mtu: u32, bridge_mac: String, vlan: u32, gateways: Vec<String>,
    gateway_mac: String,
});
mirror!(Port of NodePort {
    id: String, vni: u32, mac: String, addresses: Vec<String>, gateways: Vec<String>, mtu: u32, netns: String,
    interface: String, generation: u64, guarded: bool,
});
mirror!(Remote of RemoteMac { vni: u32, mac: String, vtep: String, addresses: Vec<String> });
mirror!(Flood of FloodTarget { vni: u32, vtep: String });
mirror!(Vrf of NodeVrf { name: String, l3_vni: u32, router_mac: String, table: u32 });
mirror!(Hop of NextHop { vtep: String, router_mac: String, vrf: String });
mirror!(SwitchPort of SwitchPort { interface: String, untagged_vlan: u32, tagged_vlans: Vec<u32> });
mirror!(Local of LocalMac { vni: u32, mac: String, interface: String, addresses: Vec<String> });

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Route {
    vrf: String,
    prefix: String,
    next_hops: Vec<Hop>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct State {
    revision: u64,
    node: String,
    /// As in manifests: `host-vtep`, `tor-agent` and so on.
    mode: String,
    vtep: String,
    underlay_mtu: u32,
    networks: Vec<Network>,
    vrfs: Vec<Vrf>,
    switch_ports: Vec<SwitchPort>,
    ports: Vec<Port>,
    locals: Vec<Local>,
    remotes: Vec<Remote>,
    floods: Vec<Flood>,
    routes: Vec<Route>,
}

const MODES: [v1::NodeMode; 5] = [
    v1::NodeMode::HostVtep,
    v1::NodeMode::TorEvpn,
    v1::NodeMode::TorAgent,
    v1::NodeMode::TorStatic,
    v1::NodeMode::Host,
];

/// `NODE_MODE_TOR_AGENT` as `tor-agent`.
fn word_of(mode: v1::NodeMode) -> String {
    mode.as_str_name().trim_start_matches("NODE_MODE_").to_lowercase().replace('_', "-")
}

fn each<A, B: From<A>>(from: Vec<A>) -> Vec<B> {
    from.into_iter().map(B::from).collect()
}

/// As JSON, indented.
pub fn to_json(state: &v1::NodeState) -> String {
    let state = state.clone();
    let mode = v1::NodeMode::try_from(state.mode).unwrap_or_default();
    let mode = if mode == v1::NodeMode::Unspecified { v1::NodeMode::HostVtep } else { mode };
    let route = |r: v1::NodeRoute| Route { vrf: r.vrf, prefix: r.prefix, next_hops: each(r.next_hops) };
    let text = State {
        revision: state.revision,
        node: state.node,
        mode: word_of(mode),
        vtep: state.vtep,
        underlay_mtu: state.underlay_mtu,
        networks: each(state.networks),
        vrfs: each(state.vrfs),
        switch_ports: each(state.switch_ports),
        ports: each(state.ports),
        locals: each(state.locals),
        remotes: each(state.remotes),
        floods: each(state.floods),
        routes: state.routes.into_iter().map(route).collect(),
    };
    // Strings, numbers and lists always have a JSON form.
    serde_json::to_string_pretty(&text).unwrap_or_default()
}

/// From JSON. Absent fields have their defaults, unknown ones are refused.
pub fn from_json(text: &str) -> Result<v1::NodeState, StateError> {
    let state: State = serde_json::from_str(text)?;
    let mode = match state.mode.as_str() {
        "" => v1::NodeMode::HostVtep,
        word => MODES.into_iter().find(|mode| word_of(*mode) == word).ok_or_else(|| StateError::Word {
            field: "mode",
            word: word.chars().take(80).collect(),
            words: MODES.into_iter().map(word_of).collect(),
        })?,
    };
    let route = |r: Route| v1::NodeRoute { vrf: r.vrf, prefix: r.prefix, next_hops: each(r.next_hops) };
    Ok(v1::NodeState {
        revision: state.revision,
        node: state.node,
        mode: mode.into(),
        vtep: state.vtep,
        underlay_mtu: state.underlay_mtu,
        networks: each(state.networks),
        vrfs: each(state.vrfs),
        switch_ports: each(state.switch_ports),
        ports: each(state.ports),
        locals: each(state.locals),
        remotes: each(state.remotes),
        floods: each(state.floods),
        routes: state.routes.into_iter().map(route).collect(),
        ..v1::NodeState::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_back_as_it_was_printed() {
        let state = crate::fabric::tests::switch();
        assert_eq!(from_json(&to_json(&state)).unwrap(), state);
    }

    #[test]
    fn unknown_words_are_refused_with_their_place() {
        let text = from_json("{\n \"vtpe\": \"192.0.2.1\"}").unwrap_err().to_string();
        assert!(text.contains("vtpe") && text.contains("line 2"), "{text}");
        let text = from_json("{\"mode\": \"tor\"}").unwrap_err().to_string();
        assert_eq!(text, "mode: 'tor' is none of host-vtep, tor-evpn, tor-agent, tor-static, host");
    }
}
