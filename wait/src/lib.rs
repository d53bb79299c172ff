//! Waiting until the ports of a network namespace are ready, and becoming a command then: the client of an agent's
//! readiness socket, and what is said there. Nothing but the standard library, so that it can be linked statically, is
//! small, and starts at once in any image.
//!
//! Lines of text, so that a shell can speak it. The client says `wait LEVEL MILLISECONDS` and, if it is root in the host's
//! own namespace or has several ports, a port's key. The agent answers with any number of `waiting LEG TEXT` and one of
//! `ready TEXT`, `late LEG TEXT` and `refused TEXT`.

pub mod client;

use std::fmt;
use std::str::FromStr;

/// Where the socket is, unless configured. A directory of its own: containers mount the directory, since a mounted
/// socket would be gone with the agent that made it.
pub const SOCKET: &str = "/run/causeway/wait/wait.sock";

/// How far a port shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// This node's kernel is programmed and read back.
    Programmed,
    /// Its routes were sent to every established BGP peer.
    Advertised,
    /// A probe from another node was answered.
    Proven,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Programmed => "programmed",
            Level::Advertised => "advertised",
            Level::Proven => "proven",
        })
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Level, String> {
        [Level::Programmed, Level::Advertised, Level::Proven]
            .into_iter()
            .find(|level| level.to_string() == text)
            .ok_or_else(|| format!("'{text}' is no level: programmed, advertised or proven"))
    }
}

/// What is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// Nobody bound a port to the namespace.
    Allocation,
    /// This node.
    Host,
    /// Routes to BGP peers.
    Fabric,
    /// The probe from another node.
    Probe,
}

impl Leg {
    const ALL: [Leg; 4] = [Leg::Allocation, Leg::Host, Leg::Fabric, Leg::Probe];
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Leg::Allocation => "allocation",
            Leg::Host => "host",
            Leg::Fabric => "fabric",
            Leg::Probe => "probe",
        })
    }
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It goes on: what for.
    Waiting(Leg, String),
    /// All ports are there: which.
    Ready(String),
    /// The time is over: what was late.
    Late(Leg, String),
    /// It will never be: why.
    Refused(String),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line each, whatever a problem's text has in it.
        let line = |text: &str| text.replace(char::is_control, " ");
        match self {
            Said::Waiting(leg, text) => write!(f, "waiting {leg} {}", line(text)),
            Said::Ready(text) => write!(f, "ready {}", line(text)),
            Said::Late(leg, text) => write!(f, "late {leg} {}", line(text)),
            Said::Refused(text) => write!(f, "refused {}", line(text)),
        }
    }
}

impl FromStr for Said {
    type Err = String;

    fn from_str(line: &str) -> Result<Said, String> {
        let unknown = || format!("'{line}' is not what a readiness socket says");
        let (word, rest) = line.split_once(' ').ok_or_else(unknown)?;
        let leg = || {
            let (word, text) = rest.split_once(' ').ok_or_else(unknown)?;
            let leg = Leg::ALL.into_iter().find(|leg| leg.to_string() == word).ok_or_else(unknown)?;
            Ok((leg, text.to_owned()))
        };
        match word {
            "waiting" => leg().map(|(leg, text)| Said::Waiting(leg, text)),
            "late" => leg().map(|(leg, text)| Said::Late(leg, text)),
            "ready" => Ok(Said::Ready(rest.to_owned())),
            "refused" => Ok(Said::Refused(rest.to_owned())),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for said in [
            Said::Waiting(Leg::Host, "port web/a: no namespace".into()),
            Said::Ready("default/web/a".into()),
            Said::Late(Leg::Probe, "x y".into()),
            Said::Refused("no".into()),
        ] {
            assert_eq!(said.to_string().parse(), Ok(said));
        }
        let lines = Said::Refused("a\nready b".into()).to_string();
        assert_eq!(lines, "refused a ready b");
        for line in ["", "ready", "late", "late host", "waiting nowhere x", "hello you"] {
            assert!(line.parse::<Said>().is_err(), "{line}");
        }
    }
}
