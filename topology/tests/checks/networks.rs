//! Declared networks, and servers at two leaves.

use super::*;

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
        // The pair's address is on lo and announced.
        assert_eq!(frr.matches("10.255.9.1/32").count(), if is_pair { 2 } else { 0 }, "{frr}");
        // FRR knows segments of bonds: the port is in one, and the bond is what is bridged.
        let segment = "interface bond1\n description bm3:eth2\n evpn mh es-id 1\n evpn mh es-sys-mac 44:38:39:ff:ff:01\nexit\n";
        assert_eq!(frr.contains(segment), !is_pair, "{frr}");
        assert_eq!(frr.contains("evpn mh startup-delay 0"), !is_pair, "{frr}");
        let setup = render::setup(&lab, &plan, "leaf2").unwrap();
        let bridged = if is_pair { "eth9" } else { "bond1" };
        for line in [
            format!("link set {bridged} master br0 addrgenmode none"),
            format!("vlan add dev {bridged} vid 20\n"),
        ] {
            assert!(setup.contains(&line), "{setup}");
        }
        assert_eq!(setup.contains("link set eth9 master bond1"), !is_pair, "{setup}");
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
