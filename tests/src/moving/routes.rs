//! A switch's table of EVPN routes.

/// A type 2 route of a MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who announces it.
    pub rd: String,
    /// The VTEP.
    pub next_hop: String,
    /// Of the MAC mobility community; 0 without one.
    pub sequence: u32,
    /// The MAC must not move.
    pub sticky: bool,
    /// It has an address, too.
    pub with_address: bool,
}

/// Reads FRR's table: a line with the RD, one with the prefix, one with the next hop, one with communities.
pub(super) fn read(text: &str, mac: &str) -> Vec<Route> {
    let (mut found, mut rd, mut open) = (Vec::<Route>::new(), String::new(), false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Route Distinguisher: ") {
            rd = name.trim().to_string();
        } else if line.contains("[2]:[") {
            open = line.contains(mac);
            if open {
                let with_address = line.contains(":[32]:[");
                let rd = rd.clone();
                found.push(Route { rd, next_hop: String::new(), sequence: 0, sticky: false, with_address });
            }
        } else if let (true, Some(route)) = (open, found.last_mut()) {
            let mut words = line.split_whitespace();
            if route.next_hop.is_empty() {
                route.next_hop = words.next().unwrap_or_default().to_string();
            }
            for word in line.split_whitespace() {
                if let Some(number) = word.strip_prefix("MM:") {
                    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
                    route.sequence = digits.parse().unwrap_or_default();
                    route.sticky |= line.contains("sticky");
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let text = "\
Route Distinguisher: 10.254.0.7:1
*>i[2]:[0]:[48]:[02:ca:0a:64:00:01]:[32]:[10.100.0.1]
                    10.255.0.2               0    100      0 i
                    RT:65000:100 ET:8 MM:6
Route Distinguisher: 10.255.0.2:2
*>i[2]:[0]:[48]:[02:ca:0a:64:00:01]
                    10.255.0.2               0    100      0 i
                    RT:65000:100 ET:8 MM:1, sticky MAC
*>i[2]:[0]:[48]:[1a:5d:3d:df:88:2c]
                    10.255.0.3               0    100      0 i
                    RT:65000:100 ET:8
";
        let found = read(text, "02:ca:0a:64:00:01");
        let seen: Vec<_> = found
            .iter()
            .map(|r| (r.rd.as_str(), r.next_hop.as_str(), r.sequence, r.sticky, r.with_address))
            .collect();
        assert_eq!(
            seen,
            [("10.254.0.7:1", "10.255.0.2", 6, false, true), ("10.255.0.2:2", "10.255.0.2", 1, true, false)]
        );
    }
}
