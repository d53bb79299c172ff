//! The real binary against a controller in memory: what it prints, and with which code it ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod fake;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use fake::Running;

struct Done {
    code: i32,
    out: String,
    err: String,
}

/// Runs `causeway` with a clean environment.
fn causeway(server: &str, args: &[&str], input: &str) -> Done {
    let mut child = Command::new(env!("CARGO_BIN_EXE_causeway"))
        .args(args)
        .env_remove("NO_COLOR")
        .env("CAUSEWAY_SERVER", server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The program may end without reading its input.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs and expects a code; returns both outputs.
fn expect(running: &Running, code: i32, args: &[&str], input: &str) -> (String, String) {
    let done = causeway(&running.server(), args, input);
    assert_eq!(done.code, code, "{args:?}\n{}\n{}", done.out, done.err);
    (done.out, done.err)
}

const NETWORKS: &str =
    "kind: Network\nname: web\nvni: 10110\n---\nkind: Subnet\nnetwork: web\nprefix: 10.8.0.0/20\n";

#[test]
fn wrong_command_lines_end_with_64() {
    for args in [
        &[][..],
        &["nonsense"],
        &["get"],
        &["get", "things"],
        &["port", "create"],
        &["port", "create", "no-slash"],
        &["port", "create", "web/a", "--count", "0"],
        &["port", "create", "web/{", "--count", "2"],
        &["port", "create", "web/a", "--netns", "/x"],
        &["port", "create", "web/a", "--wait", "programmed"],
        &["port", "create", "web/a", "--count", "2", "--bind-node", "host1", "--netns", "/same"],
        &["port", "create", "web/a", "--mac", "zz"],
        &["port", "list", "--network", "red/web", "--vrf", "blue"],
        &["get", "vrfs", "--timeout", "soon"],
        &["get", "vrfs", "--server", "ftp://x"],
        &["get", "vrfs", "--tls-ca", "/nonexistent/ca.pem"],
        &["bgp", "routes", "--type", "9"],
        &["apply"],
        &["completion", "tcsh"],
    ] {
        let done = causeway("http://127.0.0.1:1", args, "");
        assert_eq!(done.code, 64, "{args:?}\n{}", done.err);
        assert!(!done.err.is_empty() && done.out.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_completion_need_no_controller() {
    for args in [
        &["--help"][..],
        &["port", "create", "--help"],
        &["--version"],
        &["completion", "bash"],
        &["completion", "zsh"],
        &["completion", "fish"],
    ] {
        let done = causeway("http://127.0.0.1:1", args, "");
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{args:?}");
        assert!(done.out.contains("causeway"), "{args:?}");
    }
}

#[test]
fn an_unreachable_controller_is_named() {
    let done = causeway("http://127.0.0.1:1", &["get", "vrfs"], "");
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("cannot reach controller at http://127.0.0.1:1: Connection refused"),
        "{}",
        done.err
    );
    assert!(done.err.contains("next: is it running? set --server or CAUSEWAY_SERVER"), "{}", done.err);
    let done = causeway("", &["get", "vrfs", "--timeout", "1s"], "");
    assert_ne!(done.code, 64, "{}", done.err);
    let done = causeway("unix:/nonexistent/c.sock,127.0.0.1:1", &["port", "list"], "");
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("unix:/nonexistent/c.sock: ") && done.err.contains("127.0.0.1:1: "),
        "{}",
        done.err
    );
}

#[test]
fn a_silent_controller_is_a_timeout() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let done = causeway(&server, &["get", "vrfs", "--timeout", "300ms"], "");
    assert_eq!(done.code, 6, "{}", done.err);
    assert!(done.err.contains("cannot list vrfs: no answer within 300 ms"), "{}", done.err);
}

#[test]
fn the_next_controller_answers_when_the_first_is_gone() {
    let running = Running::start();
    let servers = format!("http://127.0.0.1:1,{}", running.server());
    let done = causeway(&servers, &["bgp", "peers"], "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("10.0.0.1"), "{}", done.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_works() {
    let running = Running::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.sock");
    let incoming =
        tokio_stream::wrappers::UnixListenerStream::new(tokio::net::UnixListener::bind(&path).unwrap());
    let server = tokio::spawn(running.fake.router().serve_with_incoming(incoming));
    let address = format!("unix:{}", path.display());
    let done = tokio::task::spawn_blocking(move || causeway(&address, &["node", "list"], "")).await.unwrap();
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("never seen") && done.out.contains("connected"), "{}", done.out);
    server.abort();
}

/// A certificate authority, a server and a client certificate in a folder.
fn certificates(dir: &std::path::Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &ca).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_checks_both_sides() {
    use tonic::transport::{Certificate, Identity, ServerTlsConfig};
    let running = Running::start();
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(read("server.pem"), read("server.key")))
        .client_ca_root(Certificate::from_pem(read("ca.pem")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = tonic::transport::Server::builder().tls_config(tls).unwrap();
    let router = server.add_service(causeway_proto::v1::fabric_service_server::FabricServiceServer::new(
        running.fake.clone(),
    ));
    let served =
        tokio::spawn(router.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let done = tokio::task::spawn_blocking(move || {
        let ask = |server: &str, flags: &[&str]| causeway(server, &[&["node", "list"], flags].concat(), "");
        let https = format!("https://{address}");
        let both = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
        [
            ask(&https, &both),
            ask(&address.to_string(), &both),
            ask(&https, &["--tls-ca", &ca]),
            ask(&https, &["--tls-ca", &cert]),
            ask(&https, &[]),
            ask(&format!("http://{address}"), &both),
            ask(&format!("http://{address}"), &[]),
        ]
    });
    let done = done.await.unwrap();
    let codes: Vec<i32> = done.iter().map(|d| d.code).collect();
    let errors: Vec<&str> = done.iter().map(|d| d.err.as_str()).collect();
    assert_eq!(codes, [0, 0, 1, 1, 64, 64, 1], "{errors:#?}");
    assert!(done[0].out.contains("host1"), "{}", done[0].out);
    assert!(errors[2].contains("the connection broke") && errors[2].contains("--tls-cert"), "{errors:#?}");
    assert!(errors[3].contains("invalid peer certificate"), "{errors:#?}");
    served.abort();
}

#[test]
fn plan_apply_and_apply_again() {
    let running = Running::start();
    let (out, _) = expect(&running, 3, &["apply", "-f", "-", "--plan"], NETWORKS);
    assert_eq!(
        out,
        "+ network default/web\n    name: default/web\n+ subnet default/10.8.0.0/20\n    name: default/10.8.0.0/20\n\
         plan: 2 to create, 0 to update, 0 unchanged; nothing was written\n"
    );
    let (out, _) = expect(&running, 0, &["apply", "-f", "-"], NETWORKS);
    assert!(out.ends_with("applied: 2 created, 0 updated, 0 unchanged; revision 2\n"), "{out}");
    expect(&running, 0, &["apply", "-f", "-", "--plan"], NETWORKS);
    let (out, _) = expect(
        &running,
        3,
        &["apply", "-f", "-", "--plan"],
        &NETWORKS.replace("vni: 10110", "vni: 10110\nmtu: 9000"),
    );
    assert!(out.contains("~ network default/web\n    mtu: 1450 → 9000\n= subnet"), "{out}");
    let (out, _) = expect(&running, 0, &["apply", "-f", "-", "-o", "json"], NETWORKS);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["results"][0]["action"], "unchanged");
}

#[test]
fn what_get_prints_can_be_applied() {
    let running = Running::start();
    expect(&running, 0, &["apply", "-f", "-"], NETWORKS);
    for form in ["yaml", "json"] {
        let (printed, _) = expect(&running, 0, &["get", "networks", "-o", form], "");
        expect(&running, 0, &["apply", "-f", "-", "--plan"], &printed);
        let (printed, _) = expect(&running, 0, &["get", "net", "web", "-o", form], "");
        expect(&running, 0, &["apply", "-f", "-", "--plan"], &printed);
        let (printed, _) = expect(&running, 0, &["get", "subnet", "10.8.0.0/20", "-o", form], "");
        expect(&running, 0, &["apply", "-f", "-", "--plan"], &printed);
    }
    let (out, _) = expect(&running, 0, &["describe", "network", "web"], "");
    assert!(
        out.starts_with("kind: Network\n")
            && out.contains("\nsubnets: 1\n")
            && out.contains("\nports: none\n"),
        "{out}"
    );
}

#[test]
fn manifests_come_from_files_and_directories() {
    let running = Running::start();
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = NETWORKS.split_once("---\n").unwrap();
    std::fs::write(dir.path().join("1-net.yaml"), one).unwrap();
    std::fs::write(dir.path().join("2-sub.yml"), two).unwrap();
    std::fs::write(dir.path().join("README.md"), "not a manifest: [").unwrap();
    let path = dir.path().to_str().unwrap();
    let (out, _) = expect(&running, 0, &["apply", "--yes", "-f", path], "");
    assert!(out.ends_with("applied: 2 created, 0 updated, 0 unchanged; revision 2\n"), "{out}");
    let empty = tempfile::tempdir().unwrap();
    expect(&running, 2, &["apply", "-f", empty.path().to_str().unwrap()], "");
    expect(&running, 2, &["apply", "-f", "-"], "# nothing\n---\n");
    expect(&running, 1, &["apply", "-f", "/nonexistent.yaml"], "");
    assert_eq!(running.fake.seen("apply"), 1);
}

#[test]
fn a_bad_manifest_is_shown_and_not_sent() {
    let running = Running::start();
    let (_, err) = expect(&running, 1, &["apply", "-f", "-"], "kind: Network\nname: web\nvnni: 1\n");
    let want = "error: 1 problem in the manifest, nothing was sent\n\
                <stdin>:3:1: unknown field 'vnni' of a Network; did you mean 'vni'?\n   |\n 3 | vnni: 1\n   | ^^^^\n";
    assert_eq!(err, want);
    let (_, err) = expect(&running, 1, &["apply", "-f", "-"], "kind: Network\nname: [web\n");
    assert!(err.contains("<stdin>:") && err.contains("malformed YAML") && err.contains('^'), "{err}");
    assert_eq!(running.fake.seen("apply"), 0);
}

#[test]
fn violations_found_by_the_controller_point_into_the_file() {
    let running = Running::start();
    let text = format!("{NETWORKS}---\n# the second\nkind: Network\nname: db\nvni: 0\n");
    let (_, err) = expect(&running, 1, &["apply", "-f", "-"], &text);
    let want = "error: cannot apply: 1 field is wrong, nothing was written\n\
                <stdin>:12:6: vni: is required, 1 to 16777215\n    |\n 12 | vni: 0\n    |      ^\n";
    assert_eq!(err, want);
}

#[test]
fn a_conflict_found_by_the_controller_points_into_the_file() {
    let running = Running::start();
    let (_, err) = expect(&running, 4, &["apply", "-f", "-"], "kind: Network\nname: db\nvni: 666\n");
    let want = "error: cannot apply:\n\
                <stdin>:3:6: vni: vni 666 is taken by network default/old\n   |\n 3 | vni: 666\n   |      ^^^\n";
    assert_eq!(err, want);
}

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
fn the_fabric_is_shown() {
    let running = Running::start();
    let (out, _) = expect(&running, 0, &["bgp", "peers"], "");
    assert!(out.starts_with("router id 10.0.0.9, AS 65000\nNEIGHBOR ") && out.contains("1m15s"), "{out}");
    let (out, err) =
        expect(&running, 0, &["bgp", "routes", "--type", "2", "--mac", "0200.0000.0007", "--limit", "1"], "");
    assert!(out.contains("02:00:00:00:00:07"), "{out}");
    assert!(err.contains("1 more match"), "{err}");
    let (out, _) = expect(&running, 0, &["bgp", "explain", "10.8.0.1"], "");
    assert_eq!(out, "10.8.0.1 belongs to port default/web/a\n");
    let (out, _) = expect(&running, 0, &["bgp", "explain", "10.8.0.1", "--at", "leaf1"], "");
    assert_eq!(out, "10.8.0.1 belongs to port default/web/a as leaf1 sees it\n");
    let (out, _) = expect(&running, 0, &["node", "list", "-o", "json"], "");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()[0]["connected"], false);
    let servers = format!("{},http://127.0.0.1:1", running.server());
    let done = causeway(&servers, &["version"], "");
    assert_eq!(done.code, 0);
    assert!(done.out.contains("0.9.9") && done.out.contains("Connection refused"), "{}", done.out);
}

#[test]
fn the_fabric_is_compared() {
    let running = Running::start();
    let (out, err) = expect(&running, 0, &["fabric", "diff", "--limit", "1"], "");
    assert!(out.contains("10.0.0.22 seq 3") && out.contains("default/web/?"), "{out}");
    assert!(out.ends_with("2 ports compared at 1 peer, revision 7: 1 elsewhere, 1 foreign\n"), "{out}");
    assert!(err.contains("1 more"), "{err}");
    expect(&running, 3, &["fabric", "diff", "--exit-code"], "");
    let (out, _) = expect(&running, 0, &["fabric", "diff", "--network", "quiet", "--exit-code"], "");
    assert_eq!(out, "2 ports compared at 1 peer, revision 7: all as intended\n");
    expect(&running, 0, &["fabric", "diff", "--network", "quiet", "--all", "--exit-code"], "");
    let (_, err) = expect(&running, 2, &["fabric", "diff", "--network", "lonely", "--exit-code"], "");
    assert!(err.contains("no peer is established"), "{err}");
    expect(&running, 64, &["fabric", "diff", "--vrf", "blue", "--network", "red/web"], "");
    let (out, _) = expect(&running, 3, &["fabric", "diff", "--exit-code", "-o", "json"], "");
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["findings"][0]["presence"], "elsewhere");
    assert_eq!(shown["findings"][0]["port"]["name"], "a");
    assert!(shown["findings"][1].get("port").is_none(), "{shown}");
    let (out, _) = expect(&running, 0, &["fabric", "alarms"], "");
    let expected =
        "12:00:00Z raised  !  elsewhere default/web/a 02:00:00:00:00:07 at 10.0.0.1: leaf2 claims it\n";
    assert_eq!(out, expected);
    let (out, _) = expect(&running, 0, &["fabric", "alarms", "-o", "json"], "");
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&shown["event"], &shown["presence"]), (&"raised".into(), &"elsewhere".into()));
}

