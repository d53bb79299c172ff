use super::*;

fn read(text: &str) -> Result<Manifest, Rejected> {
    Manifest::read(vec![Source { name: "net.yaml".into(), text: text.into() }])
}

fn rejected(text: &str) -> String {
    read(text).unwrap_err().0.join("\n")
}

const GOOD: &str = "\
kind: Vrf
name: red
l3_vni: 50001
export_targets: [65000:50001]
---
kind: Network
vrf: red
name: web
vni: 10110
labels: {tier: front, rack: '7'}
---
kind: Subnet
vrf: red
network: web
prefix: 10.8.0.0/20
gateway: 10.8.0.1
ranges:
  - 10.8.1.0-10.8.1.255
---
kind: Node
name: host1
mode: host-vtep
vtep: 10.0.0.21
---
kind: Peer
address: 10.0.0.1
asn: 65000
passive: true
";

#[test]
fn all_kinds_are_read() {
    let resources = read(GOOD).unwrap().resources();
    let ids: Vec<_> = resources.iter().map(identity).collect();
    assert_eq!(
        ids,
        [
            ("vrf", "red".to_owned()),
            ("network", "red/web".to_owned()),
            ("subnet", "red/10.8.0.0/20".to_owned()),
            ("node", "host1".to_owned()),
            ("peer", "10.0.0.1".to_owned()),
        ]
    );
    let Some(v1::resource::Spec::Network(network)) = &resources[1].spec else { panic!("{resources:?}") };
    assert_eq!((network.vni, network.labels["rack"].as_str()), (10110, "7"));
}

