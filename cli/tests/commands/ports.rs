//! Ports by the command line.

use super::*;

#[test]
fn ports_from_create_to_forget() {
    let running = Running::start();
    let (out, err) = expect(&running, 0, &["port", "create", "web/a", "--label", "tier=db"], "");
    assert!(out.contains("default/web/a   10.8.0.1    02:ca:0a:08:00:01   reserved"), "{out}");
    assert_eq!(err, "port default/web/a created\n");
    let (_, err) = expect(&running, 0, &["port", "create", "default/web/a"], "");
    assert_eq!(err, "port default/web/a existed already\n");
    let bind = [
        "port",
        "bind",
        "web/a",
        "--node",
        "host1",
        "--netns",
        "/run/netns/a",
        "--wait",
        "advertised",
        "-o",
        "json",
    ];
    let (out, _) = expect(&running, 0, &bind, "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (json["state"].as_str(), json["binding"]["generation"].as_u64()),
        (Some("advertised"), Some(1))
    );
    assert_eq!(json["key"]["name"], "a");
    let (out, _) = expect(&running, 0, &["port", "get", "web/a", "-o", "yaml"], "");
    assert!(out.contains("state: advertised\n"), "{out}");
    let (out, _) = expect(&running, 0, &["describe", "port", "web/a"], "");
    assert!(out.contains("routes: 1\n") && out.contains("10.0.0.9:7"), "{out}");
    let (out, _) = expect(&running, 0, &["port", "unbind", "web/a"], "");
    assert!(out.contains("reserved"), "{out}");
    expect(&running, 0, &["port", "release", "web/a"], "");
    let (out, _) = expect(&running, 0, &["get", "ports"], "");
    assert!(out.contains("released"), "{out}");
    let (_, err) = expect(&running, 0, &["port", "release", "--forget", "web/a"], "");
    assert_eq!(err, "port default/web/a is forgotten, its addresses are free\n");
    let (_, err) = expect(&running, 1, &["port", "get", "web/a"], "");
    assert!(
        err.starts_with("error: cannot get port default/web/a: there is no port default/web/a\nnext: "),
        "{err}"
    );
    let (out, err) = expect(&running, 0, &["port", "list"], "");
    assert_eq!((out.as_str(), err.as_str()), ("", "no ports\n"));
}

#[test]
fn refusals_have_their_own_codes() {
    let running = Running::start();
    let (_, err) = expect(&running, 4, &["port", "create", "web/b", "--address", "10.8.0.99"], "");
    let want = "error: cannot create port default/web/b: address 10.8.0.99 is taken\n  \
                address 10.8.0.99 belongs to port default/web/old\nnext: causeway port get web/old\n";
    assert_eq!(err, want);
    let (_, err) = expect(&running, 5, &["port", "create", "full/a"], "");
    assert!(err.contains("1 addresses in all, 1 kept for released ports"), "{err}");
    expect(&running, 4, &["delete", "network", "used"], "");
    expect(&running, 0, &["delete", "network", "default/none"], "");
    expect(&running, 1, &["get", "vrf", "none"], "");
}

