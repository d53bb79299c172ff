//! What `topology check` finds, and where: one small file per rule, each with the line that is at fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers")]

use std::collections::BTreeMap;
use std::path::Path;

use causeway_topology::check::{self, RULES, Report};
use causeway_topology::{LoadOptions, Severity, graph, parse, render, render_all};

/// A fabric that is right: two spines, two leaves, a server at each, a controller.
const GOOD: &str = r#"name: good
topology:
  defaults: {kind: linux}
  nodes:
    spine1: {labels: {causeway.role: spine}}
    spine2: {labels: {causeway.role: spine}}
    leaf1: {labels: {causeway.role: leaf}}
    leaf2: {labels: {causeway.role: leaf}}
    bm1: {labels: {causeway.role: server, causeway.address: "10.9.0.1/24, fd00:9::1/64"}}
    bm2: {labels: {causeway.role: server, causeway.address: "10.9.0.2/24, fd00:9::2/64"}}
    ctl: {labels: {causeway.role: controller}}
  links:
    - {endpoints: ["spine1:eth1", "leaf1:eth1"]}
    - {endpoints: ["spine1:eth2", "leaf2:eth1"]}
    - {endpoints: ["spine2:eth1", "leaf1:eth2"]}
    - {endpoints: ["spine2:eth2", "leaf2:eth2"]}
    - {endpoints: ["spine1:eth3", "ctl:eth1"]}
    - {endpoints: ["spine2:eth3", "ctl:eth2"]}
    - {endpoints: ["leaf1:eth3", "bm1:eth1"], mtu: 1500, labels: {causeway.vni: 100}}
    - {endpoints: ["leaf2:eth3", "bm2:eth1"], mtu: 1500, labels: {causeway.vni: 100}}
"#;

fn report_with(text: &str, configs: &[(&str, &str)]) -> Report {
    let configs: BTreeMap<String, String> = configs.iter().map(|(n, t)| ((*n).into(), (*t).into())).collect();
    match parse(text, Path::new("/labs/x.clab.yml"), &LoadOptions::default()) {
        Ok(loaded) => check::lab(loaded, &configs),
        Err(mut findings) => {
            findings.iter_mut().for_each(|d| d.rule = "file");
            Report { lab: None, plan: None, findings }
        }
    }
}

fn report(text: &str) -> Report {
    report_with(text, &[])
}

/// [`GOOD`] with one piece of text replaced, and the line in which it stood.
fn changed(from: &str, to: &str) -> (String, usize) {
    let at = GOOD.find(from).unwrap_or_else(|| panic!("'{from}' is not in the file"));
    (GOOD.replacen(from, to, 1), GOOD[..at].lines().count().max(1))
}

#[test]
fn a_good_fabric_has_notes_only() {
    let report = report(GOOD);
    let all = render_all(&report.findings);
    assert_eq!((report.count(Severity::Error), report.count(Severity::Warning)), (0, 0), "{all}");
    let rules: Vec<&str> = report.findings.iter().map(|d| d.rule).collect();
    assert_eq!(rules, ["single-homed", "single-controller"], "{all}");
}

