//! Pictures hold together at every size: no box on another, no line through a box, no name on a name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers")]

use std::path::Path;

use causeway_topology::check::{self, RULES};
use causeway_topology::new::{HostMode, Shape, fabric};
use causeway_topology::{LoadOptions, Severity, graph, parse, plan, render_all};
use proptest::prelude::*;

/// Left, top, right, bottom.
type Box = (i32, i32, i32, i32);

fn attribute(line: &str, name: &str) -> Option<i32> {
    let from = line.find(&format!(" {name}=\""))? + name.len() + 3;
    line[from..].split('"').next()?.parse().ok()
}

fn boxes(svg: &str) -> Vec<Box> {
    let of = |l: &str| {
        let l = &l[l.find("<rect")?..];
        let (x, y) = (attribute(l, "x")?, attribute(l, "y")?);
        Some((x, y, x + attribute(l, "width")?, y + attribute(l, "height")?))
    };
    svg.lines().filter(|l| l.starts_with("<g>")).filter_map(of).collect()
}

/// The names at link ends, as wide as they are at most.
fn words(svg: &str) -> Vec<Box> {
    let of = |l: &str| {
        let (x, y) = (attribute(l, "x")?, attribute(l, "y")?);
        let text = l.split_once('>')?.1.strip_suffix("</text>")?;
        let half = i32::try_from(text.chars().count()).ok()? * 5 / 2;
        Some((x - half, y - 7, x + half, y + 1))
    };
    svg.lines().filter(|l| l.contains("class=\"p\"")).filter_map(of).collect()
}

/// The straight pieces of all lines but those of the legend.
fn pieces(svg: &str) -> Vec<((i32, i32), (i32, i32))> {
    let mut all = Vec::new();
    let paths =
        svg.lines().take_while(|l| !l.starts_with("<g>")).filter_map(|l| l.strip_prefix("<path d=\""));
    for d in paths.map(|l| l.split('"').next().unwrap()) {
        let mut at = (0, 0);
        let marks: Vec<usize> = d.char_indices().filter(|(_, c)| c.is_alphabetic()).map(|(i, _)| i).collect();
        for (n, start) in marks.iter().enumerate() {
            let end = marks.get(n + 1).copied().unwrap_or(d.len());
            let numbers: Vec<i32> = d[start + 1..end].split(' ').map(|n| n.parse().unwrap()).collect();
            let to = match (&d[*start..=*start], numbers.as_slice()) {
                ("M" | "L", [x, y]) => (*x, *y),
                ("H", [x]) => (*x, at.1),
                ("V", [y]) => (at.0, *y),
                other => panic!("{other:?}"),
            };
            if n > 0 {
                all.push((at, to));
            }
            at = to;
        }
    }
    all
}

fn overlap(a: &Box, b: &Box) -> bool {
    a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3
}

/// True if the piece comes into the box by more than a pixel. Points of the piece, close to each other, are tried.
fn crosses((from, to): ((i32, i32), (i32, i32)), b: &Box) -> bool {
    let steps = (from.0 - to.0).abs().max((from.1 - to.1).abs()).max(1);
    (0..=steps).any(|n| {
        let (x, y) = (from.0 + (to.0 - from.0) * n / steps, from.1 + (to.1 - from.1) * n / steps);
        x > b.0 + 1 && x < b.2 - 1 && y > b.1 + 1 && y < b.3 - 1
    })
}

/// Draws the file; says what is wrong with the picture.
fn examine(text: &str) -> Result<String, String> {
    let lab =
        parse(text, Path::new("/labs/x.clab.yml"), &LoadOptions::default()).map_err(|e| render_all(&e))?.lab;
    let plan = plan(&lab).map_err(|e| render_all(&e))?;
    let svg = graph::svg(&lab, Some(&plan));
    assert_eq!(svg, graph::svg(&lab, Some(&plan)));
    let (boxes, words, pieces) = (boxes(&svg), words(&svg), pieces(&svg));
    if boxes.len() != lab.nodes.len() || pieces.is_empty() != lab.links.is_empty() {
        return Err(format!("{} boxes for {} nodes, {} pieces", boxes.len(), lab.nodes.len(), pieces.len()));
    }
    for all in [&boxes, &words] {
        for (n, a) in all.iter().enumerate() {
            if let Some(b) = all.iter().skip(n + 1).find(|b| overlap(a, b)) {
                return Err(format!("{a:?} is on {b:?}"));
            }
        }
    }
    for b in &boxes {
        if let Some(piece) = pieces.iter().find(|p| crosses(**p, b)) {
            return Err(format!("{piece:?} goes through {b:?}"));
        }
        if let Some(word) = words.iter().find(|w| overlap(w, b)) {
            return Err(format!("{word:?} is on the box {b:?}"));
        }
    }
    Ok(svg)
}

