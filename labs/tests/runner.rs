//! The runner on the real kernel. Needs root, and Debian's archive the first time, to build the images.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use causeway_labs::report::{interfaces, node_rows};
use common::{Case, PROGRAM, out, processes_in, text, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TWO_NODES: &str = r#"
  nodes:
    a:
      kind: linux
      exec:
        - ip address add 10.0.0.1/30 dev eth1
    b:
      kind: linux
      image: causeway/server:latest
      exec:
        - ip address add 10.0.0.2/30 dev eth1
  links:
    - endpoints: ["a:eth1", "b:eth1"]
"#;

/// `a` waits for ten minutes before it starts: `up` is half-way then.
const SLOW: &str = r#"
  nodes:
    a:
      kind: linux
      startup-delay: 600
    b:
      kind: linux
  links:
    - endpoints: ["a:eth1", "b:eth1"]
"#;

fn pid_of(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

#[test]
fn two_nodes_reach_each_other_and_leave_nothing() -> Result<()> {
    let case = Case::new(TWO_NODES)?;
    let lab = case.up()?;
    assert_eq!(lab.failed_exec(), 0);
    out(&lab, "a", &["ping", "-c1", "-W2", "10.0.0.2"])?;
    assert_eq!(out(&lab, "b", &["hostname"])?, "b");
    assert_eq!(out(&lab, "a", &["cat", "/proc/1/comm"])?, "causeway-lab");

    let rows = node_rows(lab.state());
    assert_eq!(rows.iter().map(|r| r.state.as_str()).collect::<Vec<_>>(), ["running", "running"]);
    assert_eq!(rows[1].ipv4_address, "10.0.0.2/30");
    let links = interfaces(lab.state(), Some("a"))?;
    let eth1 = links[0].interfaces.iter().find(|i| i.name == "eth1").context("no eth1")?;
    assert_eq!((eth1.mtu, eth1.kind.as_str(), eth1.state.as_str()), (9500, "veth", "up"));
    assert!(eth1.mac.starts_with("aa:c1:ab:"), "{}", eth1.mac);

    // As with containerlab: by name, from outside.
    let long_name = &lab.node("a")?.long_name;
    let shown = Command::new("ip").args(["netns", "exec", long_name, "ip", "-br", "addr"]).output()?;
    assert!(text(&shown.stdout).contains("10.0.0.1/30"), "{shown:?}");

    let inits = [lab.pid("a")?, lab.pid("b")?];
    assert!(case.traces()?.len() >= 4, "the check for traces must see a lab that runs: {:?}", case.traces());
    let lab_dir = lab.state().lab_dir.clone();
    lab.down()?;
    case.assert_no_traces()?;
    assert!(inits.iter().all(|pid| !common::exists(format!("/proc/{pid}/ns/net"))));
    assert!(!common::exists(lab_dir));
    Ok(())
}

#[test]
fn a_lab_ends_with_its_handle_even_if_the_test_panics() -> Result<()> {
    let case = Case::new(TWO_NODES)?;
    let panicked = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let _lab = case.up().unwrap();
            std::panic::resume_unwind(Box::new("as a failed assertion would"));
        });
        thread.join().is_err()
    });
    assert!(panicked);
    case.assert_no_traces()
}

/// Starts `up` of [`SLOW`] and waits until both nodes run and the links are there.
fn start_slowly(case: &Case) -> Result<std::process::Child> {
    let mut child = case.command(&["up"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let half_way = wait_for("the lab to be half-way up", || {
        let nodes = case.state()?.map(|state| state.nodes).unwrap_or_default();
        let linked = |node: &causeway_labs::NodeState| {
            let show = Command::new("ip").args(["-n", &node.long_name, "link", "show", "eth1"]).output();
            node.is_alive() && show.is_ok_and(|output| output.status.success())
        };
        Ok(nodes.len() == 2 && nodes.iter().all(linked))
    });
    if half_way.is_err() {
        child.kill()?;
    }
    half_way.map(|()| child)
}

#[test]
fn an_interrupted_up_removes_what_it_made() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let case = Case::new(SLOW)?;
        let mut child = start_slowly(&case)?;
        kill(pid_of(child.id()), signal)?;
        assert_eq!(child.wait()?.code(), Some(130), "{signal}");
        case.assert_no_traces()?;
    }
    Ok(())
}

