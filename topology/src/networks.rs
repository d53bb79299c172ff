//! Networks and routing domains of a fabric, as labels declare them: one label for each, its value words `KEY=VALUE`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use causeway_proto::{AddressRange, Mac, Name, Prefix, VlanId, Vni};
use ipnetwork::IpNetwork;

use crate::context::{Context, Text, shorten};
use crate::diagnostic::Place;
use crate::suggest::did_you_mean;
use crate::value::Span;

/// MAC of the anycast gateways: the same at every switch, from the range that IANA gave to virtual routers.
pub(crate) const GATEWAY_MAC: Mac = Mac::new([0x00, 0x00, 0x5e, 0x00, 0x01, 0x01]);
/// Fits a 1500-byte underlay: 50 bytes are VXLAN over IPv4.
pub(crate) const DEFAULT_MTU: u32 = 1450;
/// The least that IPv6 takes (RFC 8200 section 5), and the most that the controller takes.
const MTU: (u32, u32) = (1280, 9216);
/// The kernel's limit for the VRF's device.
const MAX_DEVICE: usize = 15;

/// `causeway.network.NAME`: a layer 2 segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name, unique in the lab.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// 802.1Q id on links to hosts. `None`: it is only ever untagged.
    pub vlan: Option<VlanId>,
    /// Its routing domain.
    pub vrf: String,
    /// MTU in bytes of its workloads.
    pub mtu: u32,
    /// Prefixes, those of the gateways included, in the order of the label.
    pub subnets: Vec<Prefix>,
    /// Anycast gateway addresses with prefix length.
    pub gateways: Vec<IpNetwork>,
    /// MAC of the anycast gateway.
    pub gateway_mac: Mac,
    /// Addresses, ranges or prefixes that are given to no port.
    pub exclusions: Vec<String>,
    /// How it is routed.
    pub irb: Irb,
    /// Route targets of its MAC routes; empty: the speaker's AS and the VNI.
    pub exports: Vec<RouteTarget>,
    /// Route targets that it takes; empty: those it exports.
    pub imports: Vec<RouteTarget>,
    /// Where it is declared.
    pub place: Place,
}

/// `causeway.vrf.NAME`: a routing domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vrf {
    /// Its name, which its device has on switches.
    pub name: String,
    /// VNI of routed traffic. `None`: it is routed inside a switch only.
    pub l3_vni: Option<Vni>,
    /// Route targets of its routes; empty: the speaker's AS and the L3 VNI.
    pub exports: Vec<RouteTarget>,
    /// Route targets that it takes; empty: those it exports.
    pub imports: Vec<RouteTarget>,
    /// Prefixes that the controller announces behind a node's VTEP.
    pub routes: Vec<(Prefix, String)>,
    /// Where it is declared.
    pub place: Place,
}

/// How traffic between the networks of a VRF is routed (RFC 9135).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Irb {
    /// Not at all.
    None,
    /// At the first switch, into the L3 VNI.
    Symmetric,
    /// At the first switch, into the L2 VNI of the destination: every switch of the VRF has all its networks.
    Asymmetric,
}

/// A route target in the form `ASN:NUMBER` (RFC 4360 section 4): the AS has 2 bytes and the number 4, or the reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteTarget {
    asn: u32,
    number: u32,
}

impl Irb {
    /// All, with the word of the label.
    pub const ALL: [(&'static str, Irb); 3] =
        [("none", Irb::None), ("symmetric", Irb::Symmetric), ("asymmetric", Irb::Asymmetric)];

    /// The word of the label.
    pub fn word(self) -> &'static str {
        match self {
            Irb::None => "none",
            Irb::Symmetric => "symmetric",
            Irb::Asymmetric => "asymmetric",
        }
    }
}

impl RouteTarget {
    /// The one that a speaker derives: its AS, of which two bytes count, and the VNI.
    pub(crate) fn automatic(asn: u32, vni: Vni) -> Self {
        RouteTarget { asn: asn & 0xffff, number: vni.get() }
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.asn, self.number)
    }
}

impl FromStr for RouteTarget {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a route target is ASN:NUMBER, for example 65000:4001";
        // `u32::from_str` takes a plus sign.
        let number = |part: &str| part.parse::<u32>().ok().filter(|_| !part.starts_with('+'));
        let (asn, value) = text.split_once(':').ok_or(FORM)?;
        let (asn, value) = number(asn).zip(number(value)).ok_or(FORM)?;
        if asn > 0xffff && value > 0xffff {
            return Err("with an AS above 65535 the number has two bytes, at most 65535 (RFC 5668)");
        }
        Ok(RouteTarget { asn, number: value })
    }
}

/// The words of a label's value: key, value, place of the value in the file.
struct Words<'a> {
    label: &'a str,
    words: Vec<(String, Text)>,
    span: Span,
}

