//! Whatever the text: an answer, never a panic; and what is planned holds together.

use std::collections::BTreeSet;
use std::path::Path;

use causeway_topology::check::{self, RULES};
use causeway_topology::{LoadOptions, Severity, graph, parse, plan, render, render_all, split_command};
use proptest::prelude::*;

const CORPUS: [&str; 10] = [
    include_str!("corpus/everything.clab.yml"),
    include_str!("corpus/clos-ebgp.clab.yml"),
    include_str!("corpus/frr-ospf.clab.yml"),
    include_str!("corpus/generated.clab.yml"),
    include_str!("../../labs/quickstart/quickstart.clab.yml"),
    include_str!("../../labs/two-controllers/two-controllers.clab.yml"),
    include_str!("../../labs/tor-offload/tor-offload.clab.yml"),
    include_str!("../../labs/mixed-modes/mixed-modes.clab.yml"),
    include_str!("../../labs/vrf/vrf.clab.yml"),
    include_str!("../../labs/dual-stack/dual-stack.clab.yml"),
];

/// Reads, plans, renders and draws; an error must have a place inside the text.
fn digest(text: &str) {
    let mut options = LoadOptions::default();
    options.env.insert("V".into(), "value\nwith: lines".into());
    let lines = text.lines().count().max(1) + 1;
    let check = |findings: &[causeway_topology::Diagnostic]| {
        for d in findings {
            assert!(d.line <= lines && (d.line == 0) == (d.column == 0), "{d}");
            assert!(d.to_string().lines().count() <= 6 && !d.message.contains('\u{1b}'), "{d}");
        }
    };
    match parse(text, Path::new("/labs/x.clab.yml"), &options) {
        Err(errors) => {
            assert!(errors.iter().any(|e| e.severity == Severity::Error));
            check(&errors);
        }
        Ok(loaded) => {
            check(&loaded.warnings);
            // The text is also tried as the configuration of every node: it may be anything.
            let configs = loaded.lab.nodes.keys().map(|n| (n.clone(), text.to_owned())).collect();
            let report = check::lab(loaded.clone(), &configs);
            check(&report.findings);
            assert!(report.findings.iter().all(|d| RULES.iter().any(|r| r.id == d.rule)));
            assert_eq!(report.plan.is_none(), report.findings.iter().any(|d| d.rule == "fabric"));
            let lab = loaded.lab;
            let _ = (
                graph::mermaid(&lab),
                graph::dot(&lab),
                graph::svg(&lab, report.plan.as_ref()),
                graph::svg(&lab, None),
            );
            for node in lab.nodes.values() {
                assert!(node.exec.iter().all(|line| split_command(line).is_ok()));
            }
            match plan(&lab) {
                Ok(plan) => {
                    for node in lab.nodes.keys() {
                        let _ = (render::frr(&lab, &plan, node), render::setup(&lab, &plan, node));
                    }
                }
                Err(errors) => {
                    assert!(!errors.is_empty());
                    check(&errors);
                }
            }
        }
    }
}

#[test]
fn the_corpus_is_valid() {
    for text in CORPUS {
        let options = LoadOptions { home: Some("/home/me".into()), ..LoadOptions::default() };
        if let Err(errors) = parse(text, Path::new("/labs/x.clab.yml"), &options) {
            panic!("{}", render_all(&errors));
        }
        digest(text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        digest(&text);
    }

    #[test]
    fn any_yaml_like_text(text in "([a-z]{1,8}: ?|- |  |\n|\\$\\{?[A-Z]{0,2}[:+=-]{0,2}|\\}|[\\[\\]{}\"'&*!|>#%@,]|[0-9]{1,3}|\\{\\{|\t|é){0,60}") {
        digest(&text);
        digest(&format!("name: x\ntopology:\n  nodes:\n    n1: {{kind: linux}}\n  links:\n{text}"));
    }

    /// Bytes of valid files changed, dropped, doubled.
    #[test]
    fn mutated_files(file in 0..CORPUS.len(), edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6usize, "\\PC{1,3}"), 1..6)) {
        let mut text: Vec<char> = CORPUS[file].chars().collect();
        for (at, kind, insert) in edits {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = (at + 1 + insert.len()).min(text.len());
            match kind {
                0 => { text.splice(at..at, insert.chars()); }
                1 => { text.drain(at..end); }
                2 => { let part = text[at..end].to_vec(); text.splice(at..at, part); }
                3 => { text.truncate(at); }
                4 => { text.splice(at..end, insert.chars()); }
                _ => { text.splice(at..at, ['\n']); }
            }
        }
        digest(&text.into_iter().collect::<String>());
    }

    /// Every fabric of spines, leaves, hosts and servers is planned: addresses unique, sessions seen alike from both ends.
    #[test]
    fn plans_hold_together(spines in 1..4usize, leaves in 1..6usize, hosts in 0..3usize, servers in 0..3usize, ebgp: bool) {
        let mut nodes = String::new();
        let mut links = String::new();
        for s in 1..=spines { nodes += &format!("    spine{s}: {{kind: linux}}\n"); }
        for l in 1..=leaves {
            let asn = if ebgp { 65_000 + l } else { 65_000 };
            nodes += &format!("    leaf{l}: {{kind: linux, labels: {{causeway.asn: {asn}}}}}\n");
            for s in 1..=spines { links += &format!("    - endpoints: [spine{s}:eth{l}, leaf{l}:eth{s}]\n"); }
            for h in 1..=hosts {
                nodes += &format!("    host{l}x{h}: {{kind: linux}}\n");
                links += &format!("    - endpoints: [leaf{l}:h{h}, host{l}x{h}:eth1]\n");
            }
            for b in 1..=servers {
                nodes += &format!("    server{l}x{b}: {{kind: linux}}\n");
                links += &format!("    - {{endpoints: [leaf{l}:b{b}, server{l}x{b}:eth1], labels: {{causeway.vni: {b}}}}}\n");
            }
        }
        let text = format!("name: x\ntopology:\n  nodes:\n{nodes}  links:\n{links}");
        let lab = parse(&text, Path::new("x"), &LoadOptions::default()).map_err(|e| TestCaseError::fail(render_all(&e)))?.lab;
        let plan = plan(&lab).map_err(|e| TestCaseError::fail(render_all(&e)))?;
        let mut seen = BTreeSet::new();
        for (name, node) in &plan.nodes {
            for address in node.interfaces.iter().filter_map(|i| i.address.map(|a| a.ip())).chain(node.loopback) {
                prop_assert!(seen.insert(address), "{address} twice");
            }
            for session in &node.bgp {
                let back = plan.nodes[&session.node].bgp.iter().filter(|b| b.address == session.local_address && b.local_address == session.address);
                prop_assert_eq!(back.map(|b| (b.node.as_str(), b.remote_as)).collect::<Vec<_>>(), vec![(name.as_str(), node.asn.unwrap_or(0))]);
            }
            let uplinks = if name.starts_with("leaf") { spines } else if name.starts_with("spine") { leaves } else { 0 };
            prop_assert_eq!(node.bgp.len(), uplinks);
            // Every host is announced by its leaf.
            if let Some(vtep) = node.vtep {
                let announced = plan.nodes.values().flat_map(|n| &n.networks).filter(|n| n.ip() == vtep).count();
                prop_assert_eq!(announced, 1, "{} of {}", vtep, name);
            }
        }
    }
}
