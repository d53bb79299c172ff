//! The configuration of a switch as text, for switches that nobody programs live: from the very plan that the agent
//! would carry out on a switch with nothing on it.

mod frr;
mod linux;
mod sonic;

use causeway_proto::v1;

use crate::model::Desired;
use crate::observed::Observed;
use crate::op::Op;
use crate::plan::{Scope, plan};

/// Form of the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A shell script of ip, bridge and sysctl commands
    #[default]
    Linux,
    /// What FRR needs beside it: VRFs and their VNIs
    Frr,
    /// Commands of SONiC
    Sonic,
    /// What the node is told to be
    Json,
}

/// A configuration.
#[derive(Debug)]
pub struct Rendered {
    /// The text, with its problems as comments where the format has comments.
    pub text: String,
    /// What is not in it, and why.
    pub problems: Vec<String>,
}

/// A node's configuration. Workloads in network namespaces are no part of it.
pub fn render(state: &v1::NodeState, format: Format) -> Rendered {
    let mut bare = state.clone();
    bare.ports.clear();
    let desired = Desired::from_state(&bare, &Desired::default());
    let mut observed = Observed::default();
    for dev in desired.fabric().switch_ports().keys() {
        observed.fabric.interfaces.insert(dev.clone(), crate::fabric::Interface::default());
    }
    let planned = plan(&desired, &observed, &Scope::All);
    let rejected = desired.rejected().iter().map(|(item, why)| format!("{item}: {}", why.reason));
    let mut problems: Vec<String> = rejected.chain(planned.problems.into_values()).collect();
    problems.dedup();
    let text = match format {
        Format::Linux => linux::script(&desired, &planned.ops, &problems),
        Format::Frr => frr::config(&desired, &problems),
        Format::Sonic => sonic::commands(&desired, &problems),
        Format::Json => crate::state_json::to_json(state) + "\n",
    };
    Rendered { text, problems }
}

/// The first lines, behind a comment sign.
fn head(sign: &str, desired: &Desired, what: &str, problems: &[String]) -> String {
    let vtep = desired.vtep().map_or_else(|| "none".to_owned(), |vtep| vtep.to_string());
    let mut text = format!(
        "{sign} {what} of node {}, VTEP {vtep}, as of revision {}; rendered by Causeway.\n",
        desired.node(),
        desired.revision()
    );
    for problem in problems {
        text += &format!("{sign} Not in here: {problem}\n");
    }
    text
}

/// True for what is only of use on a kernel that is asked first.
fn portable(op: &Op) -> Op {
    let mut op = op.clone();
    match &mut op {
        Op::PortFlags { flags, .. } | Op::Fabric(crate::fabric::Step::Flags { flags, .. }) => {
            flags.forward_gratuitous = None;
        }
        _ => {}
    }
    op
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> v1::NodeState {
        let mut state = crate::fabric::tests::switch();
        state.mode = v1::NodeMode::TorStatic.into();
        state
    }

    #[test]
    fn a_switch_in_every_format() {
        for (name, format) in [("linux", Format::Linux), ("frr", Format::Frr), ("sonic", Format::Sonic)] {
            let rendered = render(&switch(), format);
            assert!(rendered.problems.is_empty(), "{:?}", rendered.problems);
            insta::assert_snapshot!(name, rendered.text);
        }
        let json = render(&switch(), Format::Json).text;
        assert_eq!(crate::state_json::from_json(&json).unwrap(), switch());
    }

    #[test]
    fn what_cannot_be_is_said_in_the_text() {
        let mut state = switch();
        state.networks[0].vlan = 0;
        for format in [Format::Linux, Format::Frr, Format::Sonic] {
            let rendered = render(&state, format);
            assert_eq!(rendered.problems.len(), 1, "{:?}", rendered.problems);
            assert!(
                rendered.text.contains("Not in here: network red/n10010 has no VLAN"),
                "{}",
                rendered.text
            );
        }
    }
}
