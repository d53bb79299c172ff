//! The readiness socket: a process waits until the ports of its network namespace are ready.
//!
//! ```text
//! process ── "wait advertised 10000" ──▶ server ── who is it? SO_PEERCRED, /proc/PID/ns/net ──▶ its ports
//!         ◀── waiting, ready, late ────────┤
//!                    Local (reconciler) ───┤  programmed: this node's own knowledge
//!                    Book (stream) ────────┘  advertised, proven: the controller's word, kept
//! ```
//!
//! Lines of text, so that a shell can speak it. The client says `wait LEVEL MILLISECONDS` and, if it is root in the host's
//! own namespace or has several ports, a port's key. The server answers with any number of `waiting LEG TEXT` and one of
//! `ready TEXT`, `late LEG TEXT` and `refused TEXT`. Who asks is not what it claims to be but what the kernel says.

mod answer;
pub mod book;
mod peer;
mod server;

pub use causeway_wait::{Leg, Level, SOCKET, Said, client};
pub use server::Server;