/// Text to replace, its replacement, severity, rule, words of the message; the line is that of the text replaced unless
/// another piece of text is named.
type Case = (&'static str, &'static str, Severity, &'static str, &'static str, &'static str);

const CASES: &[Case] = &[
    // The file itself.
    (
        "leaf2: {labels",
        "leaf2: {kind: toaster, labels",
        Severity::Error,
        "file",
        "there is no kind 'toaster'",
        "",
    ),
    (
        "leaf2: {labels",
        "leaf2: {kind: nokia_srlinux, labels",
        Severity::Warning,
        "file",
        "kind 'nokia_srlinux' is run like 'linux'",
        "",
    ),
    (
        r#"{endpoints: ["spine2:eth2", "leaf2:eth2"]}"#,
        "{type: tunnel, endpoint: {node: leaf2, interface: eth2}}",
        Severity::Error,
        "file",
        "there is no link type 'tunnel'",
        "",
    ),
    (
        r#"["spine2:eth2", "leaf2:eth2"]"#,
        r#"["leaf2:eth2"]"#,
        Severity::Error,
        "file",
        "a link has two endpoints, not 1",
        "",
    ),
    (
        r#""leaf2:eth2""#,
        r#""leaf2:eth1""#,
        Severity::Error,
        "file",
        "interface 'eth1' of node 'leaf2' is used twice",
        "",
    ),
    (
        r#""leaf2:eth2""#,
        r#""laef2:eth2""#,
        Severity::Error,
        "file",
        "there is no node 'laef2'; did you mean 'leaf2'",
        "",
    ),
    (
        r#"["spine2:eth2", "leaf2:eth2"]"#,
        r#"["leaf2:eth7", "leaf2:eth2"]"#,
        Severity::Warning,
        "file",
        "joins node 'leaf2' to itself",
        "",
    ),
    (
        "causeway.vni: 100",
        "causeway.vni: 16777216",
        Severity::Error,
        "file",
        "causeway.vni '16777216' is not a number in 1 to 16777215",
        "",
    ),
    ("causeway.vni: 100", "causeway.vni: 0", Severity::Error, "file", "causeway.vni '0'", ""),
    // Declared networks.
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=7 vlan=0}",
        Severity::Error,
        "file",
        "vlan of causeway.network.x",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=7 vlan=4095}",
        Severity::Error,
        "file",
        "vlan of causeway.network.x",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=16777216}",
        Severity::Error,
        "file",
        "vni of causeway.network.x",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=7 mtu=1279}",
        Severity::Error,
        "file",
        "mtu of causeway.network.x",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=7 import=65000}",
        Severity::Error,
        "file",
        "import of causeway.network.x",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=7 export=70000:70000}",
        Severity::Error,
        "file",
        "export of causeway.network.x",
        "",
    ),
    // VLANs and VNIs that clash.
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=7 vlan=5, causeway.network.y: vni=8 vlan=5}",
        Severity::Error,
        "fabric",
        "VLAN 5 is given twice: to network 'x' and to network 'y'",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=7 vlan=5, causeway.network.y: vni=7 vlan=6}",
        Severity::Error,
        "fabric",
        "VNI 7 is given twice: to network 'x' and to network 'y'",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.x: vni=7, causeway.vrf.red: l3vni=7}",
        Severity::Error,
        "fabric",
        "VNI 7 is given twice: to network 'x' and to VRF 'red'",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.vrf.red: l3vni=100}",
        Severity::Error,
        "fabric",
        "VNI 100 is given twice: to a network of this link and to the routed traffic of VRF 'red'",
        r#"["leaf1:eth3""#,
    ),
    (
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.vrf.red: l3vni=9, causeway.vni: 9, ",
        Severity::Error,
        "fabric",
        "VNI 9 is given twice: to a network of node 'leaf2'",
        "",
    ),
    (
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.vni: 16777216, ",
        Severity::Error,
        "file",
        "causeway.vni '16777216'",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.vrf.red: l3vni=16777216}",
        Severity::Error,
        "file",
        "l3vni of causeway.vrf.red",
        "",
    ),
    (
        r#"["leaf2:eth3", "bm2:eth1"], mtu: 1500, labels: {"#,
        r#"["leaf2:eth3", "bm2:eth1"], mtu: 1500, labels: {causeway.tagged: 0, "#,
        Severity::Error,
        "fabric",
        "VLAN 0 is not in 1 to 4094",
        "",
    ),
    (
        r#"["leaf2:eth3", "bm2:eth1"], mtu: 1500, labels: {"#,
        r#"["leaf2:eth3", "bm2:eth1"], mtu: 1500, labels: {causeway.tagged: 4095, "#,
        Severity::Error,
        "fabric",
        "VLAN 4095 is not in 1 to 4094",
        "",
    ),
    // Addresses.
    (
        "\"10.9.0.2/24",
        "\"10.9.0.1/24",
        Severity::Error,
        "address-duplicate",
        "address 10.9.0.1 of network 100 is given twice: to 'bm1' and to 'bm2'",
        "",
    ),
    ("\"10.9.0.2/24", "\"10.8.0.2/24", Severity::Warning, "subnet-differs", "different subnets", ""),
    (
        "\"10.9.0.2/24",
        "\"10.9.0.255/24",
        Severity::Error,
        "address-unusable",
        "broadcast address of its prefix",
        "",
    ),
    (
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.loopback: 224.0.0.1, ",
        Severity::Error,
        "address-unusable",
        "multicast",
        "",
    ),
    (
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.loopback: 10.255.0.1, ",
        Severity::Error,
        "fabric",
        "10.255.0.1 is given twice",
        "",
    ),
    (
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.router-id: 10.255.0.1, ",
        Severity::Error,
        "fabric",
        "router id 10.255.0.1 is given twice",
        "",
    ),
    (
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.loopback: 10.254.0.0, causeway.router-id: 1.1.1.1, ",
        Severity::Error,
        "fabric",
        "10.254.0.0 is given twice",
        "",
    ),
    (
        r#"["spine2:eth2", "leaf2:eth2"]"#,
        r#"["spine2:eth2", "leaf2:eth2"], ipv4: [10.254.0.12/28, 10.254.0.13/28]"#,
        Severity::Error,
        "subnet-overlap",
        "overlaps",
        "",
    ),
    (
        r#"["spine2:eth2", "leaf2:eth2"]"#,
        r#"["spine2:eth2", "leaf2:eth2"], ipv4: [172.20.20.2/31, 172.20.20.3/31]"#,
        Severity::Warning,
        "subnet-overlap",
        "management network",
        "",
    ),
    (
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.link-pool: 10.0.0.0/8}",
        Severity::Error,
        "pool-overlap",
        "overlap",
        "spine1: {",
    ),
    (
        "leaf2: {labels",
        "leaf2: {exec: [\"ip addr add 192.0.2.1/31 dev eth1\"], labels",
        Severity::Warning,
        "address-differs",
        "192.0.2.1/31 on eth1, and the fabric has 10.254.0.3/31",
        "",
    ),
    // AS numbers and routes.
    (
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.asn: 23456, ",
        Severity::Error,
        "as-reserved",
        "AS_TRANS",
        "",
    ),
    (
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.asn: 3320, ",
        Severity::Warning,
        "as-not-private",
        "public",
        "",
    ),
    (
        "spine1: {labels: {",
        "spine1: {labels: {causeway.rr: false, ",
        Severity::Error,
        "fabric",
        "reflects no routes",
        "",
    ),
    // MTU.
    (
        r#"["leaf2:eth3", "bm2:eth1"], mtu: 1500"#,
        r#"["leaf2:eth3", "bm2:eth1"], mtu: 1279"#,
        Severity::Error,
        "mtu-ipv6",
        "MTU of 1279 and carries IPv6",
        "",
    ),
    (
        r#"["spine2:eth2", "leaf2:eth2"]"#,
        r#"["spine2:eth2", "leaf2:eth2"], mtu: 1549"#,
        Severity::Error,
        "mtu-underlay",
        "MTU of 1549, and network 100 sends 1500 bytes: with VXLAN over IPv4 it needs 1550",
        "",
    ),
    (
        r#"["spine2:eth2", "leaf2:eth2"]"#,
        r#"["spine2:eth2", "leaf2:eth2"], mtu: 1550"#,
        Severity::Warning,
        "mtu-uneven",
        "MTUs from 1550 to 9500",
        "",
    ),
    (
        r#""bm1:eth1"], mtu: 1500"#,
        r#""bm1:eth1"]"#,
        Severity::Warning,
        "mtu-underlay",
        "needs 9550",
        r#"["spine1:eth1""#,
    ),
    // Cabling.
    (
        r#"    - {endpoints: ["spine2:eth2", "leaf2:eth2"]}"#,
        "",
        Severity::Warning,
        "single-uplink",
        "leaf2 (to spine1) has one uplink",
        "leaf2: {",
    ),
    (
        r#"["spine2:eth2", "leaf2:eth2"]}"#,
        r#"["leaf1:eth9", "leaf2:eth2"], labels: {causeway.vni: 100}}"#,
        Severity::Error,
        "l2-loop",
        "leaf1:eth9 to leaf2:eth2 closes a circle in network 100",
        "",
    ),
    (
        r#", labels: {causeway.vni: 100}"#,
        "",
        Severity::Warning,
        "server-no-switch",
        "server 'bm1' is in no network",
        "bm1: {",
    ),
    (
        "ctl: {",
        "lost: {labels: {causeway.role: server}}\n    ctl: {",
        Severity::Warning,
        "node-alone",
        "no link joins server 'lost' to anything",
        "",
    ),
];

