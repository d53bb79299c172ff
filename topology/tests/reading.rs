//! What topology files mean, and what is said about wrong ones.

use std::path::Path;

use causeway_topology::{
    Bind, LinkKind, LoadOptions, Loaded, Phase, Role, Severity, StageName, Target, load, parse, render_all,
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const EVERYTHING: &str = include_str!("corpus/everything.clab.yml");

fn read(text: &str) -> Result<Loaded> {
    let options = LoadOptions { home: Some("/home/me".into()), ..LoadOptions::default() };
    Ok(parse(text, Path::new("/labs/x.clab.yml"), &options).map_err(|e| render_all(&e))?)
}

/// A lab of two nodes, with `more` at the end of the nodes.
fn two(more: &str, links: &str) -> String {
    format!(
        "name: x\ntopology:\n  nodes:\n    n1: {{kind: linux}}\n    n2: {{kind: linux}}\n{more}  links:\n{links}"
    )
}

fn wrong(text: &str) -> String {
    match parse(text, Path::new("x.clab.yml"), &LoadOptions::default()) {
        Err(errors) => {
            assert!(errors.iter().any(|e| e.severity == Severity::Error), "an Err without an error");
            render_all(&errors)
        }
        Ok(loaded) => format!("accepted\n{}", render_all(&loaded.warnings)),
    }
}

#[test]
fn every_key_is_accepted_and_what_is_ignored_is_said() -> Result {
    insta::assert_snapshot!(render_all(&read(EVERYTHING)?.warnings));
    Ok(())
}

#[test]
fn inheritance_merges_maps_and_lists_and_overrides_scalars() -> Result {
    let lab = read(EVERYTHING)?.lab;
    let (n1, n4) = (&lab.nodes["n1"], &lab.nodes["n4"]);
    assert_eq!((n1.image.as_deref(), n4.image.as_deref()), (Some("alpine:3"), Some("kind")));
    assert_eq!(n4.exec, ["echo defaults", "echo shared", "echo kind", "echo group"]);
    let env =
        |node: &causeway_topology::Node| node.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
    assert_eq!(env(n4), ["A=defaults", "B=kind", "C=group", "D=0x10", "EMPTY="]);
    assert_eq!(env(n1), ["A=defaults", "B=kind", "C=group", "D=node", "EMPTY="]);
    assert_eq!(n1.sysctls["net.ipv4.ip_forward"], "0");
    assert_eq!((n1.startup_delay, n4.startup_delay), (0, 3));
    assert_eq!(
        (n1.kind.as_str(), n4.kind.as_str(), lab.nodes["n3"].kind.as_str()),
        ("linux", "linux", "nokia_srlinux")
    );
    assert_eq!((n1.role, n1.causeway.asn, n4.role), (Role::Leaf, Some(65010), Role::Other));
    assert_eq!(n1.labels["owner"], "me");
    Ok(())
}

#[test]
fn variables_and_paths_are_expanded() -> Result {
    let lab = read(EVERYTHING)?.lab;
    assert_eq!(lab.name, "everything-none");
    assert_eq!(lab.container_name("n1"), "everything-none-n1");
    assert_eq!(lab.lab_dir(), Path::new("/labs/clab-everything-none"));
    let n1 = &lab.nodes["n1"];
    assert_eq!(n1.exec.last().map(String::as_str), Some("sh -c 'echo \"$HOME\" > /tmp/n1 && ls \"a b\"'"));
    let bind = |source: &str, target: &str, read_only| Bind {
        source: source.into(),
        target: target.into(),
        read_only,
    };
    assert_eq!(
        n1.binds,
        [
            bind("/etc/hosts", "/etc/hosts", true),
            bind("/labs/data", "/data", false),
            bind("/home/me/x", "/x", false),
            bind("/labs/clab-everything-none/n1/y", "/y", false),
        ]
    );
    assert_eq!(n1.startup_config.as_deref(), Some(Path::new("/labs/cfg/n1.cfg")));
    assert_eq!(n1.entrypoint.as_deref(), Some(["/bin/sh".to_owned(), "-c".to_owned()].as_slice()));
    assert_eq!(n1.hostname, "first");
    let create = &n1.stages[&StageName::Create];
    assert_eq!((create.wait_for[0].node.as_str(), create.wait_for[0].stage), ("n2", StageName::Healthy));
    assert_eq!((create.exec[0].target, create.exec[0].phase), (Target::Host, Phase::OnExit));
    assert_eq!(n1.stages[&StageName::Configure].exec[0].command, "echo n1");
    let check = n1.healthcheck.as_ref().ok_or("no healthcheck")?;
    assert_eq!((check.test.len(), check.interval, check.retries), (3, 5, 1));
    Ok(())
}

#[test]
fn links_of_every_kind() -> Result {
    let lab = read(EVERYTHING)?.lab;
    let all: Vec<String> = lab
        .links
        .iter()
        .map(|l| {
            let b = l.b.as_ref().map(|b| format!(" {}:{}", b.node, b.interface)).unwrap_or_default();
            format!("{}:{}{b} {} {:?}", l.a.node, l.a.interface, l.mtu, l.kind)
        })
        .collect();
    insta::assert_snapshot!(all.join("\n"));
    let first = &lab.links[0];
    let b = first.b.as_ref().ok_or("no second end")?;
    assert_eq!(first.a.ipv4.map(|a| a.to_string()).as_deref(), Some("10.0.0.1/24"));
    assert_eq!((first.a.ipv6, b.ipv4, b.ipv6.map(|a| a.prefix())), (None, None, Some(64)));
    assert_eq!(lab.links[7].a.mac.map(|m| m.to_string()).as_deref(), Some("02:00:00:00:00:01"));
    assert!(
        matches!(lab.links[11].kind, LinkKind::Dummy) && !lab.links[11].causeway.underlay.unwrap_or(true)
    );
    Ok(())
}

#[test]
fn kind_and_group_give_each_other() -> Result {
    let text = "name: x\ntopology:\n  defaults: {kind: linux, group: d}\n  kinds:\n    bridge: {group: k, type: from-kind}\n  groups:\n    d: {kind: bridge}\n    g: {kind: host, type: from-group}\n  nodes:\n    by-default: {image: a}\n    by-group: {group: g}\n    by-kind: {kind: linux}\n";
    let lab = read(text)?.lab;
    let of = |name: &str| {
        let node = &lab.nodes[name];
        (
            node.kind.clone(),
            node.group.clone().unwrap_or_default(),
            node.node_type.clone().unwrap_or_default(),
        )
    };
    let want = |kind: &str, group: &str, of: &str| (kind.to_owned(), group.to_owned(), of.to_owned());
    assert_eq!(of("by-default"), want("bridge", "k", "from-kind"));
    assert_eq!(of("by-group"), want("host", "g", "from-group"));
    assert_eq!(of("by-kind"), want("linux", "d", ""));
    Ok(())
}

#[test]
fn names_follow_the_prefix() -> Result {
    for (prefix, want) in [
        ("", "clab-x-n1"),
        ("prefix: \"\"\n", "n1"),
        ("prefix: __lab-name\n", "x-n1"),
        ("prefix: me\n", "me-x-n1"),
    ] {
        let lab = read(&format!("{prefix}{}", two("", "")))?.lab;
        assert_eq!(lab.container_name("n1"), want);
    }
    Ok(())
}

#[test]
fn wrong_shapes_and_keys() {
    insta::assert_snapshot!("empty", wrong("# nothing\n"));
    insta::assert_snapshot!("not-a-mapping", wrong("- a\n"));
    insta::assert_snapshot!("nothing-required", wrong("prefix: p\n"));
    insta::assert_snapshot!("unknown-keys", wrong(&two("    n3: {kind: linux, imgae: x, x-causeway: {}}\n    n4: [a]\n    n5: {exec: {a: b}, image: [c]}\n", "    - {endpoint: [\"n1:eth1\", \"n2:eth1\"]}\n") .replace("name: x", "name: x\ntoplogy: {}")));
    insta::assert_snapshot!(
        "template",
        wrong("name: x\ntopology:\n  # {{ fine }}\n  nodes:\n{{ range . }}\n")
    );
    insta::assert_snapshot!("brace", wrong("name: ${NAME\n"));
    insta::assert_snapshot!(
        "yaml",
        wrong("name: x\ntopology:\n  nodes:\n    n1: {kind: linux\n  links: []\n")
    );
    insta::assert_snapshot!(
        "names",
        wrong("name: ../x\ntopology:\n  nodes:\n    a/b: {kind: linux}\n    .x: {kind: linux}\n")
    );
}

#[test]
fn wrong_labels() {
    let labels = "    n3:\n      kind: linux\n      labels:\n        causeway.rol: leaf\n        causeway.role: leef\n        causeway.asn: 0\n        causeway.loopback: 10.0.0\n        causeway.vni: 100,16777216\n        causeway.address: 10.0.0.1\n        causeway.rr: yes\n        causeway.link-pool: 10.0.0.1/16\n        causeway.underlay: false\n        causway.role: leaf\n";
    let links = "    - endpoints: [n1:eth1, n2:eth1]\n      labels: {causeway.vni: 0, causeway.asn: 65000}\n    - endpoints: [n1:eth2, n2:eth2]\n      labels: {causeway.vni: 7, causeway.underlay: true}\n";
    insta::assert_snapshot!(wrong(&two(labels, links)));
}

#[test]
fn wrong_links() {
    let links = [
        "{endpoints: [n1:eth1, n9:eth1]}",
        "{endpoints: [n1:eth1, n2:eth1]}",
        "{type: veth, endpoints: [{node: n1, interface: eth16, mac: '01:00:00:00:00:01'}, {node: n2, interface: eth16}]}",
        "{endpoints: [n1:eth0, n2:eth2]}",
        "{endpoints: [n1:eth3]}",
        "{endpoints: [n1, n2:eth3]}",
        "{endpoints: [host:a, host:b]}",
        "{endpoints: [n1:eth4, host:sixteen-bytes-xx]}",
        "{endpoints: [n1:eth5, host:same]}",
        "{endpoints: [n2:eth5, host:same]}",
        "{endpoints: [n1:eth6, n2:eth6], mtu: 67}",
        "{endpoints: [n1:eth7, n2:eth7], ipv4: [10.0.0.1/24, 10.0.0.2/24, 10.0.0.3/24]}",
        "{endpoints: [n1:eth8, n2:eth8], ipv4: [\"fd00::1/64\"], ipv6: [10.0.0.1/24]}",
        "{endpoints: [n1:eth9, n1:eth10]}",
        "{type: vteh, endpoints: []}",
        "{type: vxlan, endpoint: {node: n1, interface: eth11}, remote: here, vni: 0, dst-port: 70000}",
        "{type: macvlan, endpoint: {node: n1, interface: eth12}, host-interface: e, mode: brigde}",
        "{type: veth, endpoints: [n1:eth13, n2:eth13]}",
        "{type: veth, endpoints: [{node: n1, interface: eth14, mac: 02:00}, {node: n2}]}",
        "{type: host, endpoint: {node: n1, interface: eth15}}",
        "{endpoints: [n1:an-interface-name-too-long, n2:lo]}",
        "n1:eth1 - n2:eth1",
    ];
    let text: String = links.iter().map(|l| format!("    - {l}\n")).collect();
    insta::assert_snapshot!(wrong(&two("", &text)));
}

#[test]
fn wrong_nodes() {
    let nodes = "    n3:\n      kind: linux\n      exec: ['sh -c \"open', '']\n      binds: ['a:b', ':/x', 'a:/b:xo', 'a:/b:ro:c', 'a:/../b', '~/x:/x']\n      startup-delay: soon\n      network-mode: bridged\n      hostname: a b\n      cmd: \"it's\"\n      startup-config: https://a/b\n      healthcheck: {test: [ls], interval: x}\n      env: {'a=b': c}\n      stages:\n        creat: {}\n        create: {wait-for: [{node: n4, stage: create}, {node: nx, stage: helathy}, {}], exec: [{phase: now}]}\n    n4:\n      kind: linux\n      stages: {create: {wait-for: [{node: n3, stage: exit}]}}\n";
    insta::assert_snapshot!(wrong(&two(nodes, "")));
}

#[test]
fn places_are_those_of_the_author_after_expansion() -> Result {
    let mut options = LoadOptions::default();
    options.env.insert("WIDE".into(), "linux, image: a-very-long-name".into());
    let text = "name: x\ntopology:\n  nodes:\n    n1: {kind: ${WIDE}, colour: red}\n";
    let errors = parse(text, Path::new("x.clab.yml"), &options).err().ok_or("accepted")?;
    assert_eq!((errors[0].line, errors[0].column), (4, 25), "{}", render_all(&errors));
    assert!(errors[0].excerpt.contains("n1: {kind: ${WIDE}, colour: red}"));
    Ok(())
}

#[test]
fn unset_variables_are_said() -> Result {
    let loaded = read(
        "name: x\ntopology:\n  nodes:\n    n1: {kind: linux, image: \"${FRR}\", exec: ['echo $$OK']}\n",
    )?;
    let all: Vec<_> = loaded.warnings.iter().map(|w| (w.line, w.column, w.message.clone())).collect();
    assert_eq!(all, [(4, 31, "variable 'FRR' is not set and has no default: it stays as it is".to_owned())]);
    assert_eq!(loaded.lab.nodes["n1"].image.as_deref(), Some("${FRR}"));
    Ok(())
}

#[test]
fn files_are_looked_at_when_asked() -> Result {
    let dir = std::env::temp_dir().join(format!("causeway-topology-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("files.clab.yml");
    std::fs::write(dir.join("one.env"), "# comment\nA=1\nB=\"two words\"\n\n")?;
    let body = "name: files\ntopology:\n  nodes:\n    n1:\n      kind: linux\n      env-files: [one.env]\n      env: {A: '2'}\n      binds: [__clabNodeDir__/made:/made, BIND]\n";
    std::fs::write(&file, body.replace("BIND", "one.env:/e"))?;
    let options = LoadOptions { check_files: true, ..LoadOptions::default() };
    let good = load(&file, &options);
    std::fs::write(&file, body.replace("BIND", "two.env:/e"))?;
    let bad = load(&file, &options);
    std::fs::write(&file, [0x6e, 0xff])?;
    let not_text = load(&file, &options);
    std::fs::remove_dir_all(&dir)?;
    let gone = load(&file, &options);
    let env = good.map_err(|e| render_all(&e))?.lab.nodes["n1"].env.clone();
    assert_eq!((env["A"].as_str(), env["B"].as_str()), ("2", "two words"));
    for (result, want) in [
        (bad, "two.env does not exist"),
        (not_text, "not UTF-8 text: byte 1"),
        (gone, "cannot read the topology file"),
    ] {
        let errors = result.err().ok_or("accepted")?;
        assert!(render_all(&errors).contains(want), "{}", render_all(&errors));
    }
    Ok(())
}
