//! Runs containerlab topology files in namespaces: no Docker, no images from elsewhere.
//!
//! Every node is a process (PID 1, [`init`](crate::cli::LabCommand::Init)) with its own network, mount, PID, UTS and
//! IPC namespace over an overlay of its image's root. Nothing of a node is visible on the machine but that process, a
//! name in `/run/netns`, and the lab's state in `/run/causeway/labs`: when PID 1 is killed, the kernel removes the rest.
//!
//! ```no_run
//! # fn main() -> Result<(), causeway_labs::LabError> {
//! let mut options = causeway_labs::UpOptions::new("labs/quickstart");
//! options.name = Some(format!("quickstart-{}", std::process::id()));
//! let lab = causeway_labs::up(&options)?;
//! let result = lab.exec("leaf1", &["vtysh", "-c", "show bgp l2vpn evpn summary json"])?;
//! println!("{}", result.stdout);
//! lab.down()
//! # }
//! ```
//!
//! All of it blocks: an async program calls it from `spawn_blocking`.
#![warn(missing_docs)]

mod cancel;
pub mod cli;
pub mod containerlab;
mod down;
mod enter;
mod error;
mod find;
pub mod guest;
mod image;
mod init;
mod links;
mod netns;
mod node;
mod note;
mod prepare;
mod probe;
pub mod report;
mod root;
mod running;
mod spec;
mod state;
mod up;

pub use cancel::Cancel;
pub use down::down;
pub use enter::{ExecResult, command, exec};
pub use error::LabError;
pub use find::{known_labs, lab_name, running_lab, topology_file};
pub use guest::GuestError;
pub use image::{Image, Images};
pub use probe::missing as missing_features;
pub use running::RunningLab;
pub use spec::EntryStatus;
pub use state::{GuestState, LabPhase, LabState, NodeState, ProcessId, Runner};
pub use up::{Place, Step, UpOptions, state_dir, up};