#[test]
fn unknown_field_has_place_caret_and_suggestion() {
    insta::assert_snapshot!(rejected("kind: Network\nname: web\nvnni: 10110\n"), @r"
    net.yaml:3:1: unknown field 'vnni' of a Network; did you mean 'vni'?
       |
     3 | vnni: 10110
       | ^^^^
    ");
}

#[test]
fn every_problem_is_reported_at_once() {
    insta::assert_snapshot!(rejected("kind: Network\nname: web\nvni: abc\ncolour: red\n---\nkind: Netwrok\nname: x\n---\nname: y\n---\n- 5\n"), @r"
    net.yaml:3:6: field 'vni' wants a whole number, found 'abc'
       |
     3 | vni: abc
       |      ^^^
    net.yaml:4:1: unknown field 'colour' of a Network; known are vrf, name, vni, vlan, mtu, export_targets, import_targets, sticky_seconds, quarantine_seconds, labels, irb, gateway_mac, attachments, no_guard, address_check_ms
       |
     4 | colour: red
       | ^^^^^^
    net.yaml:6:7: unknown kind 'Netwrok'; did you mean 'Network'?; known are Vrf, Network, Subnet, Node, Peer
       |
     6 | kind: Netwrok
       |       ^^^^^^^
    net.yaml:9:1: field 'kind' is missing; it is one of Vrf, Network, Subnet, Node, Peer
       |
     9 | name: y
       | ^
    net.yaml:11:3: expected a record such as 'kind: Vrf', found a value
        |
     11 | - 5
        |   ^
    ");
}

#[test]
fn records_in_lists_have_places_too() {
    let text = "kind: Node\nname: h1\nmode: host\nuplinks:\n- {interface: eth1, switch: leaf1}\n- {interface: eth2, swich: leaf2}\n- eth3\n";
    insta::assert_snapshot!(rejected(text), @r"
    net.yaml:6:21: unknown field 'swich' of an entry of uplinks; did you mean 'switch'?
       |
     6 | - {interface: eth2, swich: leaf2}
       |                     ^^^^^
    net.yaml:7:3: field 'uplinks' wants {interface: eth1, switch: leaf1}, found a value
       |
     7 | - eth3
       |   ^^^^
    ");
    let good = "kind: Node\nname: h1\nmode: host\nuplinks:\n- interface: eth1\n  switch: leaf9\n";
    let manifest = read(good).unwrap();
    let excerpt = manifest.excerpts([("resources[0].node.uplinks[0].switch", "there is no node leaf9")]);
    insta::assert_snapshot!(excerpt.join("\n"), @r"
    net.yaml:6:11: uplinks[0].switch: there is no node leaf9
       |
     6 |   switch: leaf9
       |           ^^^^^
    ");
}

#[test]
fn wrong_types_are_refused() {
    for (text, want) in [
        ("kind: Vrf\nname: [a]\n", "2:7: field 'name' wants one value, found a list"),
        ("kind: Vrf\nname: a\nl3_vni: -1\n", "3:9: field 'l3_vni': -1 is not between 0 and 4294967295"),
        (
            "kind: Vrf\nname: a\nl3_vni: '7'\n",
            "3:9: field 'l3_vni' wants a number, this is text; write 7 without quotes",
        ),
        (
            "kind: Vrf\nname: a\nexport_targets: 1:2\n",
            "3:17: field 'export_targets' wants a list such as [A, B], found a value",
        ),
        (
            "kind: Peer\naddress: 10.0.0.1\npassive: yes\n",
            "3:10: field 'passive' is true or false, found 'yes'",
        ),
        ("kind: Network\nname: a\nlabels: x\n", "3:9: field 'labels' wants KEY: VALUE lines, found a value"),
        (
            "kind: Node\nname: a\nmode: host_vtep\n",
            "3:7: field 'mode': unknown 'host_vtep'; did you mean 'host-vtep'?",
        ),
    ] {
        let text = rejected(text);
        assert!(text.starts_with(&format!("net.yaml:{want}")), "{text}");
    }
}

#[test]
fn malformed_yaml_has_line_column_and_caret() {
    let text = rejected("kind: Vrf\nname: \"red\nl3_vni: 1\n");
    assert!(text.starts_with("net.yaml:"), "{text}");
    assert!(text.contains("malformed YAML: ") && text.contains('^'), "{text}");
    let text = rejected("kind: Vrf\n\tname: red\n");
    assert!(text.starts_with("net.yaml:2:1: malformed YAML: indented with a tab; use spaces\n"), "{text}");
}

#[test]
fn the_same_record_twice_says_where_it_was_first() {
    let text = rejected("kind: Vrf\nname: red\n---\nkind: Vrf\nname: red\n");
    assert!(text.starts_with("net.yaml:4:7: vrf red is given twice, first at net.yaml:1\n"), "{text}");
}

#[test]
fn violations_of_the_controller_find_their_line() {
    let manifest = read(GOOD).unwrap();
    let excerpt = |path: &str, reason: &str| manifest.excerpts([(path, reason)]).remove(0);
    insta::assert_snapshot!(excerpt("resources[1].network.vni", "is taken by network default/old"), @r"
    net.yaml:9:6: vni: is taken by network default/old
       |
     9 | vni: 10110
       |      ^^^^^
    ");
    insta::assert_snapshot!(excerpt("resources[2].subnet.ranges[0]", "is outside the prefix"), @r"
    net.yaml:18:5: ranges[0]: is outside the prefix
        |
     18 |   - 10.8.1.0-10.8.1.255
        |     ^^^^^^^^^^^^^^^^^^^
    ");
    let at = |path: &str| excerpt(path, "x").lines().next().unwrap().to_owned();
    assert_eq!(at("resources[1].network.labels[rack]"), "net.yaml:10:29: labels[rack]: x");
    assert_eq!(at("resources[1].network.labels.rack"), "net.yaml:10:29: labels.rack: x");
    assert_eq!(at("resources[4].peer.hold_seconds"), "net.yaml:25:7: hold_seconds: x");
    assert_eq!(at("resources[4]"), "net.yaml:25:7: x");
    for path in ["", "resources[5].vrf.name", "resources[", "resources[x].a", "dry_run"] {
        assert_eq!(excerpt(path, "x"), format!("  {path}: x"));
    }
}

#[test]
fn violations_are_in_the_order_of_the_text() {
    let manifest = read(GOOD).unwrap();
    let found = manifest.excerpts([
        ("dry_run", "a"),
        ("resources[4].peer.asn", "b"),
        ("resources[1].network.vni", "c"),
    ]);
    let starts: Vec<&str> = found.iter().filter_map(|t| t.lines().next()).collect();
    assert_eq!(starts, ["net.yaml:9:6: vni: c", "net.yaml:27:6: asn: b", "  dry_run: a"]);
}

#[test]
fn json_and_lists_are_read_too() {
    let manifest = read(r#"[{"kind": "Vrf", "name": "a"}, {"kind": "vrf", "name": "b"}]"#).unwrap();
    assert_eq!(manifest.resources().len(), 2);
}

#[test]
fn files_from_other_systems_are_read() {
    let manifest = read("\u{feff}kind: Vrf\r\nname: red\r\nl3_vni: 7\r\n").unwrap();
    let v1::Resource { spec: Some(v1::resource::Spec::Vrf(vrf)) } = &manifest.resources()[0] else {
        panic!()
    };
    assert_eq!((vrf.name.as_str(), vrf.l3_vni), ("red", 7));
    let text = rejected("kind: Vrf\r\nnmae: red\r\n");
    assert_eq!(
        text,
        "net.yaml:2:1: unknown field 'nmae' of a Vrf; did you mean 'name'?\n   |\n 2 | nmae: red\n   | ^^^^"
    );
}

#[test]
fn anchors_and_aliases_mean_what_they_say() {
    let manifest = read("kind: Vrf\nname: a\nexport_targets: &t [1:1]\nimport_targets: *t\n").unwrap();
    let Some(v1::resource::Spec::Vrf(vrf)) = &manifest.resources()[0].spec else { panic!() };
    assert_eq!(vrf.import_targets, ["1:1"]);
}

proptest::proptest! {
    /// A good manifest with some bytes replaced is read or refused with a place; nothing else happens.
    #[test]
    fn damaged_manifests_are_answered(damage in proptest::collection::vec((0..GOOD.len(), "[\\PC\\n\\t]"), 1..6)) {
        let mut chars: Vec<String> = GOOD.chars().map(String::from).collect();
        for (at, with) in damage {
            chars[at] = with;
        }
        match read(&chars.concat()) {
            Ok(manifest) => assert!(manifest.resources().len() <= 8),
            Err(Rejected(problems)) => {
                assert!(!problems.is_empty());
                for problem in problems {
                    assert!(problem.starts_with("net.yaml:"), "{problem}");
                }
            }
        }
    }
}
