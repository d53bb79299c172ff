//! Guests, on QEMU and Debian's kernel. Needs root and what `scripts/setup.sh` prepares.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

mod common;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use causeway_labs::guest::test::{TestGuest, here_or_in_guest, in_guest_instead, output};
use causeway_labs::guest::{Guest, TIMED_OUT};
use common::{Case, text, wait_for};
use nix::sys::signal::Signal;

/// One boot for all that a single command can tell.
#[test]
fn streams_environment_directories_and_status_come_through() -> Result<()> {
    let shared = tempfile::tempdir()?;
    let mut guest = Guest::new();
    guest.env = vec![("ODD".into(), OsString::from("it's \"$HOME\"\n*"))];
    guest.directory = "/usr/share".into();
    guest.shares.push(shared.path().to_owned());
    // All byte values, many times over, on both streams at once; then what else is to be seen.
    let script = r#"
        bytes() { i=0; while [ $i -lt 256 ]; do printf "\\$(printf %o $i)"; i=$((i+1)); done; }
        bytes > /tmp/b; for i in 1 2 3 4 5 6 7 8 9 10 11; do cat /tmp/b /tmp/b > /tmp/c; mv /tmp/c /tmp/b; done
        cat /tmp/b >&2 & cat /tmp/b; wait
        printf %s "$ODD" > "$0/odd"; pwd > "$0/pwd"; id -u > "$0/id"; ip -V > "$0/ip"; uname -r > "$0/kernel"
        echo guest > /etc/written-in-guest; cat /etc/written-in-guest > "$0/written"
        exit 3"#;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let argv = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), shared.path().as_os_str()];
    let ended = guest.run_into(&argv, &mut out, &mut err)?;
    println!("{ended}");
    assert_eq!(ended.status, 3);
    let expected: Vec<u8> = (0..=255u8).cycle().take(256 << 11).collect();
    assert!(out == expected, "{} of {} bytes on stdout", out.len(), expected.len());
    assert!(err == expected, "{} of {} bytes on stderr", err.len(), expected.len());
    let told =
        |name: &str| std::fs::read_to_string(shared.path().join(name)).map(|text| text.trim().to_owned());
    assert_eq!(told("odd")?, "it's \"$HOME\"\n*");
    assert_eq!(told("pwd")?, "/usr/share");
    assert_eq!(told("id")?, "0");
    assert!(told("ip")?.contains("iproute2"), "programs are this machine's, not busybox's: {}", told("ip")?);
    assert_eq!(told("written")?, "guest");
    assert_ne!(told("kernel")?, std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    assert!(!common::exists("/etc/written-in-guest"), "a guest must not write to this machine");
    Ok(())
}

#[test]
fn exit_statuses_are_the_command_s() -> Result<()> {
    let guest = Guest::new();
    assert_eq!(guest.run(&["true"])?.status, 0);
    assert_eq!(guest.run(&["/no/such/program"])?.status, 127);
    Ok(())
}

#[test]
fn a_time_limit_ends_the_guest_with_124() -> Result<()> {
    let limit = Duration::from_secs(20);
    let guest = Guest { limit: Some(limit), ..Guest::new() };
    let start = Instant::now();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = guest.run_into(&["sh", "-c", "echo here; sleep 1000"], &mut out, &mut err)?;
    assert_eq!((ended.status, out.as_slice()), (TIMED_OUT, &b"here\n"[..]));
    ensure!(start.elapsed() < limit + Duration::from_secs(10), "it took {:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_guest_that_dies_is_an_error_with_its_last_words() -> Result<()> {
    let error = Guest::new().run_into(&["sh", "-c", "echo c > /proc/sysrq-trigger"], Vec::new(), Vec::new());
    let error = error.err().context("a panic is no exit status")?.to_string();
    assert!(error.contains("ended before its command") && error.contains("Kernel panic"), "{error}");
    Ok(())
}

/// This executable again, as the caller of a guest that is killed with `kill -9`.
#[test]
fn a_killed_caller_leaves_no_guest() -> Result<()> {
    const ROLE: &str = "CAUSEWAY_TEST_CALLER";
    let word = std::env::var(ROLE).unwrap_or_default();
    if !word.is_empty() {
        let flag = format!("causeway.test={word}");
        let guest = Guest { kernel_flags: vec![flag], ..Guest::new() };
        return guest.run(&["sleep", "1000"]).map(drop).map_err(Into::into);
    }
    let word = format!("caller-{}", std::process::id());
    let mut caller = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_killed_caller_leaves_no_guest", "--nocapture"])
        .env(ROLE, &word)
        .stdout(Stdio::null())
        .spawn()?;
    let guests = || {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = all.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
        let qemu = |line: &Vec<u8>| {
            line.starts_with(b"/usr/bin/qemu") && String::from_utf8_lossy(line).contains(&word)
        };
        lines.filter(qemu).count()
    };
    let started = wait_for("the guest to start", || Ok(guests() == 1));
    caller.kill()?;
    caller.wait()?;
    started?;
    wait_for("the guest to end", || Ok(guests() == 0))
}

/// What the project needs of the guest's kernel, on the real thing.
#[test]
fn vlans_vrfs_and_filtering_bridges_work_inside() -> Result<()> {
    let features = [
        "8021q",
        "vlan_filtering",
        "vrf",
        "dummy",
        "macvlan",
        "ipvlan",
        "netem",
        "ifb",
        "matchall",
        "flower",
        "nft_bridge_meta",
        "nft_bridge_reject",
        "nft_bridge_ct",
        "bond",
        "geneve",
    ];
    here_or_in_guest(&features, "vlans_vrfs_and_filtering_bridges_work_inside", || {
        let script = r#"set -e
            ip netns add a; ip netns add b; ip netns add sw
            ip -batch - <<END
link add a1 netns a type veth peer name p1 netns sw
link add b1 netns b type veth peer name p2 netns sw
END
            ip -n sw -batch - <<END
link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0
link set p1 master br0
link set p2 master br0
link set br0 up
link set p1 up
link set p2 up
END
            bridge -n sw -batch - <<END
vlan add dev p1 vid 7
vlan add dev p2 vid 7 pvid untagged
END
            ip -n a -batch - <<END
link add red type vrf table 7
link set a1 up
link add link a1 name a1.7 type vlan id 7
link set a1.7 master red
link set red up
link set a1.7 up
address add 10.7.0.1/24 dev a1.7
link add link a1 name a1.8 type vlan id 8
link set a1.8 up
address add 10.8.0.1/24 dev a1.8
END
            ip -n b -batch - <<END
link set b1 up
address add 10.7.0.2/24 dev b1
address add 10.8.0.2/24 dev b1
END
            ip netns exec a ip vrf exec red ping -c2 -W5 10.7.0.2
            ! ip netns exec a ping -c1 -W1 10.8.0.2
        "#;
        let done = Command::new("sh").args(["-c", script]).output()?;
        ensure!(done.status.success(), "{}{}", common::text(&done.stdout), common::text(&done.stderr));
        Ok(())
    })
}

#[test]
fn a_test_in_a_guest_fails_with_the_test_and_not_silently() -> Result<()> {
    let wishes = TestGuest { output: Some(tempfile::tempdir()?.keep()), ..TestGuest::default() };
    let name = "a_test_in_a_guest_fails_with_the_test_and_not_silently";
    // Inside: this is the body, which leaves a result and fails.
    let result = in_guest_instead(&["vlan", "vrf"], name, &wishes);
    if let (Ok(false), Some(directory)) = (&result, output()) {
        std::fs::write(directory.join("result"), "7")?;
        anyhow::bail!("as a failed check would");
    }
    let directory = wishes.output.context("no directory")?;
    let left = std::fs::read_to_string(directory.join("result"));
    std::fs::remove_dir_all(&directory)?;
    match result {
        // This machine's kernel has all of it: there is no guest to see.
        Ok(false) => Ok(()),
        Ok(true) => anyhow::bail!("the test has failed in the guest, and nobody has noticed"),
        Err(error) => {
            assert!(error.to_string().contains("failed in its guest (exit status 101)"), "{error}");
            assert_eq!(left?, "7");
            // A name that is none runs nothing, which is no success.
            let error =
                in_guest_instead(&["vlan", "vrf"], "no_such_test", &TestGuest::default()).unwrap_err();
            assert!(error.to_string().contains("has run no test"), "{error}");
            Ok(())
        }
    }
}

const VLANS: &str = r#"
  nodes:
    a:
      kind: linux
      exec:
        - sh -ec 'ip link add link eth1 name eth1.7 type vlan id 7; ip address add 10.7.0.1/24 dev eth1.7; ip link set eth1.7 up'
    b:
      kind: linux
      image: causeway/server:latest
      exec:
        - sh -ec 'ip link add link eth1 name eth1.7 type vlan id 7; ip address add 10.7.0.2/24 dev eth1.7; ip link set eth1.7 up'
  links:
    - endpoints: ["a:eth1", "b:eth1"]
"#;

/// By the command that users type: up, and everything that works on a lab that is up.
#[test]
fn a_lab_with_vlans_runs_where_there_are_vlans() -> Result<()> {
    let case = Case::new(VLANS)?;
    let has_vlans = causeway_labs::missing_features(&["vlan"])?.is_empty();
    let words: &[&str] = if has_vlans { &["up", "--vm"] } else { &["up"] };
    let said = text(&case.cli(words)?.stderr);
    println!("{said}");
    assert!(
        said.contains(if has_vlans { "as asked for" } else { "this kernel has no vlan (node a:" }),
        "{said}"
    );
    let guest = case.state()?.and_then(|state| state.guest).context("it must run in a guest")?;

    let node = |node: &'static str, rest: &[&'static str]| [&["exec", "-n", node, "--"], rest].concat();
    case.cli(&node("a", &["ping", "-c2", "-W5", "10.7.0.2"]))?;
    let ended = case.try_cli(&node("b", &["sh", "-c", "echo out; echo err >&2; hostname; exit 7"]))?;
    assert_eq!(
        (ended.status.code(), text(&ended.stdout), text(&ended.stderr)),
        (Some(7), "out\nb".into(), "err".into())
    );
    assert_eq!(case.try_cli(&node("b", &["/no/such/program"]))?.status.code(), Some(127));
    // Input, more than fits into any buffer, comes back byte for byte.
    let bytes: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
    let mut cat = case.command(&node("a", &["cat"])).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut input, sent) = (cat.stdin.take().context("no input")?, bytes.clone());
    let writer = std::thread::spawn(move || input.write_all(&sent));
    assert!(cat.wait_with_output()?.stdout == bytes, "what went in must come out");
    writer.join().unwrap()?;
    // Something in the background does not hold up its caller.
    case.cli(&node("a", &["sh", "-c", "sleep 1000 & echo here"]))?;
    a_killed_caller_ends_its_command(&case)?;

    let rows = text(&case.cli(&["inspect", "-o", "json"])?.stdout);
    assert!(rows.contains("10.7.0.2/24") && !rows.contains("exited"), "{rows}");
    assert!(text(&case.cli(&["inspect", "interfaces", "-n", "a"])?.stdout).contains("eth1.7"));
    assert!(text(&case.cli(&["logs", "a"])?.stdout).contains("eth1.7"));
    assert!(text(&case.cli(&["graph"])?.stdout).contains("graph"));
    let all = text(&case.cli(&["exec", "--cmd", "hostname", "-o", "json"])?.stdout);
    assert_eq!(all.matches("\"return-code\": 0").count(), 2, "{all}");
    assert_eq!(case.try_cli(&["up"])?.status.code(), Some(4), "it is up already");

    case.cli(&["down", "--cleanup"])?;
    case.assert_no_traces()?;
    for process in guest.keeper.into_iter().chain(guest.qemu) {
        assert!(!process.is_alive(), "{process:?}");
    }
    Ok(())
}

