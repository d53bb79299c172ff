//! Tests that need a kernel with more than this machine's has: the same test executable runs the same test in a guest.
//!
//! ```ignore
//! #[test]
//! fn vlans_are_kept_apart() -> anyhow::Result<()> {
//!     guest::test::here_or_in_guest(&["8021q", "vlan_filtering"], "vlans_are_kept_apart", || {
//!         // everything the test does
//!         Ok(())
//!     })
//! }
//! ```
//!
//! A boot takes four to ten seconds, and starting programs is slow inside: **put many checks into one test**, and use
//! netlink, `ip -batch` and the like in place of many short commands. What is written is lost with the guest, but for the
//! directory [`output`]. There is no network to the outside.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::{Guest, GuestError};
use crate::probe;

/// Holds the test's name while it runs in a guest.
const IN_GUEST: &str = "CAUSEWAY_GUEST_TEST";
/// A directory of the machine that outlives the guest.
const OUTPUT: &str = "CAUSEWAY_GUEST_OUTPUT";
/// File in it that says that the test was really run.
const REACHED: &str = ".reached";
/// See `causeway_tests::met`: a file to which tests append what they have met.
const PEERS: &str = "CAUSEWAY_TEST_PEERS";

/// Size and time limit of the guest of a test.
#[derive(Debug, Clone)]
pub struct TestGuest {
    /// Memory in MiB.
    pub memory: u32,
    /// Longest life, boot included.
    pub limit: Duration,
    /// A directory for the test's results that outlives the guest: [`output`] gives its path inside.
    pub output: Option<PathBuf>,
    /// Words before the test's own command line: a program that prepares the guest and then runs what follows.
    pub through: Vec<OsString>,
}

impl Default for TestGuest {
    /// 2 GiB, five minutes, no results.
    fn default() -> Self {
        TestGuest { memory: 2048, limit: Duration::from_secs(300), output: None, through: Vec::new() }
    }
}

/// Runs `body` here if this kernel has all `features` (names as in [`crate::missing_features`]), else the whole test in a guest.
/// `test` is the test's name as libtest prints it: `module::name`, for a test of a file in `tests/` just `name`.
///
/// # Errors
/// Those of `body`; the test fails in the guest, which has printed why; or there is no guest: a missing feature or package
/// is never a pass.
pub fn here_or_in_guest<E: From<GuestError>>(
    features: &[&str],
    test: &str,
    body: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    if in_guest_instead(features, test, &TestGuest::default())? { Ok(()) } else { body() }
}

/// The first line of an async test, or of one with wishes: `if in_guest_instead(…)? { return Ok(()) }`. True: the test
/// was run in a guest and has passed there. False: it is to be run here and now.
///
/// # Errors
/// Those of [`here_or_in_guest`].
pub fn in_guest_instead(features: &[&str], test: &str, wishes: &TestGuest) -> Result<bool, GuestError> {
    check_name(test)?;
    let missing = probe::missing(features)?;
    if std::env::var_os(IN_GUEST).is_some() {
        return if missing.is_empty() { reached().map(|()| false) } else { Err(lacking(test, &missing)) };
    }
    if missing.is_empty() && !is_forced() {
        return Ok(false);
    }
    println!("test {test}: this kernel has no {}: running it in a guest", missing.join(", "));
    run(test, wishes).map(|()| true)
}

/// Whether [`in_guest_instead`] will use a guest, for what has to be made ready for it on the machine.
///
/// # Errors
/// A name is none of a feature's, or it cannot be tried.
pub fn will_be_in_guest(features: &[&str]) -> Result<bool, GuestError> {
    if std::env::var_os(IN_GUEST).is_some() {
        return Ok(false);
    }
    Ok(is_forced() || !probe::missing(features)?.is_empty())
}

/// For those who want to see a test in a guest although this machine could do it.
fn is_forced() -> bool {
    std::env::var_os("CAUSEWAY_TEST_IN_GUEST").is_some_and(|value| value == "always")
}