#[test]
fn a_reader_that_stops_is_no_failure() {
    let running = Running::start();
    let mut child = Command::new(env!("CARGO_BIN_EXE_causeway"))
        .args(["--server", &running.server(), "node", "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// Runs on a pseudo-terminal, types `input`, and returns the code and all that was printed.
fn on_terminal(server: &str, args: &[&str], input: &str, no_color: &str) -> (i32, String) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let end = |fd: &std::os::fd::OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    command.args(args).env("CAUSEWAY_SERVER", server).env("NO_COLOR", no_color).env("TERM", "xterm");
    command.stdin(end(&pty.slave)).stdout(end(&pty.slave)).stderr(end(&pty.slave));
    let mut child = command.spawn().unwrap();
    drop((command, pty.slave));
    let mut master = std::fs::File::from(pty.master);
    master.write_all(input.as_bytes()).unwrap();
    let mut text = Vec::new();
    let mut part = [0; 4096];
    // Reading a terminal whose other side is closed is an error, which is the end here.
    while let Ok(n @ 1..) = master.read(&mut part) {
        text.extend_from_slice(&part[..n]);
    }
    (child.wait().unwrap().code().unwrap(), String::from_utf8(text).unwrap().replace("\r\n", "\n"))
}

#[test]
fn a_terminal_gets_colour_a_question_and_the_next_step() {
    let running = Running::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("net.yaml");
    std::fs::write(&file, NETWORKS).unwrap();
    let apply = ["apply", "-f", file.to_str().unwrap()];
    let (code, text) = on_terminal(&running.server(), &apply, "n\n", "");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("\x1b[32m+ network default/web\x1b[0m\n"), "{text:?}");
    assert!(text.contains("apply 2 changes? [y/N] ") && text.contains("not applied"), "{text}");
    let (code, text) = on_terminal(&running.server(), &apply, "y\n", "1");
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains('\x1b') && text.contains("applied: 2 created"), "{text:?}");
    assert!(text.contains("next: causeway get networks"), "{text}");
    let (code, text) = on_terminal(&running.server(), &apply, "", "");
    assert!(code == 0 && text.contains("2 unchanged") && !text.contains("[y/N]"), "{text}");
    let (_, text) = on_terminal(&running.server(), &["node", "list"], "", "");
    assert!(text.contains("\x1b["), "{text:?}");
    let (_, text) = on_terminal(&running.server(), &["node", "list", "--no-color"], "", "");
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn topology_files_are_checked_without_a_controller() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.clab.yml");
    let check =
        || causeway("http://127.0.0.1:1", &["topology", "check", "-t", dir.path().to_str().unwrap()], "");
    assert_eq!(check().code, 1);
    std::fs::write(&file, "name: a\ntopology:\n  nodes:\n    n1: {kind: linux}\n").unwrap();
    let done = check();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.out.contains("1 nodes, 0 links"), "{}", done.out);
    std::fs::write(&file, "name: a\ntopology:\n  nodes:\n    n1: [\n").unwrap();
    let done = check();
    assert_eq!(done.code, 1);
    assert!(done.out.contains("a.clab.yml:") && done.out.contains('^'), "{}", done.out);
    // One spine: a warning, which fails on request only.
    let text = "name: a\ntopology:\n  defaults: {kind: linux}\n  nodes:\n    spine1: {}\n    leaf1: {}\n    leaf2: {}\n  links:\n    - {endpoints: ['spine1:eth1', 'leaf1:eth1']}\n    - {endpoints: ['spine1:eth2', 'leaf2:eth1']}\n";
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let done = causeway("", &["topology", "check", path], "");
    assert!(done.code == 0 && done.out.contains("warning[single-point]"), "{}{}", done.out, done.err);
    let done = causeway("", &["topology", "check", path, "--strict", "-o", "json"], "");
    let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((done.code, report["warnings"].as_u64(), report["errors"].as_u64()), (1, Some(1), Some(0)));
    assert_eq!(report["findings"][0]["rule"], "single-point");
    assert_eq!(
        (report["findings"][0]["line"].as_u64(), report["findings"][0]["column"].as_u64()),
        (Some(5), Some(5))
    );
    let done = causeway("", &["topology", "check", "--rules"], "");
    assert!(done.code == 0 && done.out.contains("l2-loop"), "{}", done.out);
}

