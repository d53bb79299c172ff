//! Plans, rendered configuration and pictures of the corpus.

use std::path::Path;

use causeway_topology::{Lab, LoadOptions, Plan, Severity, graph, parse, plan, render, render_all};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const CLOS: &str = include_str!("corpus/clos-ebgp.clab.yml");
const QUICKSTART: &str = include_str!("../../labs/quickstart/quickstart.clab.yml");

fn read(text: &str) -> Result<Lab> {
    let loaded =
        parse(text, Path::new("/labs/x.clab.yml"), &LoadOptions::default()).map_err(|e| render_all(&e))?;
    let warnings: Vec<_> = loaded.warnings.into_iter().filter(|w| w.severity == Severity::Warning).collect();
    assert!(warnings.is_empty(), "{}", render_all(&warnings));
    Ok(loaded.lab)
}

fn both(text: &str) -> Result<(Lab, Plan)> {
    let lab = read(text)?;
    let plan = plan(&lab).map_err(|e| render_all(&e))?;
    Ok((lab, plan))
}

fn wrong(text: &str) -> Result<String> {
    Ok(match plan(&read(text)?) {
        Err(errors) => render_all(&errors),
        Ok(_) => "accepted".to_owned(),
    })
}

/// One line a fact.
fn summary(plan: &Plan) -> String {
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut out = String::new();
    for (name, node) in &plan.nodes {
        let rr = if node.route_reflector { " rr" } else { "" };
        out += &format!(
            "{name}: {} as {} id {} lo {} vtep {} gateway {}{rr}\n",
            node.role,
            text(node.asn.map(|v| v.to_string())),
            text(node.router_id.map(|v| v.to_string())),
            text(node.loopback.map(|v| v.to_string())),
            text(node.vtep.map(|v| v.to_string())),
            text(node.gateway.map(|v| v.to_string())),
        );
        for i in &node.interfaces {
            let peer = i.peer.as_ref().map(|(node, port)| format!("{node}:{port}"));
            out += &format!(
                "  {} {:?} {} mtu {} to {}\n",
                i.name,
                i.usage,
                text(i.address.map(|a| a.to_string())),
                i.mtu,
                text(peer)
            );
        }
        for n in &node.bgp {
            let unicast = if n.unicast { " unicast" } else { "" };
            out += &format!(
                "  bgp {} {} from {} as {} {:?}{unicast}\n",
                n.node, n.address, n.local_address, n.remote_as, n.peering
            );
        }
        for access in &node.access {
            out += &format!("  access vni {} ports {:?}\n", access.vni, access.ports);
        }
        for (destination, next_hop) in &node.statics {
            out += &format!("  static {destination} via {next_hop}\n");
        }
        for network in &node.networks {
            out += &format!("  announces {network}\n");
        }
    }
    out
}

#[test]
fn plan_of_a_fabric_with_an_as_per_leaf() -> Result {
    insta::assert_snapshot!(summary(&both(CLOS)?.1));
    Ok(())
}

#[test]
fn plan_of_the_quickstart() -> Result {
    insta::assert_snapshot!(summary(&both(QUICKSTART)?.1));
    Ok(())
}

#[test]
fn rendered_configuration() -> Result {
    let (lab, plan) = both(CLOS)?;
    for node in ["s2", "leaf1", "leaf2"] {
        insta::assert_snapshot!(format!("frr-{node}"), render::frr(&lab, &plan, node).ok_or("no switch")?);
    }
    for node in ["leaf1", "leaf2", "host1", "server1", "controller", "etcd", "s1"] {
        insta::assert_snapshot!(format!("setup-{node}"), render::setup(&lab, &plan, node).ok_or("no node")?);
    }
    assert_eq!(render::frr(&lab, &plan, "host1"), None);
    assert_eq!(render::setup(&lab, &plan, "nobody"), None);
    Ok(())
}

#[test]
fn pictures() -> Result {
    let lab = read(QUICKSTART)?;
    insta::assert_snapshot!(graph::mermaid(&lab));
    insta::assert_snapshot!(graph::dot(&lab));
    let options = LoadOptions { home: Some("/home/me".into()), ..LoadOptions::default() };
    let text = include_str!("corpus/everything.clab.yml");
    let lab = parse(text, Path::new("/labs/x.clab.yml"), &options).map_err(|e| render_all(&e))?.lab;
    insta::assert_snapshot!("every-link-type", graph::mermaid(&lab));
    Ok(())
}

#[test]
fn guessed_roles_are_said() -> Result {
    let loaded = parse(CLOS, Path::new("x"), &LoadOptions::default()).map_err(|e| render_all(&e))?;
    let notes: Vec<_> = loaded.warnings.iter().map(|w| format!("{}: {}", w.line, w.message)).collect();
    insta::assert_snapshot!(notes.join("\n"));
    Ok(())
}