#[test]
fn an_up_that_waits_for_a_command_is_interrupted_too() -> Result<()> {
    let case = Case::new("  nodes: {a: {kind: linux, exec: [sleep 1000]}}\n")?;
    let mut child = case.command(&["up"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let sleeps = || {
        let netns = case.state().ok().flatten().and_then(|state| state.nodes.first().map(|node| node.netns));
        netns.is_some_and(|netns| netns != 0 && processes_in(netns).iter().any(|pid| comm(*pid) == "sleep"))
    };
    wait_for("the command to run", || Ok(sleeps()))?;
    kill(pid_of(child.id()), Signal::SIGINT)?;
    assert_eq!(child.wait()?.code(), Some(130));
    case.assert_no_traces()
}

fn comm(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

#[test]
fn a_command_ends_with_its_caller() -> Result<()> {
    let case = Case::new(TWO_NODES)?;
    let lab = case.up()?;
    let netns = lab.node("b")?.netns;
    let pings = || processes_in(netns).iter().filter(|pid| comm(**pid) == "ping").count();
    let mut caller = lab.command("b", &["ping", "10.0.0.1"])?.stdout(Stdio::null()).spawn()?;
    wait_for("ping to run", || Ok(pings() == 1))?;
    caller.kill()?;
    caller.wait()?;
    wait_for("ping to end", || Ok(pings() == 0))?;
    assert_eq!(lab.exec("b", &["no-such-program"])?.return_code, 127);
    lab.down().map_err(Into::into)
}

#[test]
fn a_terminal_is_passed_through_and_ctrl_c_reaches_the_program_only() -> Result<()> {
    let case = Case::new("  nodes: {a: {kind: linux}}\n")?;
    let lab = case.up()?;
    // A terminal of its own, in which "script" types what we write.
    // One process: a shell whose child dies of the same signal may end by it. Its words are not those of the command
    // line, which the screen shows too.
    let program = r#"$| = 1; $SIG{INT} = sub { print qq(cau), qq(ght\n); exit 9 }; print qq(rea), qq(dy\n); sleep 60 while 1"#;
    // "script" starts the line in the user's shell, in the foreground too: it must not be there to die of the interrupt.
    let line = format!(
        "exec {PROGRAM} exec --name {} --node a -- sh -c 'tty; exec perl -e \"$0\"' '{program}'",
        case.name
    );
    let log = case.dir.path().join("screen");
    let mut script = Command::new("script")
        .args(["--quiet", "--flush", "--return", "--command", &line])
        .arg(&log)
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let screen = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_for("the shell to be ready", || Ok(screen().contains("ready")))?;
    script.stdin.take().context("no stdin")?.write_all(b"\x03")?;
    assert_eq!(script.wait()?.code(), Some(9), "{}", screen());
    assert!(screen().contains("/dev/pts/") && screen().contains("caught"), "{}", screen());
    lab.down().map_err(Into::into)
}

#[test]
fn what_the_kernel_lacks_is_said_before() -> Result<()> {
    let case = Case::new("  nodes: {a: {kind: linux, exec: [\"ip link add red type vrf table 7\"]}}\n")?;
    let output = case.cli(&["up", "--no-vm"])?;
    let has_vrf = Command::new("unshare")
        .args(["--net", "ip", "link", "add", "red", "type", "vrf", "table", "7"])
        .output()?;
    assert_eq!(
        text(&output.stderr).contains("this kernel has no vrf"),
        !has_vrf.status.success(),
        "{}",
        text(&output.stderr)
    );
    case.cli(&["down"]).map(drop)
}

#[test]
fn after_kill_9_nodes_end_and_the_next_up_works() -> Result<()> {
    let case = Case::new(SLOW)?;
    let mut child = start_slowly(&case)?;
    let nodes = case.state()?.context("no state")?.nodes;
    child.kill()?;
    child.wait()?;
    // Without anybody's help: they hang on the runner.
    wait_for("the nodes to end", || Ok(!nodes.iter().any(causeway_labs::NodeState::is_alive)))?;

    case.write("lab.clab.yml", &format!("name: {}\ntopology:\n{TWO_NODES}", case.name))?;
    let lab = case.up()?;
    out(&lab, "a", &["ping", "-c1", "-W2", "10.0.0.2"])?;
    lab.down()?;
    case.assert_no_traces()
}

#[test]
fn what_a_killed_up_left_goes_with_the_next_up_of_any_lab() -> Result<()> {
    let killed = Case::new(SLOW)?;
    let mut child = start_slowly(&killed)?;
    child.kill()?;
    child.wait()?;
    // A test beside this one may have swept already, which is as good.
    wait_for("the nodes to end", || Ok(!killed.state()?.is_some_and(|state| state.is_alive())))?;
    let other = Case::new("  nodes: {a: {kind: linux}}\n")?;
    let lab = other.up()?;
    killed.assert_no_traces()?;
    lab.down().map_err(Into::into)
}

#[test]
fn after_kill_9_down_removes_the_rest() -> Result<()> {
    let case = Case::new(SLOW)?;
    let mut child = start_slowly(&case)?;
    child.kill()?;
    child.wait()?;
    case.cli(&["down", "--cleanup"])?;
    case.assert_no_traces()?;
    assert!(!common::exists(case.dir.path().join(format!("clab-{}", case.name))));
    // Again: nothing to do is no error.
    case.cli(&["down"]).map(drop)
}

#[test]
fn one_file_is_up_twice_under_two_names() -> Result<()> {
    let case = Case::new(TWO_NODES)?;
    let first = case.up()?;
    let second = causeway_labs::up(&causeway_labs::UpOptions {
        name: Some(format!("{}-second", case.name)),
        ..case.options()
    })?;
    for lab in [&first, &second] {
        out(lab, "a", &["ping", "-c1", "-W2", "10.0.0.2"])?;
    }
    // The ARP tables of both know the same address with other MACs: two fabrics.
    let mac = |lab| out(lab, "b", &["cat", "/sys/class/net/eth1/address"]);
    assert_ne!(mac(&first)?, mac(&second)?);
    second.down()?;
    out(&first, "a", &["ping", "-c1", "-W2", "10.0.0.2"])?;

    let again = case.try_cli(&["up"])?;
    assert_eq!(again.status.code(), Some(4));
    assert!(text(&again.stderr).contains("already up"), "{}", text(&again.stderr));
    out(&first, "a", &["ping", "-c1", "-W2", "10.0.0.2"])?;
    first.down()?;
    case.assert_no_traces()
}

#[test]
fn binds_exec_env_and_sysctls_mean_what_they_say() -> Result<()> {
    let case = Case::new(
        r#"
  defaults: {env: {COMMON: c}}
  nodes:
    a:
      kind: linux
      image: causeway/server:latest
      binds:
        - data/in.txt:/deep/er/in.txt:ro
        - data/__clabNodeName__:/var/data
      env: {GREETING: "hello world"}
      labels: {my-label: x}
      sysctls: {net.ipv4.ip_forward: 0, net.ipv4.conf.eth1.arp_ignore: 1}
      exec:
        - printf %s|%s 'one  word' *
        - sh -c 'echo "$$GREETING $$COMMON $$CLAB_INTFS $$CLAB_LABEL_MY_LABEL $$CLAB_LABEL_CLAB_NODE_NAME" > /var/data/env'
        - sh -c 'echo oops >&2; exit 3'
        - touch /after
    b: {kind: linux}
  links:
    - endpoints: ["a:eth1", "b:eth1"]
"#,
    )?;
    case.write("data/in.txt", "from the machine")?;
    case.write("data/a/old", "")?;
    let lab = case.up()?;
    assert_eq!(lab.failed_exec(), 1);
    assert_eq!(out(&lab, "a", &["cat", "/deep/er/in.txt"])?, "from the machine");
    assert_ne!(lab.exec("a", &["sh", "-c", "echo x > /deep/er/in.txt"])?.return_code, 0, "it is read-only");
    let env = std::fs::read_to_string(case.dir.path().join("data/a/env"))?;
    assert_eq!(env.trim(), "hello world c 1 x a");
    let log = lab.log("a");
    assert!(log.contains("one  word|*"), "no shell, no globs: {log}");
    assert!(log.contains("oops") && log.contains("exit status 3"), "{log}");
    out(&lab, "a", &["test", "-e", "/after"])?;
    assert_eq!(
        out(&lab, "a", &["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv4.conf.eth1.arp_ignore"])?,
        "0\n1"
    );
    assert_eq!(out(&lab, "b", &["cat", "/proc/sys/net/ipv4/ip_forward"])?, "1");
    lab.down()?;
    case.assert_no_traces()
}

#[test]
fn a_node_has_its_own_root_and_cannot_change_the_machine() -> Result<()> {
    let case = Case::new(TWO_NODES)?;
    let lab = case.up()?;
    let mark = format!("/etc/causeway-test-{}", case.name);
    for node in ["a", "b"] {
        out(&lab, node, &["touch", &mark, "/tmp/x", "/run/x"])?;
        // Needs a root that was pivoted to: mount propagation is changed.
        out(&lab, node, &["sh", "-ec", "ip netns add w; ip netns exec w ip link set lo up; ip netns del w"])?;
        let seen: usize = out(&lab, node, &["sh", "-c", "ls -d /proc/[0-9]*/ | wc -l"])?.parse()?;
        assert!(seen <= 8, "{node} sees {seen} processes: only its own are its business");
        assert_eq!(lab.exec(node, &["ls", "/.causeway-outside"])?.return_code, 2);
    }
    assert!(!common::exists(&mark));
    // `a` is the machine's own root, `b` its image's.
    assert!(out(&lab, "a", &["ls", "/proc/self/exe"]).is_ok());
    out(&lab, "b", &["test", "-x", "/usr/bin/etcd"])?;
    lab.down()?;
    case.assert_no_traces()
}

#[test]
fn frr_takes_its_startup_config_from_image_bind_or_file() -> Result<()> {
    let case = Case::new(
        r#"
  defaults: {kind: linux}
  nodes:
    r1: {image: "causeway/frr:8.4", startup-config: "__clabNodeName__.conf", exec: ["vtysh -c 'show running-config'"]}
    r2: {image: "causeway/frr:10.7", startup-config: "__clabNodeName__.conf", exec: ["vtysh -c 'show running-config'"]}
    r3: {image: "causeway/frr:8.4", binds: ["r3.conf:/etc/frr/frr.conf:ro"]}
"#,
    )?;
    for node in ["r1", "r2", "r3"] {
        let config = format!(
            "hostname {node}\nip route 192.0.2.0/24 blackhole\nrouter bgp 65000\n bgp router-id 192.0.2.1\n"
        );
        case.write(&format!("{node}.conf"), &config)?;
    }
    let lab = case.up()?;
    for (node, version) in [("r1", "8.4"), ("r2", "10."), ("r3", "8.4")] {
        wait_for("FRR to install a route", || {
            Ok(out(&lab, node, &["ip", "route"])?.contains("blackhole 192.0.2.0/24"))
        })
        .with_context(|| lab.log(node))?;
        assert!(out(&lab, node, &["vtysh", "-c", "show version"])?.contains(&format!("FRRouting {version}")));
        assert!(out(&lab, node, &["vtysh", "-c", "show running-config"])?.contains("router bgp 65000"));
    }
    // When exec runs, FRR has its configuration.
    for node in ["r1", "r2"] {
        assert!(lab.log(node).contains("router bgp 65000"), "{}", lab.log(node));
    }
    assert_eq!(std::fs::read_to_string(case.dir.path().join("r3.conf"))?.lines().next(), Some("hostname r3"));
    lab.down()?;
    case.assert_no_traces()
}

#[test]
fn exec_gives_exit_status_and_output_also_in_parallel() -> Result<()> {
    let case = Case::new(TWO_NODES)?;
    case.cli(&["up"])?;
    let one = case.try_cli(&["exec", "--node", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    assert_eq!(
        (one.status.code(), text(&one.stdout), text(&one.stderr)),
        (Some(7), "out".to_owned(), "err".to_owned())
    );
    let all = case.try_cli(&["exec", "-o", "json", "--", "sh", "-c", "hostname; test $(hostname) = a"])?;
    assert_eq!(all.status.code(), Some(1), "one of two failed");
    let json: serde_json::Value = serde_json::from_slice(&all.stdout)?;
    let b = &json[format!("clab-{}-b", case.name)][0];
    assert_eq!(
        (b["return-code"].as_i64(), b["stdout"].as_str(), b["cmd"][0].as_str()),
        (Some(1), Some("b\n"), Some("sh"))
    );
    assert_eq!(case.try_cli(&["exec", "--node", "c", "--", "true"])?.status.code(), Some(64));

    let lab = case.state()?.context("no state")?;
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let lab = &lab;
            scope.spawn(move || {
                for round in 0..10 {
                    let node = &lab.nodes[(thread + round) % 2];
                    let word = format!("{thread}-{round}");
                    let result =
                        causeway_labs::exec(lab, node, &["sh", "-c", &format!("echo $(hostname) {word}")])
                            .unwrap();
                    assert_eq!((result.return_code, result.stdout), (0, format!("{} {word}\n", node.name)));
                }
            });
        }
    });
    let inspected = case.cli(&["inspect", "-o", "json"])?;
    let json: serde_json::Value = serde_json::from_slice(&inspected.stdout)?;
    assert_eq!(json[&case.name][0]["name"].as_str(), Some(format!("clab-{}-a", case.name).as_str()));
    case.cli(&["down"])?;
    case.assert_no_traces()
}

#[test]
fn an_entry_point_is_seen_to_run_and_to_end() -> Result<()> {
    let case = Case::new(
        r#"
  defaults: {kind: linux, image: causeway/server:latest}
  nodes:
    runs: {entrypoint: sh, cmd: "-c 'trap \"echo bye; exit 0\" TERM; echo up; while :; do sleep 0.1; done'"}
    ends: {entrypoint: sleep, cmd: "5x"}
    orphans: {entrypoint: "sh -c 'sh -c \"sleep 0.01 & sleep 0.02 &\"; sleep 1000'"}
"#,
    )?;
    let lab = case.up()?;
    wait_for("the entry point to end", || {
        Ok(node_rows(lab.state()).iter().any(|row| row.status.ends_with("entry point exited with 1")))
    })?;
    assert_eq!(node_rows(lab.state())[0].state, "running");
    wait_for("its words in the log", || Ok(lab.log("runs").contains("up")))?;
    let sleeps = || out(&lab, "orphans", &["ps", "--no-headers", "-o", "stat,args", "-C", "sleep"]);
    wait_for("orphans to be reaped", || Ok(sleeps()?.lines().count() == 1))?;
    assert!(sleeps()?.ends_with("sleep 1000"), "{:?}", sleeps());
    // SIGTERM to PID 1 reaches the entry point; PID 1 ends after it, and the node with PID 1.
    let node = lab.node("runs")?.clone();
    kill(pid_of(lab.pid("runs")?), Signal::SIGTERM)?;
    wait_for("the node to end", || Ok(!node.is_alive()))?;
    assert!(lab.log("runs").contains("bye"), "{}", lab.log("runs"));
    assert_eq!(node_rows(lab.state())[0].state, "exited");
    assert!(lab.exec("runs", &["true"]).is_err());
    lab.down()?;
    case.assert_no_traces()
}

#[test]
fn down_ends_programs_that_entered_from_outside() -> Result<()> {
    let case = Case::new(TWO_NODES)?;
    let lab = case.up()?;
    let netns = lab.node("a")?.netns;
    let mut guest =
        Command::new("ip").args(["netns", "exec", &lab.node("a")?.long_name, "sleep", "1000"]).spawn()?;
    wait_for("it to enter", || Ok(processes_in(netns).contains(&guest.id())))?;
    lab.down()?;
    assert!(!guest.wait()?.success());
    case.assert_no_traces()
}

#[test]
fn links_to_the_machine_come_and_go() -> Result<()> {
    let port = format!("h{}", std::process::id());
    let case = Case::new(&format!(
        r#"
  nodes:
    a: {{kind: linux}}
    c: {{kind: linux}}
    "br0|a": {{kind: bridge, network-mode: "container:a"}}
  links:
    - endpoints: ["a:eth1", "host:{port}"]
    - endpoints: ["br0|a:p1", "c:eth1"]
    - type: veth
      mtu: 1500
      endpoints:
        - {{node: a, interface: "Ethernet1/1/1 with a long name"}}
        - {{node: c, interface: eth2, mac: "02:00:00:00:00:09"}}
"#
    ))?;
    let lab = case.up()?;
    let there = || common::exists(format!("/sys/class/net/{port}"));
    assert!(there());
    assert!(out(&lab, "a", &["ip", "-o", "link", "show", "master", "br0"])?.contains("p1"));
    assert_eq!(out(&lab, "c", &["cat", "/sys/class/net/eth2/address"])?, "02:00:00:00:00:09");
    out(&lab, "a", &["ip", "link", "show", "Ethernet1-1-1-with-a-long-name"])?;
    lab.down()?;
    wait_for("the machine's end to go", || Ok(!there()))?;
    case.assert_no_traces()
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_stays() -> Result<()> {
    let refused = [
        ("  nodes: {a: {kind: linux, image: nobody/knows:1}}\n", "causeway/server:latest"),
        ("  nodes: {a: {kind: linux, binds: [\"nothing:/x\"]}}\n", "nothing"),
        ("  nodes: {a: {kind: linux, network-mode: host}}\n", "network-mode"),
        (
            "  nodes: {br-none: {kind: bridge}, a: {kind: linux}}\n  links: [{endpoints: [\"a:eth1\", \"br-none:p1\"]}]\n",
            "br-none",
        ),
        ("  nodes: {a: {kind: linux, entrypoint: /no/such/program}}\n", "/no/such/program"),
    ];
    for (topology, words) in refused {
        let case = Case::new(topology)?;
        let output = case.try_cli(&["up"])?;
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{topology}: {error}");
        assert!(error.contains(words), "{topology}: {error}");
        case.assert_no_traces()?;
        assert!(case.try_cli(&["inspect"])?.status.code() == Some(1), "it is not up");
    }
    let case = Case::new(TWO_NODES)?;
    case.write("other.clab.yml", "name: x\n")?;
    let output = case.try_cli(&["up"])?;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("2 files"), "{}", text(&output.stderr));
    Ok(())
}

#[test]
fn without_root_it_says_so() -> Result<()> {
    let case = Case::new(TWO_NODES)?;
    // The build folder may not be readable for others: a copy is.
    let program = case.dir.path().join("causeway-lab");
    // Copied by another process: one that we start at the same moment would inherit the open file, and a program that
    // is open for writing cannot be run.
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status()?.success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(case.dir.path(), open)?;
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["up", "-t"])
        .arg(case.dir.path())
        .output()?;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("sudo"), "{}", text(&output.stderr));
    Ok(())
}
