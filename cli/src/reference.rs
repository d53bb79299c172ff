//! `docs/cli.md`, written from the command line's own definition so that it cannot say something else.

use std::fmt::Write as _;

use clap::Command;

use crate::args::full_command;

const INTRODUCTION: &str = "\
# The `causeway` command

Written from the program's own help: `UPDATE_DOCS=1 cargo test -p causeway the_reference_is_up_to_date` writes it again.

Names and keys: a VRF, node or peer is named by one word (a peer by its address); a network is `VRF/NAME`, a subnet
`VRF/PREFIX`, a port `VRF/NETWORK/NAME`. The VRF may be left out when it is `default`. A port's name may contain `/`:
text with two or more slashes is always read as `VRF/NETWORK/NAME`.

Output: `-o table` is for people and may change; `-o json` and `-o yaml` have the field names of the API
([proto/causeway/v1](../proto/causeway/v1)) with enumerations as short words, and stay. Results go to standard output,
remarks and errors to standard error. Colour is used on a terminal only and never with `--no-color` or `NO_COLOR`. What
`get -o yaml` and `get -o json` print can be given to `apply -f -` again.

Exit codes:

| code | meaning |
|---|---|
| 0 | done; with `apply --plan`: nothing would change |
| 1 | failed: bad input, not found, controller not reachable |
| 2 | nothing to do: no record in the manifest |
| 3 | something to look at: `apply --plan` shows changes |
| 4 | conflict: somebody else has it, it is in use, or others changed it meanwhile |
| 5 | no address left |
| 6 | too late: `--timeout` is over |
| 64 | wrong command line |

`causeway lab exec` with one node ends with the status of the command it ran.

## Manifests

`causeway apply` reads YAML (or JSON) with one record a document: `kind` is `Vrf`, `Network`, `Subnet`, `Node` or `Peer`,
all other fields are those of the API. A field that does not exist, a value of the wrong type and a record given twice
are refused with line, column and excerpt, all at once and before anything is sent; what the controller refuses is shown
at its line as well. An absent field means its default, and absent records are left alone: `apply` deletes nothing.

";

const MANIFEST: &str = "\
kind: Network
name: web            # in the VRF \"default\"
vni: 10110
---
kind: Subnet
network: web
prefix: 10.8.0.0/20
gateway: 10.8.0.1
exclusions: [10.8.0.2-10.8.0.9]
---
kind: Node
name: host1
mode: host-vtep
vtep: 10.0.0.21
---
kind: Peer
address: 10.0.0.1
asn: 65000
";

/// The whole page.
fn page() -> String {
    let mut text = format!("{INTRODUCTION}```yaml\n{MANIFEST}```\n\n## Flags of every command but `lab`\n\n");
    let root = full_command();
    // The flags are the same everywhere: shown once here, and left out of each command below.
    for flag in root.get_arguments().filter(|a| a.get_long().is_some_and(|l| l != "help" && l != "version")) {
        let long = flag.get_long().unwrap_or_default();
        let short = flag.get_short().map(|s| format!("-{s}, ")).unwrap_or_default();
        let value =
            flag.get_value_names().filter(|_| flag.get_action().takes_values()).and_then(|v| v.first());
        let value = value.map(|v| format!(" <{v}>")).unwrap_or_default();
        let env =
            flag.get_env().map(|e| format!(" (environment: `{}`)", e.to_string_lossy())).unwrap_or_default();
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        let words: Vec<String> =
            flag.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
        let words = if words.is_empty() || value.is_empty() {
            String::new()
        } else {
            format!(": {}", words.join(", "))
        };
        let default: Vec<String> =
            flag.get_default_values().iter().map(|d| format!("`{}`", d.to_string_lossy())).collect();
        let default = if value.is_empty() || default.is_empty() {
            String::new()
        } else {
            format!("; default {}", default.join(" "))
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- `{short}--{long}{value}`: {help}{words}{default}{env}");
    }
    text.push('\n');
    for command in root.get_subcommands() {
        describe(command, "causeway", &root, &mut text);
    }
    while text.ends_with("\n\n") {
        text.pop();
    }
    text
}

/// A command and all below it.
fn describe(command: &Command, parent: &str, root: &Command, text: &mut String) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = format!("{parent} {}", command.get_name());
    if command.has_subcommands() {
        for sub in command.get_subcommands() {
            describe(sub, &name, root, text);
        }
        return;
    }
    let in_lab = name.starts_with("causeway lab ");
    let shared = |id: &clap::Id| !in_lab && root.get_arguments().any(|a| a.get_id() == id);
    let hidden = command.clone().mut_args(|a| if shared(a.get_id()) { a.hide(true) } else { a });
    let help = hidden.bin_name(&name).disable_help_flag(true).term_width(110).render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    let _ = writeln!(text, "## {name}\n\n```text\n{}\n```\n", help.join("\n").trim());
}

#[test]
fn the_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/cli.md is not what the program says: UPDATE_DOCS=1 cargo test -p causeway the_reference"
    );
}

#[test]
fn the_manifest_of_the_reference_is_valid() {
    let sources = vec![crate::manifest::source::Source { name: "cli.md".into(), text: MANIFEST.into() }];
    assert_eq!(crate::manifest::Manifest::read(sources).unwrap().resources().len(), 4);
}