#[test]
fn a_controller_speaks_with_every_leaf_if_it_shall() -> Result {
    let fabric = |label: &str| {
        format!(
            "name: x
topology:
  defaults: {{kind: linux}}
  nodes:
    s: {{labels: {{causeway.role: spine}}}}
    l1: {{labels: {{causeway.role: leaf}}}}
    l2: {{labels: {{causeway.role: leaf}}}}
    c: {{labels: {{causeway.role: controller{label}}}}}
  links:
    - endpoints: [s:eth1, l1:eth1]
    - endpoints: [s:eth2, l2:eth1]
    - endpoints: [s:eth3, c:eth1]
"
        )
    };
    let peers = |plan: &Plan, node: &str| -> Vec<String> {
        plan.nodes[node]
            .bgp
            .iter()
            .map(|n| format!("{} {} from {}", n.node, n.address, n.local_address))
            .collect()
    };
    let (_, plain) = both(&fabric(""))?;
    assert_eq!(peers(&plain, "c"), ["s 10.255.0.1 from 10.254.0.5"]);
    let (lab, plan) = both(&fabric(", causeway.peers: leaves"))?;
    let leaves = ["l1 10.255.0.2 from 10.254.0.5", "l2 10.255.0.3 from 10.254.0.5"];
    assert_eq!(peers(&plan, "c"), [&["s 10.255.0.1 from 10.254.0.5"], &leaves[..]].concat());
    assert_eq!(peers(&plan, "l2"), ["s 10.254.0.2 from 10.254.0.3", "c 10.254.0.5 from 10.255.0.3"]);
    // Only EVPN, from the loopback, and no reflection of a reflector's routes.
    let leaf = render::frr(&lab, &plan, "l2").ok_or("no switch")?;
    let says = |text: &str| leaf.lines().filter(|line| line.trim() == text).count();
    assert_eq!(says("neighbor 10.254.0.5 update-source 10.255.0.3"), 1);
    assert_eq!(says("neighbor 10.254.0.5 activate"), 1);
    assert_eq!(says("neighbor 10.254.0.5 route-reflector-client"), 0);
    // A leaf that has a link to it has that session already.
    let linked = fabric(", causeway.peers: leaves") + "    - endpoints: [l1:eth2, c:eth2]\n";
    assert_eq!(peers(&both(&linked)?.1, "c").len(), 3);
    let unknown = read(&fabric(", causeway.peers: all")).err().ok_or("accepted")?.to_string();
    assert!(unknown.contains("neither links nor leaves"), "{unknown}");
    let misplaced = fabric("").replace("role: leaf}", "role: leaf, causeway.peers: leaves}");
    assert!(wrong(&misplaced)?.contains("causeway.peers is for controllers"));
    Ok(())
}

#[test]
fn contradictions_are_refused_with_their_place() -> Result {
    let fabric = |nodes: &str, links: &str| {
        format!("name: x\ntopology:\n  defaults: {{kind: linux}}\n  nodes:\n{nodes}  links:\n{links}")
    };
    let label = |name: &str, role: &str, more: &str| {
        format!("    {name}: {{labels: {{causeway.role: {role}{more}}}}}\n")
    };
    let pair = [label("s", "spine", ""), label("l", "leaf", "")].concat();
    let link = "    - endpoints: [s:eth1, l:eth1]\n";

    let same_loopback = [
        label("s", "spine", ", causeway.loopback: 10.0.0.1"),
        label("l", "leaf", ", causeway.loopback: 10.0.0.1"),
    ]
    .concat();
    insta::assert_snapshot!("address-twice", wrong(&fabric(&same_loopback, link))?);
    let same_id = [
        label("s", "spine", ", causeway.router-id: 1.1.1.1"),
        label("l", "leaf", ", causeway.router-id: 1.1.1.1"),
    ]
    .concat();
    insta::assert_snapshot!("router-id-twice", wrong(&fabric(&same_id, link))?);
    let small = [
        label("s", "spine", ", causeway.link-pool: 10.0.0.0/31"),
        label("l", "leaf", ", causeway.loopback-pool: 10.1.0.0/32"),
    ]
    .concat();
    insta::assert_snapshot!(
        "small-pools",
        wrong(&fabric(&small, &format!("{link}    - endpoints: [s:eth2, l:eth2]\n")))?
    );
    let two_pools = [
        label("s", "spine", ", causeway.link-pool: 10.0.0.0/24"),
        label("l", "leaf", ", causeway.link-pool: 10.1.0.0/24"),
    ]
    .concat();
    insta::assert_snapshot!("two-pools", wrong(&fabric(&two_pools, link))?);
    insta::assert_snapshot!(
        "half-an-address",
        wrong(&fabric(&pair, "    - {endpoints: [s:eth1, l:eth1], ipv4: [10.0.0.0/31]}\n"))?
    );
    insta::assert_snapshot!(
        "two-prefixes",
        wrong(&fabric(&pair, "    - {endpoints: [s:eth1, l:eth1], ipv4: [10.0.0.0/31, 10.0.1.1/31]}\n"))?
    );
    insta::assert_snapshot!(
        "access-without-leaf",
        wrong(&fabric(
            &label("h", "host", ""),
            "    - {endpoints: [h:eth1, host:h-eth1], labels: {causeway.vni: 5}}\n"
        ))?
    );
    let alone =
        [pair.clone(), label("h", "host", ""), label("c", "controller", ", causeway.router-id: 1.1.1.1")]
            .concat();
    insta::assert_snapshot!("unreachable", wrong(&fabric(&alone, link))?);
    let no_rr = [label("s", "spine", ", causeway.rr: false"), label("l", "leaf", ""), label("m", "leaf", "")]
        .concat();
    insta::assert_snapshot!(
        "nothing-reflects",
        wrong(&fabric(&no_rr, &format!("{link}    - endpoints: [s:eth2, m:eth1]\n")))?
    );
    Ok(())
}