#[test]
fn each_fault_is_found_at_its_place() {
    for (from, to, severity, rule, words, elsewhere) in CASES {
        let (text, line) = changed(from, to);
        let at = |piece: &str| text.lines().position(|l| l.contains(piece)).map(|i| i + 1);
        let line = if elsewhere.is_empty() { line } else { at(elsewhere).unwrap() };
        let report = report(&text);
        let all = render_all(&report.findings);
        let found = report.findings.iter().find(|d| d.rule == *rule && d.message.contains(words));
        let found = found.unwrap_or_else(|| panic!("no {rule} '{words}' in:\n{all}"));
        assert_eq!((found.severity, found.line), (*severity, line), "{words}:\n{all}");
        assert!(found.excerpt.contains('^') && found.column > 0, "{found}");
    }
}

/// [`GOOD`] with declared networks: `web` untagged, and with VLANs 10 and 20.
fn declared() -> String {
    GOOD.replacen(
        "defaults: {kind: linux",
        "defaults: {kind: linux, labels: {causeway.network.web: vni=10 vlan=10 mtu=1500, causeway.network.db: vni=20 vlan=20 mtu=1500}",
        1,
    )
    .replace("causeway.vni: 100", "causeway.untagged: web, causeway.tagged: db")
}

#[test]
fn circles_and_sizes_of_named_networks_are_found() {
    let good = report(&declared());
    let all = render_all(&good.findings);
    assert_eq!((good.count(Severity::Error), good.count(Severity::Warning)), (0, 0), "{all}");
    let second = r#"["leaf1:eth9", "leaf2:eth9"], mtu: 1500, labels: "#;
    let bridged = |links: &str| {
        let bridges =
            "  links:\n".replace("  links", "    b1: {kind: bridge}\n    b2: {kind: bridge}\n  links");
        declared().replacen("  links:\n", &format!("{bridges}{links}"), 1)
    };
    let link = |a: &str, b: &str, labels: &str| {
        format!("    - {{endpoints: [\"{a}\", \"{b}\"], mtu: 1500, labels: {{{labels}}}}}\n")
    };
    let at = |text: &str, rule: &str, words: &str| {
        let report = report(text);
        let found = report.findings.iter().find(|d| d.rule == rule && d.message.contains(words));
        found.map(|d| d.line).ok_or_else(|| render_all(&report.findings))
    };
    let line = |text: &str, piece: &str| text.lines().position(|l| l.contains(piece)).map(|i| i + 1).unwrap();
    for (labels, vni) in [
        ("{causeway.untagged: web}", 10),
        ("{causeway.tagged: 'web, db'}", 10),
        ("{causeway.tagged: 20}", 20),
    ] {
        let text = declared().replace(r#"["spine2:eth2", "leaf2:eth2"]"#, &format!("{second}{labels}"));
        let words = format!("leaf1:eth9 to leaf2:eth9 closes a circle in network {vni}");
        assert_eq!(at(&text, "l2-loop", &words), Ok(line(&text, "leaf1:eth9")));
    }
    // Two bridges with a network each of two leaves: no circle. With the same network at both ends: one.
    let apart = bridged(
        &(link("leaf1:eth7", "b1:e1", "causeway.tagged: web")
            + &link("leaf2:eth7", "b1:e2", "causeway.tagged: db")
            + &link("leaf1:eth8", "b2:e3", "causeway.tagged: web")
            + &link("leaf2:eth8", "b2:e4", "causeway.tagged: db")),
    );
    let apart = report(&apart);
    assert_eq!(apart.count(Severity::Error), 0, "{}", render_all(&apart.findings));
    let round = bridged(
        &(link("leaf1:eth7", "b1:e1", "causeway.tagged: all")
            + &link("leaf2:eth7", "b2:e2", "causeway.tagged: db")
            + &link("b1:e8", "b2:e9", "")),
    );
    assert_eq!(
        at(&round, "l2-loop", "b1:e8 to b2:e9 closes a circle in network 20"),
        Ok(line(&round, "b1:e8"))
    );
    // Sizes.
    let thin = declared().replace(r#""leaf2:eth2"]"#, r#""leaf2:eth2"], mtu: 1549"#);
    assert_eq!(
        at(&thin, "mtu-underlay", "network 10 sends 1500 bytes: with VXLAN over IPv4 it needs 1550"),
        Ok(line(&thin, "1549"))
    );
    let small = declared().replace(r#""bm2:eth1"], mtu: 1500"#, r#""bm2:eth1"], mtu: 1499"#);
    assert_eq!(
        at(&small, "mtu-access", "MTU of 1499, and network 'web' sends 1500"),
        Ok(line(&small, "1499"))
    );
    let large = declared().replace(r#""bm2:eth1"], mtu: 1500"#, r#""bm2:eth1"], mtu: 1501"#);
    assert_eq!(at(&large, "mtu-access", "a server sends up to 1501 bytes"), Ok(line(&large, "1501")));
}

/// [`declared`], and a server with links to both leaves.
fn dual(leaf: &str, first: &str, second: &str) -> String {
    let server = "  links:\n".replace(
        "  links",
        "    bm3: {labels: {causeway.role: server, causeway.mode: host, causeway.address: 10.9.0.3/24}}\n  links",
    );
    let link = |ends: &str, labels: &str| {
        format!(
            "    - {{endpoints: [{ends}], mtu: 1500, labels: {{causeway.untagged: web, causeway.tagged: db{labels}}}}}\n"
        )
    };
    let links = link("leaf1:eth9, bm3:eth1", first) + &link("leaf2:eth9, bm3:eth2", second);
    declared()
        .replacen("  links:\n", &format!("{server}{links}"), 1)
        .replace("causeway.role: leaf", &format!("causeway.role: leaf{leaf}"))
}

const ESI: &str = ", causeway.esi: '03:44:38:39:ff:ff:01:00:00:01'";
const PAIR: &str = ", causeway.anycast-vtep: 10.255.9.1";

/// Labels of the leaves and of both links of [`dual`], text to replace, replacement, words, text in the line at fault.
const WRONG_PAIRS: &[(&str, &str, &str, &str, &str, &str, &str)] = &[
    ("", ", causeway.esi: '03:44'", "", "", "", "ten bytes in hex", "bm3:eth1"),
    ("", ", causeway.esi: '00:00:00:00:00:00:00:00:00:00'", "", "", "", "reserved", "bm3:eth1"),
    ("", ESI, "", "", "", "of 'bm3' is at this link only", "bm3:eth1"),
    ("", "", ESI, "", "", "of 'bm3' is at this link only", "bm3:eth2"),
    ("", ESI, ESI, "leaf2:eth9", "leaf1:eth8", "lead to 'leaf1': they need two leaves", "bm3:eth2"),
    ("", ESI, ", causeway.esi: '03:44:38:39:ff:ff:01:00:00:02'", "", "", "both links need one", "bm3:eth2"),
    (PAIR, ESI, ESI, "", "", "share the anycast VTEP 10.255.9.1: choose one", "bm3:eth2"),
    (
        "",
        ESI,
        ESI,
        "bm3:eth2], mtu: 1500, labels: {causeway.untagged: web, ",
        "bm3:eth2], mtu: 1500, labels: {",
        "carry different networks",
        "bm3:eth2",
    ),
    (
        PAIR,
        "",
        "",
        "bm3:eth2], mtu: 1500, labels: {causeway.untagged: web, ",
        "bm3:eth2], mtu: 1500, labels: {",
        "carry different networks",
        "bm3:eth2",
    ),
    (
        "",
        "",
        "",
        "spine1:eth3\", \"ctl:eth1\"]",
        "spine1:eth3\", \"ctl:eth1\"], labels: {causeway.esi: '03:44:38:39:ff:ff:01:00:00:01'}",
        "causeway.esi needs networks",
        "ctl:eth1",
    ),
    (
        PAIR,
        "",
        "",
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.mode: tor-agent, ",
        "need one causeway.mode",
        "leaf2: {",
    ),
    (
        "",
        "",
        "",
        "leaf2: {labels: {",
        "leaf2: {labels: {causeway.anycast-vtep: 10.255.9.1, ",
        "is of no other leaf",
        "leaf2: {",
    ),
    (
        "",
        "",
        "",
        "spine1: {labels: {",
        "spine1: {labels: {causeway.anycast-vtep: 10.255.9.1, ",
        "belongs to a leaf, not to the spine",
        "spine1: {",
    ),
    (", causeway.anycast-vtep: 'fd00::1'", "", "", "", "", "must be of the family of its VTEP", "leaf1: {"),
    (", causeway.anycast-vtep: 10.255.0.1", "", "", "", "", "10.255.0.1 is given twice", "leaf1: {"),
    (", causeway.anycast-vtep: 10.254.0.1", "", "", "", "", "10.254.0.1 is given twice", "leaf1: {"),
    (
        PAIR,
        "",
        "",
        "    bm1: {",
        "    leaf3: {labels: {causeway.role: leaf, causeway.anycast-vtep: 10.255.9.1}}\n    bm1: {",
        "a pair has two leaves",
        "leaf3: {",
    ),
];

#[test]
fn pairs_and_segments_must_be_right() {
    for (leaf, first, second, from, to, words, piece) in WRONG_PAIRS {
        let good = dual(leaf, first, second);
        assert!(good.contains(from), "'{from}' is not in\n{good}");
        let text = if from.is_empty() { good } else { good.replacen(from, to, 1) };
        let report = report(&text);
        let all = render_all(&report.findings);
        let found =
            report.findings.iter().find(|d| d.severity == Severity::Error && d.message.contains(words));
        let line = text.lines().position(|l| l.contains(piece)).map(|i| i + 1);
        assert_eq!(found.map(|d| d.line), line, "{words}:\n{all}");
    }
    // Neither: the fabric would see the MAC move, and says so at the second link.
    let loose = report(&dual("", "", ""));
    let found: Vec<_> = loose.findings.iter().filter(|d| d.rule == "multihoming").collect();
    assert!(found.len() == 2 && found[0].severity == Severity::Warning, "{}", render_all(&loose.findings));
    assert!(found[0].message.contains("by 'leaf1' and by 'leaf2', which are no pair"), "{}", found[0]);
}

#[test]
fn pairs_and_segments_are_planned_rendered_and_drawn() {
    for (leaf, link, record) in
        [("", ESI, "esi: \"03:44:38:39:ff:ff:01:00:00:01\""), (PAIR, "", "anycast_vtep: \"10.255.9.1\"")]
    {
        let report = report(&dual(leaf, link, link));
        let all = render_all(&report.findings);
        assert_eq!((report.count(Severity::Error), report.count(Severity::Warning)), (0, 0), "{all}");
        let (lab, plan) = (report.lab.unwrap(), report.plan.unwrap());
        let records = render::records(&lab, &plan);
        let uplinks = "uplinks: [{interface: \"eth1\", switch: leaf1, switch_interface: \"eth9\"}, {interface: \"eth2\", switch: leaf2, switch_interface: \"eth9\"}]";
        let is_pair = link.is_empty();
        assert!(records.contains(uplinks), "{records}");
        assert_eq!(records.matches(record).count(), if is_pair { 2 } else { 1 }, "{records}");
        let frr = render::frr(&lab, &plan, "leaf2").unwrap();
        // The pair's address is on lo and announced; ESIs are not FRR's affair.
        assert_eq!(frr.matches("10.255.9.1/32").count(), if is_pair { 2 } else { 0 }, "{frr}");
        assert!(!frr.contains("es-id"), "{frr}");
        let setup = render::setup(&lab, &plan, "bm3").unwrap();
        for line in [
            "ip link set eth2 master bond0",
            "ip address add 10.9.0.3/24 dev bond0",
            "ip link add link bond0 name bond0.20 ",
        ] {
            assert!(setup.contains(line), "{setup}");
        }
        let words = if is_pair { "anycast VTEP 10.255.9.1" } else { "ESI 03:44:38:39:ff:ff:01:00:00:01" };
        for picture in [graph::mermaid(&lab), graph::dot(&lab)] {
            assert_eq!(picture.matches(words).count(), 2, "{picture}");
        }
        let words = words.replace(" VTEP", "");
        let drawn = graph::svg(&lab, Some(&plan)).matches(&words).count();
        assert_eq!(drawn, if is_pair { 2 } else { 1 });
    }
}

/// A switch with our agent, or a static one, gets no EVPN routes and sends none: nothing is lost there. It needs a way to
/// the tunnel ends all the same, and others to its own.
#[test]
fn switches_without_evpn_are_no_speakers() {
    for mode in ["tor-agent", "tor-static"] {
        let text = GOOD.replace("leaf2: {labels: {", &format!("leaf2: {{labels: {{causeway.mode: {mode}, "));
        let report = report(&text);
        assert_eq!(report.count(Severity::Error), 0, "{mode}:\n{}", render_all(&report.findings));
    }
    let split = GOOD
        .replace("causeway.role: spine", "causeway.role: spine, causeway.asn: 65100")
        .replace("leaf1: {labels: {", "leaf1: {labels: {causeway.asn: 65101, ")
        .replace("ctl: {labels: {", "ctl: {labels: {causeway.asn: 65102, ")
        .replace("leaf2: {labels: {", "leaf2: {labels: {causeway.asn: 65101, causeway.mode: tor-agent, ");
    let report = report(&split);
    let rules: Vec<&str> =
        report.findings.iter().filter(|d| d.severity == Severity::Error).map(|d| d.rule).collect();
    assert_eq!(rules, ["next-hop", "next-hop"], "{}", render_all(&report.findings));
}

#[test]
fn leaves_without_a_spine_are_refused() {
    let text = "name: x\ntopology:\n  nodes:\n    leaf1: {kind: linux}\n    bm1: {kind: linux}\n  links:\n    - {endpoints: [\"leaf1:eth1\", \"bm1:eth1\"], mtu: 1500, labels: {causeway.vni: 5}}\n";
    let report = report(text);
    let found = report.findings.iter().find(|d| d.rule == "leaf-no-spine").unwrap();
    assert_eq!((found.severity, found.line), (Severity::Error, 4), "{found}");
}

#[test]
fn one_spine_is_a_single_point_and_said_once() {
    let text: String = GOOD.lines().filter(|l| !l.contains("spine2")).map(|l| format!("{l}\n")).collect();
    let report = report(&text);
    let found: Vec<&str> =
        report.findings.iter().filter(|d| d.severity == Severity::Warning).map(|d| d.rule).collect();
    assert_eq!(found, ["single-point"], "{}", render_all(&report.findings));
}

/// Leaves of one AS behind spines of another drop each other's routes; an AS each is right.
#[test]
fn routes_that_never_arrive_are_found() {
    let spines = GOOD.replace("causeway.role: spine", "causeway.role: spine, causeway.asn: 65100");
    let found = report(&spines);
    let lost: Vec<_> = found.findings.iter().filter(|d| d.rule == "routes-lost").collect();
    assert!(
        lost.len() == 3 && lost[0].message.contains("'leaf1' never gets the EVPN routes of"),
        "{}",
        render_all(&found.findings)
    );
    assert!(lost[0].help.contains("causeway.asn of its own"), "{}", lost[0]);
    let right = spines
        .replace("leaf1: {labels: {", "leaf1: {labels: {causeway.asn: 65101, ")
        .replace("leaf2: {labels: {", "leaf2: {labels: {causeway.asn: 65102, ");
    let found = report(&right);
    assert_eq!(found.count(Severity::Error), 0, "{}", render_all(&found.findings));
}

#[test]
fn loopbacks_inside_of_links_are_found() {
    let text = GOOD.replace("leaf2: {labels: {", "leaf2: {labels: {causeway.loopback: 10.200.0.9, ").replace(
        r#"["spine2:eth2", "leaf2:eth2"]"#,
        r#"["spine2:eth2", "leaf2:eth2"], ipv4: [10.200.0.1/24, 10.200.0.2/24]"#,
    );
    let report = report(&text);
    let found = report.findings.iter().find(|d| d.rule == "subnet-overlap").unwrap();
    assert!(
        found.line == 8 && found.message.contains("the loopback 10.200.0.9 of node 'leaf2' is inside of"),
        "{found}"
    );
}

#[test]
fn parts_without_a_link_are_found() {
    let text = GOOD.replace(
        "  links:\n",
        "    x1: {}\n    x2: {}\n  links:\n    - {endpoints: [\"x1:eth1\", \"x2:eth1\"]}\n",
    );
    let report = report(&text);
    let found = report.findings.iter().find(|d| d.rule == "parts").unwrap();
    assert!(found.message.starts_with("x1 and x2 are linked to each other"), "{found}");
}

#[test]
fn configurations_are_held_against_each_other() {
    let spine = "router bgp 65000\n bgp router-id 10.255.0.1\n bgp graceful-restart\n neighbor 10.254.0.1 remote-as 65009\n neighbor 192.0.2.99 remote-as 65000\n";
    let leaf = "router bgp 65000\n bgp router-id 9.9.9.9\n neighbor 10.254.0.4 remote-as 65000\n";
    let report = report_with(GOOD, &[("spine1", spine), ("leaf1", leaf)]);
    let rules: Vec<(&str, Severity)> = report.findings.iter().map(|d| (d.rule, d.severity)).collect();
    for want in [
        ("bgp-as-mismatch", Severity::Error),
        ("bgp-peer-missing", Severity::Error),
        ("bgp-peer-unknown", Severity::Warning),
        ("graceful-restart", Severity::Warning),
        ("config-differs", Severity::Warning),
    ] {
        assert!(rules.contains(&want), "{want:?}:\n{}", render_all(&report.findings));
    }
}

#[test]
fn rules_are_sorted_and_unique() {
    assert!(RULES.windows(2).all(|w| w[0].id < w[1].id));
    assert!(RULES.iter().all(|r| r.text.ends_with('.')));
}