fn shape(spines: usize, leaves: usize, hosts: usize, borders: usize, vpcs: usize, mode: HostMode) -> Shape {
    Shape { name: "lab".into(), spines, leaves, hosts, borders, vpcs, mode }
}

#[test]
fn pictures_of_the_labs_are_clear() {
    for text in [
        include_str!("corpus/clos-ebgp.clab.yml"),
        include_str!("../../labs/quickstart/quickstart.clab.yml"),
        include_str!("../../labs/two-controllers/two-controllers.clab.yml"),
    ] {
        examine(text).unwrap();
    }
    let forty = fabric(&shape(4, 6, 28, 1, 1, HostMode::TorEvpn)).unwrap();
    let svg = examine(&forty.topology).unwrap();
    // Both ends of 30 links between switches, one for each link to a column.
    assert_eq!((boxes(&svg).len(), words(&svg).len()), (41, 2 * 30 + 29));
    assert!(svg.contains("VTEP 10.255.0.5") && svg.contains("AS 65000"), "{svg}");
}

/// Servers at two leaves, a ring of routers without roles, a link past a row.
#[test]
fn odd_cabling_is_drawn_clearly() {
    let node = |n: &str| format!("    {n}: {{kind: linux}}\n");
    let link = |a: &str, b: &str| format!("    - endpoints: [\"{a}\", \"{b}\"]\n");
    let file = |nodes: &[&str], links: &[(&str, &str)]| {
        let nodes: String = nodes.iter().map(|n| node(n)).collect();
        let links: String = links.iter().map(|(a, b)| link(a, b)).collect();
        format!("name: odd\ntopology:\n  nodes:\n{nodes}  links:\n{links}")
    };
    let dual = file(
        &["spine1", "leaf1", "leaf2", "leaf3", "server1", "server2", "server3", "x1", "x2"],
        &[
            ("spine1:e1", "leaf1:e1"),
            ("spine1:e2", "leaf2:e1"),
            ("spine1:e3", "leaf3:e1"),
            ("leaf1:e2", "server1:e1"),
            ("leaf2:e2", "server1:e2"),
            ("leaf1:e3", "server2:e1"),
            ("leaf3:e2", "server2:e2"),
            ("leaf2:e3", "server3:e1"),
            ("leaf3:e3", "server3:e2"),
            ("leaf1:e4", "server3:e3"),
            ("leaf1:e5", "leaf3:e4"),
            ("leaf1:e6", "leaf2:e4"),
            ("server3:e9", "x1:e1"),
            ("spine1:e4", "server2:e3"),
            ("x1:e2", "server1:e3"),
        ],
    );
    examine(&dual).unwrap();
    let ring = file(
        &["router1", "router2", "router3", "PC1", "PC2", "PC3"],
        &[
            ("router1:eth1", "router2:eth1"),
            ("router1:eth2", "router3:eth1"),
            ("router2:eth2", "router3:eth2"),
            ("PC1:eth1", "router1:eth3"),
            ("PC2:eth1", "router2:eth3"),
            ("PC3:eth1", "router3:eth3"),
        ],
    );
    examine(&ring).unwrap();
}