#[test]
fn many_ports_are_one_request_and_a_paged_list() {
    let running = Running::start();
    let (out, err) =
        expect(&running, 0, &["port", "create", "web/vm-{:02}", "--count", "5", "--first", "9"], "");
    assert_eq!(err, "5 created, 0 existed already\n");
    assert!(out.contains("default/web/vm-09 ") && out.contains("default/web/vm-13 "), "{out}");
    assert_eq!(running.fake.seen("create_ports"), 1);
    let (out, _) = expect(&running, 0, &["port", "list", "--network", "default/web", "-o", "json"], "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 5);
    assert_eq!(running.fake.seen("list_ports"), 3);
    let (out, _) = expect(&running, 0, &["port", "list", "--limit", "3", "-o", "json"], "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3);
    let (out, err) = expect(&running, 5, &["port", "create", "small/vm", "--count", "4"], "");
    assert!(out.contains("default/small/vm-4 ") && !out.contains("vm-3 "), "{out}");
    assert!(err.contains("1 of 4 ports were not created\ncannot create port default/small/vm-3: "), "{err}");
}

#[test]
fn a_late_port_says_why() {
    let running = Running::start();
    let create = |name: &str, node: &str| {
        let args = [
            "port",
            "create",
            name,
            "--bind-node",
            node,
            "--netns",
            "/x",
            "--wait",
            "programmed",
            "--timeout",
            "500ms",
        ];
        let (_, err) = expect(&running, 6, &args, "");
        err
    };
    let err = create("web/a", "dead");
    assert!(err.contains("1 of 1 ports not programmed within 500 ms\n  default/web/a is bound: no agent of node dead is connected\n"), "{err}");
    let err = create("web/b", "broken");
    assert!(err.contains("default/web/b is failed: no such namespace: /run/netns/x\n"), "{err}");
}

#[test]
fn waiting_survives_a_controller_that_stops() {
    let running = Running::start();
    running.fake.break_watches(2);
    let args = ["port", "create", "web/a", "--bind-node", "host1", "--netns", "/x", "--wait", "advertised"];
    let (out, _) = expect(&running, 0, &args, "");
    assert!(out.contains("advertised"), "{out}");
}

#[test]
fn watch_shows_current_ports_then_changes() {
    let running = Running::start();
    expect(&running, 0, &["port", "create", "web/vm", "--count", "3"], "");
    let (out, _) = expect(&running, 0, &["port", "watch", "--until-synced", "-o", "json"], "");
    let events: Vec<serde_json::Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let words: Vec<_> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(words, ["changed", "changed", "changed", "synced"]);
    assert_eq!(events[3]["revision"], 3);
    let (out, _) = expect(&running, 0, &["port", "watch", "--name-prefix", "vm-2", "--until-synced"], "");
    assert_eq!(
        out,
        "       3  reserved    default/web/vm-2  10.8.0.2  02:ca:0a:08:00:02  -\n       3  synced\n"
    );
    expect(&running, 6, &["port", "watch", "--from-revision", "3", "--timeout", "200ms"], "");
    let (_, err) = expect(&running, 1, &["port", "watch", "--from-revision", "1"], "");
    assert!(err.contains("revision 1 asked, oldest known is 7"), "{err}");
}

#[test]
fn limits_and_guard_change_one_by_one() {
    let running = Running::start();
    expect(&running, 0, &["port", "create", "web/a"], "");
    let set = |args: &[&str]| -> serde_json::Value {
        let args = [&["port", "set", "web/a", "-o", "json"], args].concat();
        serde_json::from_str(&expect(&running, 0, &args, "").0).unwrap()
    };
    assert_eq!(
        set(&["--rate-in", "100mbit"])["rate"],
        serde_json::json!({"in_kbit": 100_000, "out_kbit": 0})
    );
    let port = set(&["--rate-out", "500kbit", "--guard", "off"]);
    assert_eq!(port["rate"], serde_json::json!({"in_kbit": 100_000, "out_kbit": 500}));
    assert_eq!(port["guard"], "off");
    let port = set(&["--rate-in", "none", "--rate-out", "none", "--guard", "network"]);
    assert_eq!((port.get("rate"), port.get("guard")), (None, None));
    let (_, err) = expect(&running, 64, &["port", "set", "web/a"], "");
    assert!(err.contains("nothing to change") && err.contains("--rate-in"), "{err}");
    let (_, err) = expect(&running, 64, &["port", "set", "web/a", "--rate-in", "fast"], "");
    assert!(err.contains("'fast' is no rate"), "{err}");
}

#[test]
fn a_vip_is_given_to_a_port_and_taken_from_it() {
    let running = Running::start();
    expect(&running, 0, &["port", "create", "web/db", "--vip"], "");
    let (out, err) = expect(&running, 0, &["port", "vip", "hold", "web/db", "--holder", "web/db-2"], "");
    assert!(out.contains("held by db-2"), "{out}");
    assert!(err.contains("port default/web/db-2 answers for VIP default/web/db"), "{err}");
    let (out, _) = expect(&running, 0, &["port", "vip", "hold", "web/db", "--nobody", "-o", "json"], "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json.get("holder"), None);
    expect(&running, 64, &["port", "vip", "hold", "web/db"], "");
    expect(&running, 64, &["port", "create", "web/db", "--vip", "--bind-node", "host1"], "");
}

#[test]
fn a_network_chosen_by_labels_is_asked_for_without_its_name() {
    let running = Running::start();
    let asked = ["port", "create", "ns/db-3", "--network-label", "rack=r1,zone=a", "--vrf", "red"];
    let (out, _) = expect(&running, 0, &asked, "");
    assert!(out.contains("red/chosen-by-rack=r1,zone=a/ns/db-3"), "{out}");
    for wrong in [
        &["port", "create", "db-3", "--network-label", "rack"][..],
        &["port", "create", "db-3", "--network-label", "rack=r1", "--address", "10.8.0.5"],
        &["port", "create", "-bad", "--network-label", "rack=r1"],
        &["port", "create", "web/db-3", "--vrf", "red"],
    ] {
        expect(&running, 64, wrong, "");
    }
}