impl<'a> Words<'a> {
    /// Splits at blanks; a word without `=`, an unknown or a repeated key is an error.
    fn read(cx: &mut Context<'_>, label: &'a str, value: &Text, known: &[&str]) -> Words<'a> {
        let mut words: Vec<(String, Text)> = Vec::new();
        for word in value.text.split_whitespace() {
            let span = within(cx, value.span, word);
            let shown = shorten(word);
            match word.split_once('=') {
                Some((key, text)) if known.contains(&key) => {
                    if words.iter().any(|(before, _)| before == key) {
                        cx.error(
                            span,
                            format!("{label} has '{key}' twice: separate several values by commas"),
                        );
                    } else if text.is_empty() {
                        cx.error(span, format!("{label}: '{key}' has no value"));
                    } else {
                        words.push((key.to_owned(), Text { text: text.to_owned(), span }));
                    }
                }
                Some((key, _)) => {
                    let hint = did_you_mean(key, known.iter().copied());
                    let key = shorten(key);
                    cx.error(
                        span,
                        format!("{label} has no key '{key}'{hint}; there are {}", known.join(", ")),
                    );
                }
                None => cx.error(span, format!("{label}: '{shown}' is not KEY=VALUE")),
            }
        }
        Words { label, words, span: value.span }
    }

    fn get(&self, key: &str) -> Option<(String, &Text)> {
        let (_, text) = self.words.iter().find(|(k, _)| k == key)?;
        Some((format!("{key} of {}", self.label), text))
    }

    fn number(&self, cx: &mut Context<'_>, key: &str, low: u32, high: u32) -> Option<u32> {
        let (what, text) = self.get(key)?;
        cx.number(&what, text, low, high)
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&self, cx: &mut Context<'_>, key: &str) -> Option<T> {
        let (what, text) = self.get(key)?;
        cx.parse_text(&what, text)
    }

    /// The parts of a list separated by commas, with their places.
    fn parts(&self, cx: &Context<'_>, key: &str) -> Vec<(String, Text)> {
        let Some((what, text)) = self.get(key) else { return Vec::new() };
        let part = |p: &str| Text { text: p.to_owned(), span: within(cx, text.span, p) };
        text.text.split(',').map(|p| (what.clone(), part(p))).collect()
    }

    fn list<T: FromStr<Err: fmt::Display>>(&self, cx: &mut Context<'_>, key: &str) -> Vec<T> {
        let parts = self.parts(cx, key);
        parts.into_iter().filter_map(|(what, part)| cx.parse_text(&what, &part)).collect()
    }
}

/// Where a word stands in a value; the whole value when it is not written as it reads.
pub(crate) fn within(cx: &Context<'_>, span: Span, word: &str) -> Span {
    let text = cx.source.text().get(span.offset..span.offset.saturating_add(span.length));
    match text.and_then(|text| text.find(word)).filter(|_| !word.is_empty()) {
        Some(at) => Span { offset: span.offset + at, length: word.len() },
        None => span,
    }
}

/// The name behind `causeway.network.` or `causeway.vrf.`.
fn name(cx: &mut Context<'_>, label: &str, name: &str, span: Span) -> Option<String> {
    match name.parse::<Name>() {
        Ok(name) => Some(name.as_str().to_owned()),
        Err(error) => {
            cx.error(span, format!("the name '{}' in {} {error}", shorten(name), shorten(label)));
            None
        }
    }
}

/// Reads `causeway.network.NAME`.
pub(crate) fn network(cx: &mut Context<'_>, label: &str, own: &str, value: &Text) -> Option<Network> {
    const KEYS: [&str; 11] =
        ["vni", "vlan", "vrf", "mtu", "subnet", "gateway", "mac", "exclude", "irb", "export", "import"];
    let words = Words::read(cx, label, value, &KEYS);
    let name = name(cx, label, own, value.span);
    let vni = words.number(cx, "vni", 1, (1 << 24) - 1).and_then(|n| Vni::try_from(n).ok());
    if words.get("vni").is_none() {
        cx.error(words.span, format!("{label} needs a VNI: vni=10010"));
    }
    let vlan = words.number(cx, "vlan", 1, 4094).and_then(|n| VlanId::try_from(n).ok());
    let gateways = gateways(cx, &words);
    let mut subnets: Vec<Prefix> = words.list(cx, "subnet");
    for gateway in &gateways {
        subnets.extend(Prefix::containing(gateway.ip(), gateway.prefix()).filter(|p| !subnets.contains(p)));
    }
    Some(Network {
        name: name?,
        vni: vni?,
        vlan,
        vrf: words.parse::<Name>(cx, "vrf").map_or_else(|| "default".to_owned(), |n| n.as_str().to_owned()),
        mtu: words.number(cx, "mtu", MTU.0, MTU.1).unwrap_or(DEFAULT_MTU),
        subnets,
        gateways,
        gateway_mac: gateway_mac(cx, &words),
        exclusions: exclusions(cx, &words),
        irb: irb(cx, &words),
        exports: words.list(cx, "export"),
        imports: words.list(cx, "import"),
        place: cx.place(value.span),
    })
}