#[test]
fn new_topologies_are_written_checked_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dc1/dc1.clab.yml");
    let path = file.to_str().unwrap();
    let new =
        ["topology", "new", "--name", "dc1", "--hosts", "2", "--borders", "1", "--vpcs", "1", "--to", path];
    let done = causeway("", &new, "");
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(file.with_file_name("configs").join("leaf1/frr.conf").exists());
    let done = causeway("", &["topology", "check", path, "--strict"], "");
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let budget = |profile: &str| {
        causeway("", &["topology", "check", path, "--profile", profile, "--ports-per-host", "45"], "")
    };
    let done = budget("medium");
    assert!(
        done.code == 0 && done.out.contains("SWITCH") && done.out.contains("96000"),
        "{}{}",
        done.out,
        done.err
    );
    let done = budget("macs=89");
    assert!(done.code == 1 && done.out.contains("102 %"), "{}", done.out);
    // With its place, as everything else that is found.
    assert!(done.out.contains("error[table-size]") && done.out.contains("dc1.clab.yml:"), "{}", done.out);
    let done = causeway("", &["topology", "check", path, "--profile", "macs=2", "-o", "json"], "");
    let shown: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((done.code, &shown["warnings"]), (0, &serde_json::json!(2)), "{shown}");
    assert_eq!(budget("huge").code, 64);
    // What is there is not overwritten.
    let done = causeway("", &new, "");
    assert!(done.code == 1 && done.err.contains("is there already"), "{}", done.err);
    let picture = dir.path().join("dc1.svg");
    let done = causeway("", &["topology", "graph", path, "--to", picture.to_str().unwrap()], "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(std::fs::read_to_string(&picture).unwrap().ends_with("</svg>\n"));
    for (form, word) in [("mermaid", "graph TD"), ("dot", "graph \"dc1\" {")] {
        let done = causeway("", &["topology", "graph", path, "--format", form], "");
        assert!(done.code == 0 && done.out.contains(word), "{}", done.out);
    }
    let done = causeway("", &["topology", "new", "--leaves", "0", "--hosts", "3"], "");
    assert!(done.code == 1 && done.err.contains("no leaf"), "{}", done.err);
}

