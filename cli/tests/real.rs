//! The real binary against the real controller with its embedded store, over a unix socket: what the in-memory one only
//! pretends, and whether the two still agree.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

use causeway_controller::config::{Config, Listen, StoreConfig};
use causeway_controller::run::Controller;
use tokio_util::sync::CancellationToken;

/// A controller on a thread of its own; stops when dropped.
struct Running {
    server: String,
    cancel: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Running {
    fn start() -> Running {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("c.sock");
        let config = Config {
            router_id: Some("192.0.2.9".parse().unwrap()),
            asn: Some(65000),
            listen: vec![Listen::Unix(socket.clone())],
            http_listen: vec![],
            bgp_listen: vec![],
            store: StoreConfig::File(dir.path().join("store")),
            ..Config::default()
        };
        let cancel = CancellationToken::new();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let stop = cancel.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let controller = Controller::start(config, stop).await.unwrap();
                ready.send(()).unwrap();
                controller.run().await;
            });
        });
        is_ready.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        Running { server: format!("unix:{}", socket.display()), cancel, thread: Some(thread), dir }
    }

    /// Runs `causeway`, expects a code, returns both outputs.
    fn causeway(&self, code: i32, args: &[&str], input: &str) -> (String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_causeway"))
            .args(args)
            .env("CAUSEWAY_SERVER", &self.server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may end without reading its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
        (out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const FABRIC: &str = "\
kind: Vrf
name: red
l3_vni: 50001
---
kind: Network
name: web
vni: 100
labels: {tier: front}
---
kind: Subnet
network: web
prefix: 10.100.0.0/29
gateway: 10.100.0.1
---
kind: Node
name: host1
mode: host-vtep
vtep: 192.0.2.21
---
kind: Peer
address: 127.0.0.9
asn: 65000
port: 1
";

#[test]
fn records_are_planned_applied_printed_and_applied_again() {
    let running = Running::start();
    let (out, _) = running.causeway(3, &["apply", "-f", "-", "--plan"], FABRIC);
    assert!(out.ends_with("plan: 5 to create, 0 to update, 0 unchanged; nothing was written\n"), "{out}");
    running.causeway(0, &["apply", "-f", "-"], FABRIC);
    running.causeway(0, &["apply", "-f", "-", "--plan"], FABRIC);
    for kind in ["vrfs", "networks", "subnets", "nodes", "peers"] {
        for form in ["yaml", "json"] {
            let (printed, _) = running.causeway(0, &["get", kind, "-o", form], "");
            running.causeway(0, &["apply", "-f", "-", "--plan"], &printed);
        }
    }
    let (out, _) =
        running.causeway(3, &["apply", "-f", "-", "--plan"], &FABRIC.replace("tier: front", "tier: back"));
    assert!(out.contains("~ network default/web\n    labels: tier=front → tier=back\n"), "{out}");
    for (kind, name) in [
        ("vrf", "red"),
        ("net", "web"),
        ("subnet", "10.100.0.0/29"),
        ("node", "host1"),
        ("peer", "127.0.0.9"),
    ] {
        running.causeway(0, &["describe", kind, name], "");
    }
    let (out, _) = running.causeway(0, &["version"], "");
    assert!(out.contains("192.0.2.9") && out.contains(env!("CARGO_PKG_VERSION")), "{out}");
}

#[test]
fn refused_records_are_shown_where_they_stand() {
    let running = Running::start();
    running.causeway(0, &["apply", "-f", "-"], FABRIC);
    for (code, text, want) in [
        (
            4,
            "kind: Network\nname: b\nvni: 100\n",
            "<stdin>:3:6: vni: vni 100 is taken by network default/web\n",
        ),
        (4, "kind: Subnet\nnetwork: web\nprefix: 10.100.0.0/28\n", "<stdin>:3:9: prefix: "),
        (1, "kind: Subnet\nnetwork: none\nprefix: 10.200.0.0/28\n", "<stdin>:2:10: network: "),
        (1, "kind: Network\nname: b\nvni: 16777216\n", "<stdin>:3:6: vni: "),
        (1, "kind: Node\nname: b\nmode: host-vtep\nvtep: here\n", "<stdin>:4:7: vtep: "),
        (1, "kind: Peer\naddress: 10.0.0.1\n", "asn: "),
    ] {
        let (_, err) = running.causeway(code, &["apply", "-f", "-"], text);
        assert!(err.contains(want) && err.contains("^"), "{text}\n{err}");
    }
}

#[test]
fn ports_live_and_refusals_say_who() {
    let running = Running::start();
    running.causeway(0, &["apply", "-f", "-"], FABRIC);
    let (out, _) = running.causeway(0, &["port", "create", "web/a", "-o", "json"], "");
    let port: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((port["created"].as_bool(), port["addresses"][0].as_str()), (Some(true), Some("10.100.0.2")));
    let (out, _) = running.causeway(0, &["port", "create", "web/a", "-o", "json"], "");
    assert!(out.contains("\"created\": false"), "{out}");
    let (_, err) = running.causeway(4, &["port", "create", "web/b", "--address", "10.100.0.2"], "");
    assert!(err.contains("port default/web/a"), "{err}");
    let (_, err) = running.causeway(5, &["port", "create", "web/vm", "--count", "9"], "");
    assert!(err.contains("5 of 9 ports were not created") && err.contains("10.100.0.0/29"), "{err}");
    let bind = [
        "port",
        "bind",
        "web/a",
        "--node",
        "host1",
        "--netns",
        "/run/netns/none",
        "--wait",
        "programmed",
        "--timeout",
        "300ms",
    ];
    let (_, err) = running.causeway(6, &bind, "");
    assert!(err.contains("default/web/a is bound: no agent of node host1 is connected"), "{err}");
    let (_, err) =
        running.causeway(4, &["port", "bind", "web/a", "--node", "host1", "--netns", "/run/netns/other"], "");
    assert!(err.contains("next: "), "{err}");
    let (out, _) = running.causeway(0, &["port", "watch", "--until-synced", "-o", "json"], "");
    assert_eq!(out.lines().count(), 6, "{out}");
    let (out, _) = running.causeway(0, &["bgp", "explain", "10.100.0.2"], "");
    assert!(out.contains("default/web/a"), "{out}");
    running.causeway(4, &["delete", "network", "web"], "");
    running.causeway(0, &["port", "release", "web/a"], "");
    let (out, _) = running.causeway(0, &["get", "port", "web/a", "-o", "json"], "");
    assert!(out.contains("\"state\": \"released\""), "{out}");
    let (_, err) = running.causeway(0, &["port", "release", "web/a", "--forget"], "");
    assert!(err.contains("its addresses are free when their quarantine is over, in 29"), "{err}");
    let (out, _) = running.causeway(0, &["port", "list", "--state", "quarantined"], "");
    assert!(out.lines().count() == 2 && out.contains("quarantined 4m5"), "{out}");
    let (_, err) = running.causeway(4, &["port", "create", "web/z", "--address", "10.100.0.2"], "");
    assert!(
        err.contains("port default/web/a, which gave it up and has it in quarantine for another "),
        "{err}"
    );
    let (_, err) = running.causeway(4, &["delete", "subnet", "10.100.0.0/29"], "");
    assert!(err.contains("--no-quarantine"), "{err}");
    let (out, _) = running.causeway(0, &["port", "create", "web/a"], "");
    assert!(out.contains("10.100.0.2"), "{out}");
    running.causeway(64, &["port", "release", "web/a", "--no-quarantine"], "");
    running.causeway(0, &["port", "release", "web/a", "--forget", "--no-quarantine"], "");
    running.causeway(1, &["get", "port", "web/a"], "");
    for args in
        [&["node", "list"][..], &["bgp", "peers"], &["bgp", "routes"], &["describe", "port", "web/vm-1"]]
    {
        running.causeway(0, args, "");
    }
    assert!(running.dir.path().join("store").exists());
}

#[test]
fn the_history_says_who_had_an_address_when_and_why() {
    let running = Running::start();
    running.causeway(0, &["apply", "-f", "-"], FABRIC);
    let (empty, _) = running.causeway(2, &["ip", "at", "10.100.0.2", "now"], "");
    assert!(empty.starts_with("10.100.0.2 was nobody's at "), "{empty}");
    running.causeway(0, &["port", "create", "web/a", "--reason", "für den Test"], "");
    running.causeway(0, &["port", "bind", "web/a", "--node", "host1", "--netns", "pid:1"], "");
    let (at, _) = running.causeway(0, &["ip", "at", "10.100.0.2", "now"], "");
    assert!(at.contains("was port default/web/a, bound to host1, MAC 02:ca:0a:64:00:02"), "{at}");
    let (timeline, _) = running.causeway(0, &["port", "timeline", "web/a", "-o", "json"], "");
    let timeline: serde_json::Value = serde_json::from_str(&timeline).unwrap();
    let step = |step: &serde_json::Value| {
        let missing = if step["missing"].as_bool().unwrap() { "no " } else { "" };
        format!("{missing}{}", step["step"].as_str().unwrap())
    };
    let steps: Vec<String> = timeline["steps"].as_array().unwrap().iter().map(step).collect();
    assert_eq!(
        steps,
        ["created", "requested", "bound", "committed", "no programmed", "no advertised", "no proven"]
    );
    assert!(timeline["steps"][4]["note"].as_str().unwrap().contains("no agent of node host1"), "{timeline}");
    let (before, _) = running.causeway(2, &["ip", "at", "10.100.0.2", "1h"], "");
    assert!(before.contains("was nobody's"), "{before}");
    running.causeway(0, &["port", "release", "web/a", "--forget", "--no-quarantine"], "");
    running.causeway(0, &["port", "create", "web/b", "--address", "10.100.0.2"], "");

    let (gone, _) = running.causeway(0, &["port", "timeline", "web/a"], "");
    assert_eq!(gone.lines().count(), 4, "{gone}");
    running.causeway(1, &["port", "timeline", "web/never"], "");
    let (history, _) = running.causeway(0, &["ip", "history", "10.100.0.2"], "");
    let kinds: Vec<&str> = history.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(kinds, ["created", "freed", "bound", "created"], "{history}");
    assert!(history.contains("because: für den Test"), "{history}");
    let (json, _) = running.causeway(0, &["ip", "history", "10.100.0.2", "-o", "json"], "");
    let events: serde_json::Value = serde_json::from_str(&json).unwrap();
    let first = &events[3];
    assert_eq!((first["kind"].as_str(), first["reason"].as_str()), (Some("created"), Some("für den Test")));
    assert!(first["actor"].as_str().unwrap().contains('@'), "{first}");
    assert!(first["peer"].as_str().unwrap().starts_with("uid "), "{first}");
    // At the moment of an event it is true already; a millisecond before the first nobody had it.
    let moment = |n: usize, less: i64| (events[n]["time_ms"].as_i64().unwrap() - less).to_string();
    let (at, _) = running.causeway(0, &["ip", "at", "10.100.0.2", &moment(2, 0), "-o", "json"], "");
    let at: serde_json::Value = serde_json::from_str(&at).unwrap();
    assert_eq!((at["port"]["name"].as_str(), at["state"].as_str()), (Some("a"), Some("bound")), "{at}");
    assert!(at["to"].is_string(), "{at}");
    running.causeway(2, &["ip", "at", "10.100.0.2", &moment(3, 1)], "");

    let (events, _) = running.causeway(0, &["events", "--kind", "declared", "-o", "json"], "");
    assert_eq!(events.lines().count(), 5, "{events}");
    let (events, _) = running.causeway(0, &["events", "--port", "web/a"], "");
    assert_eq!(events.lines().count(), 3, "{events}");
    let (follow, _) = running.causeway(0, &["events", "--follow", "--count", "2", "--node", "host1"], "");
    assert_eq!(follow.lines().count(), 2, "{follow}");
    let (csv, _) = running.causeway(0, &["ip", "export"], "");
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(rows.len(), 2, "{csv}");
    assert!(rows[1].starts_with("10.100.0.2,default,web,b,02:ca:0a:64:00:02,reserved,,"), "{csv}");
    let (csv, _) = running.causeway(0, &["ip", "export", "--history"], "");
    assert_eq!(csv.lines().count(), 1 + 5 + 4, "{csv}");
    running.causeway(64, &["ip", "at", "10.100.0.2", "yesterday"], "");
}
