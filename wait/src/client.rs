//! The client side of the readiness socket: waits, then becomes the command. Small, blocking, and without anything that
//! a start would have to wait for.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::{Level, SOCKET, Said};

/// Exit code of a wait whose time was over.
pub const LATE: u8 = 6;
/// Between two tries to reach the agent.
const RETRY: Duration = Duration::from_millis(20);
/// A wait that takes longer says what it waits for.
const QUIET: Duration = Duration::from_secs(2);
/// How much later than the time asked for the agent's answer may come.
const GRACE: Duration = Duration::from_millis(500);
/// What is used to say where the socket is, where no flag can be given.
const VARIABLE: &str = "CAUSEWAY_WAIT_SOCKET";

/// How it is called.
pub const USAGE: &str = "\
Wait until the ports of this network namespace are ready, then run a command in place of this process

Usage: causeway-wait [OPTIONS] [--] [COMMAND [ARGUMENT]...]

Options:
  --level LEVEL    programmed, advertised or proven [default: advertised]
  --timeout TIME   give up after so long, for example 10s, 500ms, 2m [default: 10s]
  --best-effort    run the command also when the time is over or the agent refuses
  --port KEY       of several ports wait for this one, NETWORK/NAME or VRF/NETWORK/NAME; as root in the host's own
                   network namespace any port of the node
  --socket PATH    the agent's socket [env: CAUSEWAY_WAIT_SOCKET] [default: /run/causeway/wait/wait.sock]
  --quiet          say nothing while waiting
  -h, --help       print this
  -V, --version    print the version

Exit codes: 6 the time was over (the reason is printed), 1 the agent refuses, 64 wrong command line, 126 and 127 the command
cannot be run or is not found; else the command's own.
";

/// What to wait for, and what then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// How far.
    pub level: Level,
    /// How long.
    pub timeout: Duration,
    /// The command runs in any case.
    pub best_effort: bool,
    /// Which port, if not all of the namespace.
    pub port: Option<String>,
    /// Where the agent is.
    pub socket: PathBuf,
    /// Nothing is said while waiting.
    pub quiet: bool,
    /// What to become; empty: nothing, and to end with 0.
    pub command: Vec<OsString>,
}

impl Default for Wait {
    fn default() -> Self {
        Wait {
            level: Level::Advertised,
            timeout: Duration::from_secs(10),
            best_effort: false,
            port: None,
            socket: std::env::var_os(VARIABLE).map_or_else(|| SOCKET.into(), PathBuf::from),
            quiet: false,
            command: Vec::new(),
        }
    }
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// To wait.
    Wait(Wait),
    /// To explain itself.
    Help,
    /// To say its version.
    Version,
}

/// A time like 10s, 500ms, 2m; a bare number is seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bad = || format!("'{text}' is no time; write 10s, 500ms or 2m");
    let number: u64 = number.parse().map_err(|_| bad())?;
    let scale = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number.checked_mul(scale).map(Duration::from_millis).ok_or_else(bad)
}

/// Reads a command line, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let mut wait = Wait::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default();
        let (flag, given) = match text.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (text, None),
        };
        let mut value = || match given.clone() {
            Some(value) => Ok(value),
            None => {
                let next = arguments.next().and_then(|value| value.into_string().ok());
                next.ok_or_else(|| format!("{flag} needs a value"))
            }
        };
        match flag {
            "--level" | "--for" => {
                wait.level = value()?.parse().map_err(|error| format!("--level {error}"))?
            }
            "--timeout" => {
                wait.timeout = parse_time(&value()?).map_err(|error| format!("--timeout {error}"))?
            }
            "--port" => wait.port = Some(value()?).filter(|port| !port.contains(char::is_whitespace)),
            "--socket" => wait.socket = value()?.into(),
            "--best-effort" => wait.best_effort = true,
            "--quiet" => wait.quiet = true,
            "-h" | "--help" => return Ok(Asked::Help),
            "-V" | "--version" => return Ok(Asked::Version),
            "--" => {
                wait.command = arguments.collect();
                break;
            }
            _ if text.starts_with('-') => {
                return Err(format!("{text} is no flag of this; --help says which are"));
            }
            _ => {
                wait.command = std::iter::once(argument).chain(arguments).collect();
                break;
            }
        }
    }
    Ok(Asked::Wait(wait))
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Ready,
    Late(String),
    Refused(String),
}

/// Waits and becomes the command; returns only without one, or when it cannot.
pub fn run(wait: &Wait) -> ExitCode {
    let end = wait_for(wait);
    let (text, code) = match end {
        End::Ready => (None, 0),
        End::Late(why) => (Some(format!("not {} within {:?}: {why}", wait.level, wait.timeout)), LATE),
        End::Refused(why) => (Some(why), 1),
    };
    if let Some(text) = text {
        if !wait.best_effort {
            say(&text);
            return ExitCode::from(code);
        }
        say(&format!("{text}; going on all the same (--best-effort)"));
    }
    become_command(&wait.command)
}