#[test]
fn the_lab_has_its_own_flags() {
    let done = causeway("http://127.0.0.1:1", &["lab", "--help"], "");
    assert!(done.code == 0 && done.out.contains("Usage: causeway lab <COMMAND>"), "{}{}", done.out, done.err);
    assert_eq!(causeway("", &["lab"], "").code, 64);
    assert_eq!(causeway("", &["lab", "up", "--nonsense"], "").code, 64);
    let name = format!("none-{}", std::process::id());
    let done = causeway("", &["lab", "inspect", "--name", &name, "-o", "json"], "");
    assert_ne!(done.code, 0);
    assert!(done.err.contains(&name), "{}", done.err);
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
fn the_books_are_checked_and_repaired_until_nothing_is_left() {
    let running = Running::start();
    // Two calls mend one finding each, the second says that this was all.
    let (out, _) = expect(&running, 0, &["ipam", "check", "--fix"], "");
    assert!(
        out.contains("done: remove the claim") && out.contains("2 repaired, the books are right"),
        "{out}"
    );
    assert_eq!(running.fake.seen("check"), 2);
    let (out, _) = expect(&running, 3, &["ipam", "check", "-o", "json"], "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["findings"][0]["problem"], "duplicate");
    assert_eq!((&json["findings"][0]["repaired"], &json["ports"]), (&false.into(), &2.into()));
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