fn a_killed_caller_ends_its_command(case: &Case) -> Result<()> {
    let count = || -> Result<String> {
        Ok(text(
            &case.try_cli(&["exec", "-n", "b", "--", "sh", "-c", "ps -e | grep -c [p]ing; true"])?.stdout,
        ))
    };
    let mut caller =
        case.command(&["exec", "-n", "b", "--", "ping", "10.7.0.1"]).stdout(Stdio::null()).spawn()?;
    let runs = wait_for("ping to run", || Ok(count()? == "1"));
    caller.kill()?;
    caller.wait()?;
    runs?;
    wait_for("ping to end", || Ok(count()? == "0"))
}

/// Interrupted while the guest boots, and while the lab comes up in it; and with `kill -9`, after which the guest ends.
#[test]
fn an_up_in_a_guest_that_is_interrupted_leaves_nothing() -> Result<()> {
    for (signal, half_way) in [
        (Signal::SIGINT, "as asked for"),
        (Signal::SIGTERM, "startup-delay"),
        (Signal::SIGKILL, "startup-delay"),
    ] {
        let case = Case::new("  nodes: {a: {kind: linux, startup-delay: 600}}\n")?;
        let said = case.dir.path().join("said");
        let mut child = case
            .command(&["up", "--vm"])
            .stderr(std::fs::File::create(&said)?)
            .stdout(Stdio::null())
            .spawn()?;
        let reached = wait_for(half_way, || Ok(std::fs::read_to_string(&said)?.contains(half_way)));
        let guest = case.state()?.and_then(|state| state.guest);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let status = child.wait()?;
        reached?;
        let processes: Vec<_> =
            guest.into_iter().flat_map(|guest| guest.keeper.into_iter().chain(guest.qemu)).collect();
        wait_for("the guest to end", || Ok(processes.iter().all(|process| !process.is_alive())))?;
        if signal == Signal::SIGKILL {
            case.cli(&["down"])?;
        } else {
            assert_eq!(status.code(), Some(130), "{signal}");
        }
        case.assert_no_traces()?;
    }
    Ok(())
}

#[test]
fn a_lab_tied_to_this_machine_is_refused_a_guest() -> Result<()> {
    let case =
        Case::new("  nodes: {a: {kind: linux}}\n  links: [{endpoints: [\"a:eth1\", \"host:cw-none\"]}]\n")?;
    let refused = case.try_cli(&["up", "--vm"])?;
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("this machine's own interfaces"), "{said}");
    case.assert_no_traces()
}