/// Mermaid's rules for flow charts, as far as they concern what is written: identifiers that are no keywords, text in
/// quotes without quotes, each node once, each link between two identifiers.
fn examine_mermaid(text: &str, nodes: usize, links: usize) -> Result<(), String> {
    fn identifier(word: &str) -> bool {
        let (letters, digits) = word.split_at(word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len()));
        let reserved =
            ["end", "graph", "subgraph", "style", "class", "click", "default", "linkstyle", "flowchart"];
        !letters.is_empty()
            && letters.chars().all(|c| c.is_ascii_lowercase())
            && digits.chars().all(|c| c.is_ascii_digit())
            && !reserved.contains(&letters)
    }
    // Entity codes and line breaks aside, nothing may be left that means something.
    fn plain(quoted: &str) -> bool {
        let mut rest = quoted.replace("<br/>", " ");
        while let Some(at) = rest.find('#') {
            let Some(end) = rest[at..].find(';').filter(|end| rest[at + 1..at + end].parse::<u32>().is_ok())
            else {
                return false;
            };
            rest.replace_range(at..=at + end, "");
        }
        !quoted.is_empty() && !rest.contains(['"', '#', ';', '`', '|', '<', '>', '&', '\n', '\\'])
    }
    let mut lines = text.lines();
    let head: Vec<&str> = lines.by_ref().take(4).collect();
    let [first, title, third, kind] = head.as_slice() else { return Err("no head".into()) };
    if (*first, *third, *kind) != ("---", "---", "graph TD")
        || !title.starts_with("title: \"")
        || !title.ends_with('"')
    {
        return Err(format!("{head:?}"));
    }
    let (mut known, mut joined) = (std::collections::BTreeSet::new(), 0);
    for line in lines {
        let body = line.strip_prefix("  ").ok_or(line)?;
        if let Some((a, rest)) = body.split_once(" ---|\"") {
            let (caption, b) = rest.split_once("\"| ").ok_or(line)?;
            let both = [a, b].iter().all(|id| {
                identifier(id) && (known.contains(*id) || !id.starts_with('n') || *id == "nothing")
            });
            if !both || !plain(caption) {
                return Err(line.to_owned());
            }
            joined += 1;
        } else {
            let (id, rest) = body.split_once("[\"").ok_or(line)?;
            let label = rest.strip_suffix("\"]").ok_or(line)?;
            if !identifier(id) || !plain(label) || !known.insert(id) {
                return Err(line.to_owned());
            }
        }
    }
    if (known.len(), joined) == (nodes, links) {
        Ok(())
    } else {
        Err(format!("{} nodes, {joined} links", known.len()))
    }
}

#[test]
fn mermaid_can_read_what_is_written() {
    let odd = "name: odd\ntopology:\n  nodes:\n    end: {kind: linux}\n    \"a|b\": {kind: bridge}\n    x: {kind: linux}\n  links:\n    - endpoints: [\"end:e;1\", \"x:e#2\"]\n    - {type: dummy, endpoint: {node: x, interface: d1}}\n    - {type: host, endpoint: {node: x, interface: e3}, host-interface: v1}\n";
    for text in [
        include_str!("../../labs/tor-offload/tor-offload.clab.yml"),
        include_str!("../../labs/scale-40/scale-40.clab.yml"),
        include_str!("corpus/clos-ebgp.clab.yml"),
        odd,
    ] {
        let lab = parse(text, Path::new("/labs/x.clab.yml"), &LoadOptions::default())
            .map_err(|e| render_all(&e))
            .unwrap()
            .lab;
        let written = graph::mermaid(&lab);
        examine_mermaid(&written, lab.nodes.len(), lab.links.len())
            .unwrap_or_else(|line| panic!("{line} in\n{written}"));
    }
    // And the rules see what is wrong.
    let good = "---\ntitle: \"x\"\n---\ngraph TD\n  n0[\"a\"]\n  n1[\"b\"]\n  n0 ---|\"e1 - e2\"| n1\n";
    assert_eq!(examine_mermaid(good, 2, 1), Ok(()));
    for (from, to) in [
        ("\"a\"", "\"a\"\""),
        ("e1", "e|1"),
        ("| n1", "| n7"),
        ("n1[", "end["),
        ("\"b\"", "\"b#\""),
        ("| n1", "|n1"),
    ] {
        assert!(examine_mermaid(&good.replacen(from, to, 1), 2, 1).is_err(), "{to}");
    }
}