/// In a guest: the directory whose files outlive it. Else, and if none was asked for: `None`.
pub fn output() -> Option<PathBuf> {
    std::env::var_os(OUTPUT).filter(|_| std::env::var_os(IN_GUEST).is_some()).map(PathBuf::from)
}

/// libtest names the thread of a test after it. A name that is mistyped would run nothing, which looks like success.
fn check_name(test: &str) -> Result<(), GuestError> {
    match std::thread::current().name() {
        Some(name)
            if name != "main" && name != test && name.contains(test.rsplit("::").next().unwrap_or(test)) =>
        {
            Err(GuestError::Test(format!(
                "this test is called {name}, not {test}: the guest must be told its whole name"
            )))
        }
        _ => Ok(()),
    }
}

fn lacking(test: &str, missing: &[String]) -> GuestError {
    GuestError::Test(format!("test {test}: the guest's kernel has no {}", missing.join(", ")))
}

fn reached() -> Result<(), GuestError> {
    let Some(directory) = std::env::var_os(OUTPUT) else { return Ok(()) };
    let path = PathBuf::from(directory).join(REACHED);
    std::fs::write(&path, "").map_err(super::error::failed(format!("write {}", path.display())))
}

fn run(test: &str, wishes: &TestGuest) -> Result<(), GuestError> {
    let exe = std::env::current_exe().map_err(super::error::failed("find this test's executable"))?;
    let own = tempfile::tempdir().map_err(super::error::failed("make a directory"))?;
    let output = wishes.output.clone().unwrap_or_else(|| own.path().to_owned());
    let peers = own.path().join("peers");
    let mut env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    env.retain(|(name, _)| name != PEERS && name != "PATH");
    let set =
        [(IN_GUEST, OsString::from(test)), (OUTPUT, output.clone().into()), (PEERS, peers.clone().into())];
    env.extend(set.map(|(name, value)| (OsString::from(name), value)));
    let mut guest = Guest { memory: wishes.memory, limit: Some(wishes.limit), env, ..Guest::new() };
    guest.shares.push(own.path().to_owned());
    if output != own.path() {
        guest.shares.push(output.clone());
    }
    let marker = output.join(REACHED);
    drop(std::fs::remove_file(&marker));
    let mut argv: Vec<&OsStr> = wishes.through.iter().map(OsString::as_os_str).collect();
    argv.extend([exe.as_os_str(), test.as_ref()]);
    argv.extend(["--exact", "--include-ignored", "--nocapture", "--test-threads=1"].map(OsStr::new));
    // By `print!`: libtest shows it with a failing test only, unless --nocapture.
    let ended = guest.run_into(&argv, Printed::default(), Printed::default())?;
    println!("test {test}: {ended}");
    pass_on(&peers);
    let was_reached = marker.exists();
    drop(std::fs::remove_file(&marker));
    if ended.status == 0 && was_reached {
        return Ok(());
    }
    Err(GuestError::Test(match ended.status {
        0 => format!("the guest has run no test {test}: is this its whole name?"),
        super::TIMED_OUT => {
            format!("test {test} was not done in its guest after {} s", wishes.limit.as_secs())
        }
        status => format!("test {test} failed in its guest (exit status {status}): see above"),
    }))
}

/// What the test has met in the guest was met.
fn pass_on(peers: &std::path::Path) {
    let (Ok(text), Some(path)) = (std::fs::read_to_string(peers), std::env::var_os(PEERS)) else { return };
    let append = || {
        use std::io::Write;
        std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
    };
    if let Err(error) = append() {
        println!("cannot note what was met in the guest: {error}");
    }
}

/// Prints whole lines with `print!`, which libtest captures on the threads of a test.
#[derive(Default)]
struct Printed {
    line: Vec<u8>,
}

impl std::io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if let Some(end) = self.line.iter().rposition(|byte| *byte == b'\n') {
            let lines: Vec<u8> = self.line.drain(..=end).collect();
            print!("{}", String::from_utf8_lossy(&lines));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Printed {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            println!("{}", String::from_utf8_lossy(&self.line));
        }
    }
}
