//! Networks, VRFs and ports declared by labels: what is refused, and what is rendered.

use std::path::Path;

use causeway_topology::{Lab, LoadOptions, Plan, parse, plan, render, render_all};
use proptest::prelude::*;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const LABS: [&str; 5] = [
    include_str!("../../labs/tor-offload/tor-offload.clab.yml"),
    include_str!("../../labs/mixed-modes/mixed-modes.clab.yml"),
    include_str!("../../labs/vrf/vrf.clab.yml"),
    include_str!("../../labs/dual-stack/dual-stack.clab.yml"),
    include_str!("../../labs/quickstart/quickstart.clab.yml"),
];

fn both(text: &str) -> Result<(Lab, Plan)> {
    let loaded =
        parse(text, Path::new("/labs/x.clab.yml"), &LoadOptions::default()).map_err(|e| render_all(&e))?;
    let plan = plan(&loaded.lab).map_err(|e| render_all(&e))?;
    Ok((loaded.lab, plan))
}

/// A spine, a leaf and a server; labels of the defaults, of the leaf, and of the server's link.
fn fabric(defaults: &str, leaf: &str, link: &str) -> String {
    format!(
        "name: x
topology:
  defaults:
    kind: linux
    labels:
{defaults}
  nodes:
    s: {{labels: {{causeway.role: spine}}}}
    l: {{labels: {{causeway.role: leaf{leaf}}}}}
    m: {{labels: {{causeway.role: server}}}}
  links:
    - endpoints: [s:eth1, l:eth1]
    - endpoints: [l:eth2, m:eth1]
      labels: {{{link}}}
"
    )
}

/// What is said of a text: at least one error, each with line, column and excerpt.
fn refused(text: &str) -> Result<String> {
    let errors = match parse(text, Path::new("/labs/x.clab.yml"), &LoadOptions::default()) {
        Err(errors) => errors,
        Ok(loaded) => plan(&loaded.lab).err().ok_or_else(|| format!("accepted:\n{text}"))?,
    };
    assert!(errors.iter().all(|e| e.line > 0 && e.column > 0 && e.excerpt.contains('^')), "{errors:?}");
    Ok(render_all(&errors))
}

const WEB: &str = "      causeway.network.web: vni=10010 vlan=10\n";

/// Label of the defaults, then a part of what must be said.
const WRONG_DECLARATIONS: [(&str, &str); 28] = [
    ("causeway.network.web: vlan=10", "needs a VNI"),
    ("causeway.network.web: vni=0", "'0' is not a number in 1 to 16777215"),
    ("causeway.network.web: vni=16777216", "'16777216' is not a number in 1 to 16777215"),
    ("causeway.network.web: vni=1 vlan=0", "'0' is not a number in 1 to 4094"),
    ("causeway.network.web: vni=1 vlan=4095", "'4095' is not a number in 1 to 4094"),
    ("causeway.network.web: vni=1 mtu=1279", "'1279' is not a number in 1280 to 9216"),
    ("causeway.network.web: vni=1 mtu=9217", "'9217' is not a number in 1280 to 9216"),
    ("causeway.network.web: vni=1 import=65000", "a route target is ASN:NUMBER"),
    ("causeway.network.web: vni=1 export=4200000000:65536", "at most 65535"),
    ("causeway.network.web: vni=1 gateway=10.0.0.1", "needs a prefix length"),
    ("causeway.network.web: vni=1 gateway=10.0.0.0/24", "is the prefix itself"),
    ("causeway.network.web: vni=1 gateway=10.0.0.1/24,10.0.0.2/24", "the second one of its prefix"),
    ("causeway.network.web: vni=1 subnet=10.0.0.1/24", "10.0.0.0/24"),
    ("causeway.network.web: vni=1 mac=01:00:00:00:00:01", "no address of one interface"),
    ("causeway.network.web: vni=1 irb=symetric", "did you mean 'symmetric'"),
    ("causeway.network.web: vni=1 exclude=10.0.0.9-10.0.0.1", "exclude of causeway.network.web"),
    ("causeway.network.web: vni=1 vlam=1", "did you mean 'vlan'"),
    ("causeway.network.web: vni=1 vni=2", "has 'vni' twice"),
    ("causeway.network.web: vni=", "'vni' has no value"),
    ("causeway.network.web: 10010", "is not KEY=VALUE"),
    ("causeway.network.WEB: vni=1", "the name 'WEB'"),
    ("causeway.network.web: vni=1 vrf=red", "which no causeway.vrf.red declares"),
    ("causeway.vrf.default: l3vni=1", "always there"),
    ("causeway.vrf.a-name-of-16-byt: l3vni=1", "at most 15 bytes"),
    ("causeway.vrf.eth1: l3vni=1", "an interface has it"),
    ("causeway.vrf.red: l3vni=1 routes=10.0.0.0/8", "is not PREFIX@NODE"),
    ("causeway.vrf.red: l3vni=1 routes=10.0.0.0/8@q", "'q', which is no node"),
    ("causeway.vrf.red: l3vni=16777216", "'16777216' is not a number"),
];