#[test]
fn nonsense_is_refused_with_words() {
    let ok = shape(2, 2, 2, 1, 1, HostMode::TorEvpn);
    let bad = [
        (Shape { leaves: 0, ..ok.clone() }, "2 hosts and no leaf"),
        (Shape { leaves: 0, hosts: 0, borders: 0, vpcs: 0, ..ok.clone() }, "at least one leaf"),
        (Shape { spines: 0, ..ok.clone() }, "no spine"),
        (Shape { borders: 0, ..ok.clone() }, "1 VPCs and no border"),
        (Shape { hosts: usize::MAX, ..ok.clone() }, "more than 1000 nodes"),
        (Shape { name: "../x".into(), ..ok.clone() }, "the name needs"),
    ];
    for (shape, words) in bad {
        let error = fabric(&shape).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// Switches that do not speak EVPN: what they need is rendered, and the controller is told of every server.
#[test]
fn leaves_without_evpn_are_rendered_and_their_servers_named() {
    for (mode, word) in [(HostMode::TorAgent, "tor-agent"), (HostMode::TorStatic, "tor-static")] {
        let made = fabric(&shape(2, 2, 3, 1, 0, mode)).unwrap();
        let records = &made.files["resources.yaml"];
        for leaf in ["leaf1", "leaf2"] {
            assert!(records.contains(&format!("name: {leaf}\nmode: {word}\n")), "{records}");
            // The underlay only: no EVPN of its own.
            let frr = &made.files[&format!("configs/{leaf}/frr.conf")];
            assert!(!frr.contains("l2vpn evpn"), "{frr}");
        }
        assert!(records.contains("name: border1\nmode: tor-evpn\n"), "{records}");
        // The agent makes the bridge itself; a static switch has all of it in its script.
        let setup = made.files.get("configs/leaf1/setup.sh").map_or("", String::as_str);
        assert_eq!(setup.contains("type vxlan"), mode == HostMode::TorStatic, "{setup}");
        let ports = &made.files["ports.sh"];
        // The servers' addresses are to be had, by their ports.
        assert!(!records.contains("exclusions"), "{records}");
        assert!(made.topology.contains("ports.sh:/etc/causeway/ports.sh:ro"), "{}", made.topology);
        let loaded = parse(&made.topology, Path::new("/labs/x.clab.yml"), &LoadOptions::default()).unwrap();
        let plan = causeway_topology::plan(&loaded.lab).unwrap();
        for host in ["host1", "host2", "host3"] {
            let own = &plan.nodes[host].interfaces[0];
            let (leaf, interface) = own.peer.clone().unwrap();
            let link = &loaded.lab.links[own.link];
            let mac = link.b.as_ref().unwrap().mac.unwrap();
            let line = ports.lines().find(|line| line.contains(&format!(" web/{host} "))).unwrap();
            for part in [
                format!("--mac {mac}"),
                format!("--bind-node {leaf} --interface {interface} --workload bare-metal"),
            ] {
                assert!(line.contains(&part), "{line} lacks {part}");
            }
            for address in &loaded.lab.nodes[host].causeway.addresses {
                assert!(line.contains(&format!("--address {} ", address.ip())), "{line} lacks {address}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the size: the file has no errors, with two spines no warnings, and its picture is clear.
    #[test]
    fn new_fabrics_are_right(spines in 1usize..5, leaves in 1usize..9, hosts in 0usize..45, borders in 0usize..3, vpcs in 0usize..3, mode in 0usize..4) {
        let mode = [HostMode::TorEvpn, HostMode::TorAgent, HostMode::TorStatic, HostMode::HostVtep][mode];
        let made = fabric(&shape(spines, leaves, hosts, borders, if borders == 0 { 0 } else { vpcs }, mode)).unwrap();
        let loaded = parse(&made.topology, Path::new("/labs/x.clab.yml"), &LoadOptions::default()).unwrap();
        let configs = made.files.iter().filter_map(|(p, t)| Some((p.strip_prefix("configs/")?.strip_suffix("/frr.conf")?.to_owned(), t.clone())));
        let report = check::lab(loaded, &configs.collect());
        prop_assert_eq!(report.count(Severity::Error), 0, "{}", render_all(&report.findings));
        prop_assert!(spines == 1 || report.count(Severity::Warning) == 0, "{}", render_all(&report.findings));
        prop_assert!(report.findings.iter().all(|d| RULES.iter().any(|r| r.id == d.rule)));
        if let Err(fault) = examine(&made.topology) {
            prop_assert!(false, "{}", fault);
        }
    }
}