fn become_command(command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else { return ExitCode::SUCCESS };
    // Only comes back if it fails.
    let error = Command::new(program).args(arguments).exec();
    say(&format!("cannot run {}: {error}", program.display()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

fn say(text: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "causeway-wait: {text}");
}

/// Asks until it is ready or the time is over. An agent that goes away is asked again when it is back.
#[expect(clippy::disallowed_methods, reason = "a program without a runtime, which has nothing else to do")]
fn wait_for(wait: &Wait) -> End {
    let begin = Instant::now();
    let deadline = begin + wait.timeout;
    let mut state =
        State { told: String::new(), reason: String::new(), speaks_at: begin + QUIET, quiet: wait.quiet };
    loop {
        match ask(wait, deadline, &mut state) {
            Ok(Some(end)) => return end,
            Ok(None) if state.reason.is_empty() => "the agent went away".clone_into(&mut state.reason),
            Ok(None) => {}
            Err(error) => {
                state.reason = format!("the agent cannot be reached at {}: {error}", wait.socket.display());
                state.speak();
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return End::Late(state.reason);
        }
        std::thread::sleep(RETRY.min(left));
    }
}

struct State {
    told: String,
    /// What it waits for, as far as is known.
    reason: String,
    speaks_at: Instant,
    quiet: bool,
}

impl State {
    fn speak(&mut self) {
        if !self.quiet && Instant::now() >= self.speaks_at && self.told != self.reason {
            say(&format!("waiting: {}", self.reason));
            self.told.clone_from(&self.reason);
        }
    }
}

/// One conversation. `None`: the agent ended it without a word on how it ends.
fn ask(wait: &Wait, deadline: Instant, state: &mut State) -> io::Result<Option<End>> {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut stream = UnixStream::connect(&wait.socket)?;
    let port = wait.port.as_deref().unwrap_or_default();
    writeln!(stream, "wait {} {} {port}", wait.level, left.as_millis())?;
    let mut lines = BufReader::new(&stream);
    let mut line = String::new();
    loop {
        let now = Instant::now();
        let last = deadline + GRACE;
        let quiet_left = state.speaks_at.saturating_duration_since(now);
        let until = last.saturating_duration_since(now);
        // Wakes to say what it waits for.
        let patience = if quiet_left.is_zero() || state.quiet { until } else { until.min(quiet_left) };
        stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        match lines.read_line(&mut line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if Instant::now() >= last {
                    return Ok(Some(End::Late("the agent did not answer in time".into())));
                }
                state.speak();
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // It was stopped in mid-word.
            Err(_) => return Ok(None),
        }
        match line.trim_end().parse::<Said>() {
            Ok(Said::Ready(_)) => return Ok(Some(End::Ready)),
            Ok(Said::Late(leg, text)) => return Ok(Some(End::Late(format!("{leg} is late: {text}")))),
            Ok(Said::Refused(why)) => return Ok(Some(End::Refused(why))),
            Ok(Said::Waiting(leg, text)) => {
                state.reason = format!("{leg} is late: {text}");
                state.speak();
            }
            Err(error) => return Ok(Some(End::Refused(error))),
        }
        line.clear();
    }
}

/// The whole program: of a command line without the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let out = |text: &str| {
        let written = io::stdout().write_all(text.as_bytes());
        ExitCode::from(u8::from(written.is_err()))
    };
    match parse(arguments) {
        Ok(Asked::Wait(wait)) => run(&wait),
        Ok(Asked::Help) => out(USAGE),
        Ok(Asked::Version) => out(concat!("causeway-wait ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => {
            say(&error);
            ExitCode::from(64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Wait, String> {
        match parse(words.split_whitespace().map(OsString::from))? {
            Asked::Wait(wait) => Ok(wait),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_command_line_is_read() {
        let wait =
            read("--level proven --timeout=500ms --best-effort --port web/a -- sh -c --level").unwrap();
        assert_eq!((wait.level, wait.timeout), (Level::Proven, Duration::from_millis(500)));
        assert!(wait.best_effort && wait.port.as_deref() == Some("web/a"));
        assert_eq!(wait.command, ["sh", "-c", "--level"]);
        assert_eq!(read("sleep 1 --quiet").unwrap().command, ["sleep", "1", "--quiet"]);
        assert_eq!(read("--timeout 2m").unwrap().timeout, Duration::from_secs(120));
        for bad in
            ["--timeout 1x", "--timeout", "--level soon", "--nonsense", "--timeout 99999999999999999999s"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