/// Two labels of the defaults that contradict each other.
const CONTRADICTIONS: [(&str, &str, &str); 5] = [
    ("causeway.network.a: vni=1", "causeway.network.b: vni=1", "VNI 1 is given twice"),
    ("causeway.network.a: vni=1 vlan=7", "causeway.network.b: vni=2 vlan=7", "VLAN 7 is given twice"),
    ("causeway.network.a: vni=1", "causeway.vrf.red: l3vni=1", "VNI 1 is given twice"),
    ("causeway.vrf.blue: l3vni=1", "causeway.vrf.red: l3vni=1", "VNI 1 is given twice"),
    (
        "causeway.network.a: vni=1 subnet=10.0.0.0/8",
        "causeway.network.b: vni=2 gateway=10.1.0.1/16",
        "10.1.0.0/16 of network 'b' overlaps 10.0.0.0/8 of network 'a' in the same VRF 'default'",
    ),
];

/// Labels of the link, then a part of what must be said.
const WRONG_LINKS: [(&str, &str); 10] = [
    ("causeway.untagged: wep", "there is no network 'wep'; did you mean 'web'?"),
    ("causeway.untagged: 0", "VLAN 0 is not in 1 to 4094"),
    ("causeway.tagged: 4095", "VLAN 4095 is not in 1 to 4094"),
    ("causeway.tagged: 11", "no network has VLAN 11"),
    ("causeway.tagged: web, causeway.untagged: web", "both tagged and untagged"),
    ("causeway.untagged: web, causeway.vni: 7", "mean the same"),
    ("causeway.vni: 7, causeway.tagged: web", "network 7 has no VLAN"),
    ("causeway.vrf: red", "there is no VRF 'red'"),
    ("causeway.vrf: red, causeway.tagged: web", "not two of them"),
    ("causeway.untagged: ''", "is empty"),
];

#[test]
fn wrong_labels_are_refused_with_place_and_reason() -> Result {
    let mut all = Vec::new();
    for (label, reason) in WRONG_DECLARATIONS {
        all.push((fabric(&format!("      {label}\n"), "", ""), reason));
    }
    for (one, two, reason) in CONTRADICTIONS {
        all.push((fabric(&format!("      {one}\n      {two}\n"), "", ""), reason));
    }
    for (label, reason) in WRONG_LINKS {
        all.push((fabric(WEB, "", label), reason));
    }
    all.push((fabric(WEB, ", causeway.mode: host", ""), "does not fit node 'l', a leaf"));
    all.push((fabric(WEB, ", causeway.mode: tor-evnp", ""), "did you mean 'tor-evpn'"));
    all.push((fabric(WEB, ", causeway.networks: 'web, db'", ""), "there is no network 'db'"));
    all.push((
        fabric("      causeway.vrf.red: l3vni=1\n", "", "causeway.vrf: red"),
        "needs ipv4 or ipv6 addresses",
    ));
    for (text, reason) in &all {
        let said = refused(text)?;
        assert!(said.contains(reason), "'{reason}' is not in:\n{said}\nof\n{text}");
    }
    // The caret is under the word that is wrong.
    let said = refused(&fabric("      causeway.network.web: vni=1 vlan=4095 mtu=1500\n", "", ""))?;
    insta::assert_snapshot!(said);
    Ok(())
}

