//! The real binary against a controller in memory: what it prints, and with which code it ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod connection;
mod fake;
mod manifests;
mod ports;
mod topologies;

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
