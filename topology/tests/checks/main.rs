//! What `topology check` finds, and where: one small file per rule, each with the line that is at fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers")]

use std::collections::BTreeMap;
use std::path::Path;

use causeway_topology::check::{self, RULES, Report};
use causeway_topology::{LoadOptions, Severity, graph, parse, render, render_all};

mod cases;
mod networks;

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