#[test]
fn networks_are_declared_once() -> Result {
    let text = fabric(WEB, ", causeway.network.web: vni=10010 vlan=11", "");
    let said = refused(&text)?;
    assert!(said.contains("network 'web' is declared differently elsewhere"), "{said}");
    Ok(())
}

#[test]
fn rendered_per_mode() -> Result {
    let (lab, plan) = both(LABS[0])?;
    insta::assert_snapshot!("address-plan", render::address_plan(&lab, &plan));
    insta::assert_snapshot!("clab", render::clab(&lab, &plan));
    for mode in ["tor-evpn", "tor-agent", "tor-static"] {
        let text = LABS[0].replace("causeway.mode: tor-evpn", &format!("causeway.mode: {mode}"));
        let (lab, plan) = both(&text)?;
        let frr = render::frr(&lab, &plan, "leaf1").ok_or("no switch")?;
        let setup = render::setup(&lab, &plan, "leaf1").ok_or("no node")?;
        insta::assert_snapshot!(format!("leaf-{mode}"), format!("{frr}\n---- setup.sh\n{setup}"));
    }
    Ok(())
}

#[test]
fn explicit_route_targets_are_rendered() -> Result {
    let labels = "      causeway.vrf.red: l3vni=4001 export=65000:1,65000:2 import=65000:1,65000:9
      causeway.network.web: vni=10010 vrf=red gateway=10.0.0.1/24 export=65000:5 import=65000:5,65000:6\n";
    let (lab, plan) = both(&fabric(labels, "", "causeway.untagged: web"))?;
    insta::assert_snapshot!(render::frr(&lab, &plan, "l").ok_or("no switch")?);
    insta::assert_snapshot!("records-with-targets", render::records(&lab, &plan));
    Ok(())
}

/// The rewritten file means the same fabric: same configuration of every node, same records.
#[test]
fn the_rewritten_file_is_the_same_fabric() -> Result {
    for text in LABS {
        let (lab, plan) = both(text)?;
        let (again, replanned) = both(&render::clab(&lab, &plan))?;
        assert_eq!(render::records(&lab, &plan), render::records(&again, &replanned));
        for node in lab.nodes.keys() {
            assert_eq!(render::frr(&lab, &plan, node), render::frr(&again, &replanned, node), "{node}");
            assert_eq!(render::setup(&lab, &plan, node), render::setup(&again, &replanned, node), "{node}");
            assert_eq!(lab.nodes[node].env, again.nodes[node].env, "{node}");
            assert_eq!(lab.nodes[node].labels, again.nodes[node].labels, "{node}");
        }
        // And it is a fixed point: what it binds is bound already.
        assert_eq!(render::clab(&lab, &plan), render::clab(&again, &replanned));
    }
    Ok(())
}

proptest! {
    /// Any label text has an answer, and an error has a place.
    #[test]
    fn any_label_is_answered(
        network in "[ -~]{0,40}|(vni|vlan|mtu|vrf|gateway|import|mac)=[-0-9a-f:./,]{0,20}( (vlan|gateway)=[0-9./]{0,12})?",
        vrf in "[ -~]{0,40}|(l3vni|import|routes)=[-0-9a-z:./,@]{0,20}",
        link in "[ -~]{0,20}",
    ) {
        let quote = |text: &str| format!("'{}'", text.replace('\'', "''").replace("{{", "").replace('$', ""));
        let labels = format!(
            "      causeway.network.web: {}\n      causeway.vrf.red: {}\n", quote(&network), quote(&vrf)
        );
        let text = fabric(&labels, "", &format!("causeway.tagged: {}", quote(&link)));
        let errors = match parse(&text, Path::new("/labs/x.clab.yml"), &LoadOptions::default()) {
            Err(errors) => errors,
            Ok(loaded) => match plan(&loaded.lab) {
                Err(errors) => errors,
                Ok(plan) => {
                    for node in loaded.lab.nodes.keys() {
                        let _ = (render::frr(&loaded.lab, &plan, node), render::setup(&loaded.lab, &plan, node));
                    }
                    let _ = (render::records(&loaded.lab, &plan), render::clab(&loaded.lab, &plan));
                    Vec::new()
                }
            },
        };
        prop_assert!(errors.iter().all(|e| e.line > 0 && e.column > 0));
    }
}