fn gateways(cx: &mut Context<'_>, words: &Words<'_>) -> Vec<IpNetwork> {
    let mut gateways: Vec<IpNetwork> = Vec::new();
    for (what, part) in words.parts(cx, "gateway") {
        if !part.text.contains('/') {
            let shown = shorten(&part.text);
            cx.error(part.span, format!("{what} '{shown}' needs a prefix length, for example 10.0.0.1/24"));
            continue;
        }
        let Some(gateway) = cx.parse_text::<IpNetwork>(&what, &part) else { continue };
        let host = gateway.ip() != gateway.network() || gateway.prefix() + 1 >= width(gateway.ip());
        if !host {
            cx.error(part.span, format!("{what} {gateway} is the prefix itself: name an address in it"));
        } else if gateways.iter().any(|g| g.network() == gateway.network()) {
            cx.error(part.span, format!("{what}: {gateway} is the second one of its prefix"));
        } else {
            gateways.push(gateway);
        }
    }
    gateways
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn gateway_mac(cx: &mut Context<'_>, words: &Words<'_>) -> Mac {
    let Some(mac) = words.parse::<Mac>(cx, "mac") else { return GATEWAY_MAC };
    if let Some((what, text)) = words.get("mac").filter(|_| !mac.is_unicast()) {
        cx.error(
            text.span,
            format!("{what} '{mac}' is no address of one interface: it is zero or of a group"),
        );
    }
    mac
}

/// Kept as text: only their form is checked.
fn exclusions(cx: &mut Context<'_>, words: &Words<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for (what, part) in words.parts(cx, "exclude") {
        let good = match part.text.as_str() {
            text if text.contains('/') => cx.parse_text::<Prefix>(&what, &part).is_some(),
            text if text.contains('-') => cx.parse_text::<AddressRange>(&what, &part).is_some(),
            _ => cx.parse_text::<IpAddr>(&what, &part).is_some(),
        };
        if good {
            all.push(part.text);
        }
    }
    all
}

fn irb(cx: &mut Context<'_>, words: &Words<'_>) -> Irb {
    let Some((what, text)) = words.get("irb") else { return Irb::Symmetric };
    if let Some((_, irb)) = Irb::ALL.into_iter().find(|(word, _)| *word == text.text) {
        return irb;
    }
    let all = Irb::ALL.map(|(word, _)| word);
    let hint = did_you_mean(&text.text, all);
    cx.error(text.span, format!("{what} '{}' is none of {}{hint}", shorten(&text.text), all.join(", ")));
    Irb::None
}

/// Reads `causeway.vrf.NAME`.
pub(crate) fn vrf(cx: &mut Context<'_>, label: &str, own: &str, value: &Text) -> Option<Vrf> {
    let words = Words::read(cx, label, value, &["l3vni", "export", "import", "routes"]);
    let name = name(cx, label, own, value.span)?;
    if name == "default" {
        cx.error(
            value.span,
            "the VRF 'default' is the underlay's own table and always there: declare another",
        );
        return None;
    }
    if name.len() > MAX_DEVICE {
        let message =
            format!("{label}: '{name}' becomes a device's name, which has at most {MAX_DEVICE} bytes");
        cx.error(value.span, message);
    }
    let mut routes = Vec::new();
    for (what, part) in words.parts(cx, "routes") {
        let Some((prefix, node)) = part.text.split_once('@').filter(|(_, node)| !node.is_empty()) else {
            let shown = shorten(&part.text);
            cx.error(
                part.span,
                format!("{what} '{shown}' is not PREFIX@NODE, the node with the VTEP before it"),
            );
            continue;
        };
        let text = Text { text: prefix.to_owned(), span: part.span };
        if let Some(prefix) = cx.parse_text(&what, &text) {
            routes.push((prefix, node.to_owned()));
        }
    }
    Some(Vrf {
        name,
        l3_vni: words.number(cx, "l3vni", 1, (1 << 24) - 1).and_then(|n| Vni::try_from(n).ok()),
        exports: words.list(cx, "export"),
        imports: words.list(cx, "import"),
        routes,
        place: cx.place(value.span),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_targets_have_six_bytes() {
        for good in ["65000:4001", "0:0", "65535:4294967295", "4200000000:65535"] {
            assert_eq!(good.parse::<RouteTarget>().map(|t| t.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            ":",
            "65000",
            "65000:",
            ":1",
            "a:1",
            "1:2:3",
            "+1:2",
            "-1:2",
            "4200000000:65536",
            "4294967296:1",
        ] {
            assert!(bad.parse::<RouteTarget>().is_err(), "{bad}");
        }
    }
}
