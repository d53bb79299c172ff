//! Addresses from a file.

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use causeway_proto::NetworkKey;

use super::Found;
use crate::failure::{Exit, Failure};

/// Columns that are known.
const COLUMNS: [&str; 7] = ["network", "name", "address", "mac", "node", "netns", "interface"];
/// Those that must be there.
const REQUIRED: [&str; 3] = ["network", "name", "address"];
/// Bytes of a file at most: a million lines.
const LARGEST: u64 = 256 << 20;

pub(super) fn read(path: &Path) -> Result<Vec<Found>, Failure> {
    let shown = path.display().to_string();
    let failed = |error: std::io::Error| Failure::new(Exit::Usage, format!("cannot read {shown}: {error}"));
    let mut text = String::new();
    if shown == "-" {
        std::io::stdin().take(LARGEST).read_to_string(&mut text).map_err(failed)?;
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(LARGEST).read_to_string(&mut text).map_err(failed)?;
    }
    parse(&shown, &text).map_err(|problems| {
        let text = format!("{shown} cannot be imported:\n  {}", problems.join("\n  "));
        Failure::new(Exit::Usage, text)
            .hint("the first line names the columns, for example: network,name,address,mac,node,netns")
    })
}

/// All lines, or all that is wrong with them.
fn parse(shown: &str, text: &str) -> Result<Vec<Found>, Vec<String>> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim_end_matches('\r')));
    let mut lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let Some((n, header)) = lines.next() else { return Err(vec!["it has no line with the columns".into()]) };
    let header = split(header).map_err(|why| vec![format!("{shown}:{n}: {why}")])?;
    let columns: Vec<String> = header.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    let mut problems = Vec::new();
    for name in &columns {
        if !COLUMNS.contains(&name.as_str()) {
            problems
                .push(format!("{shown}:{n}: column '{name}' is unknown; known are {}", COLUMNS.join(", ")));
        }
        if columns.iter().filter(|other| *other == name).count() > 1 {
            problems.push(format!("{shown}:{n}: column '{name}' is there twice"));
        }
    }
    for name in REQUIRED.iter().filter(|name| !columns.iter().any(|column| column == *name)) {
        problems.push(format!("{shown}:{n}: column '{name}' is missing"));
    }
    if !problems.is_empty() {
        problems.dedup();
        return Err(problems);
    }
    let mut all = Vec::new();
    for (n, line) in lines {
        match split(line).and_then(|cells| row(&columns, &cells)) {
            Ok(found) => all.push(Found { source: format!("{shown}:{n}"), ..found }),
            Err(why) => problems.push(format!("{shown}:{n}: {why}")),
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(problems) }
}

fn row(columns: &[String], cells: &[String]) -> Result<Found, String> {
    if cells.len() != columns.len() {
        return Err(format!("has {} fields and not {}", cells.len(), columns.len()));
    }
    let cell = |name: &str| {
        let at = columns.iter().position(|column| column == name);
        at.and_then(|at| cells.get(at)).map_or("", |text| text.trim())
    };
    let network: NetworkKey =
        cell("network").parse().map_err(|error| format!("network '{}': {error}", cell("network")))?;
    if cell("name").is_empty() {
        return Err("name is empty".into());
    }
    let address =
        |text: &str| text.parse::<IpAddr>().map_err(|_| format!("address '{text}' is not an IP address"));
    let addresses = cell("address").split_whitespace().map(address).collect::<Result<Vec<_>, _>>()?;
    if addresses.is_empty() {
        return Err("address is empty".into());
    }
    let mac = match cell("mac") {
        "" => None,
        text => Some(text.parse().map_err(|error| format!("mac '{text}': {error}"))?),
    };
    if cell("node").is_empty() && !cell("netns").is_empty() {
        return Err("netns makes no sense without node".into());
    }
    if !cell("netns").is_empty() && mac.is_none() {
        return Err("mac is needed with netns: what is adopted keeps the one it has".into());
    }
    Ok(Found {
        source: String::new(),
        name: cell("name").to_owned(),
        network: Some(network),
        addresses,
        mac,
        node: cell("node").to_owned(),
        netns: cell("netns").to_owned(),
        interface: cell("interface").to_owned(),
        bridge: String::new(),
        ways: None,
    })
}

/// Fields of a line, as RFC 4180 has them, but none goes over a line's end.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = fields.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.trim().is_empty() => {
                field.clear();
                quoted = true;
            }
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    if quoted { Err("a quoted field does not end".into()) } else { Ok(fields) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_come_in_any_order() {
        let text = "# what the old tool knew\nname,address,network,node,netns,mac\n\
                    db-1,10.8.0.5 fd00:8::5,web,,,\n\
                    \"web,1\",10.8.0.6,red/web,h1,/run/netns/w1,02:42:ac:11:00:02\r\n";
        let found = parse("a.csv", text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].source.as_str(), found[0].addresses.len()), ("a.csv:3", 2));
        assert_eq!(found[1].name, "web,1");
        assert_eq!(found[1].network.as_ref().map(ToString::to_string), Some("red/web".into()));
        assert_eq!(found[1].netns, "/run/netns/w1");
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_line() {
        let say = |text| parse("a.csv", text).unwrap_err().join("\n");
        assert_eq!(say(""), "it has no line with the columns");
        let header = say("name,adress\n");
        assert!(
            header.contains("a.csv:1: column 'adress' is unknown") && header.contains("'network' is missing")
        );
        let rows = say(
            "network,name,address,netns\nweb,a,10.8.0.300,\nweb,b\nweb,,10.8.0.1,\nweb,c,10.8.0.1,/x\nweb,\"d,1,\n",
        );
        for part in [
            "a.csv:2: address '10.8.0.300' is not an IP address",
            "a.csv:3: has 2 fields and not 4",
            "a.csv:4: name is empty",
            "a.csv:5: netns makes no sense without node",
            "a.csv:6: a quoted field does not end",
        ] {
            assert!(rows.contains(part), "{part}: {rows}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,300}") {
            let _ = parse("x", &text);
            let _ = parse("x", &format!("network,name,address\n{text}"));
        }
    }
}
