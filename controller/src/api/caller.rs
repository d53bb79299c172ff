//! Who calls, as the history records it.

use tonic::Extensions;
use tonic::metadata::MetadataMap;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};

use crate::history::By;

/// Metadata with the caller's name.
const ACTOR: &str = "causeway-actor";
/// Metadata with the caller's reason.
const REASON: &str = "causeway-reason";
/// The same for text that is not ASCII.
const REASON_BIN: &str = "causeway-reason-bin";
/// Longest name, in bytes.
const LONGEST_ACTOR: usize = 128;
/// Longest reason, in bytes.
const LONGEST_REASON: usize = 256;

/// Who calls. What cannot be printed is left out, and what is too long is cut: a change is not refused for its comment.
pub(super) fn caller(metadata: &MetadataMap, extensions: &Extensions) -> By {
    let ascii = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let binary = metadata.get_bin(REASON_BIN).and_then(|value| value.to_bytes().ok());
    let reason = match &binary {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => ascii(REASON).to_owned(),
    };
    let (actor, peer) = (printable(ascii(ACTOR), LONGEST_ACTOR), peer(extensions));
    let reason = printable(&reason, LONGEST_REASON);
    match actor.as_str() {
        "" => By { actor: peer, peer: String::new(), reason },
        _ => By { actor, peer, reason },
    }
}

/// The address of the other side; of a unix socket the user.
fn peer(extensions: &Extensions) -> String {
    let tcp = extensions.get::<TcpConnectInfo>();
    let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
    if let Some(address) = tcp.or(tls).and_then(TcpConnectInfo::remote_addr) {
        return address.ip().to_canonical().to_string();
    }
    match extensions.get::<UdsConnectInfo>().and_then(|unix| unix.peer_cred) {
        Some(credentials) => format!("uid {}", credentials.uid()),
        None => String::new(),
    }
}

/// Without control characters, and at most so long.
pub(super) fn printable(text: &str, longest: usize) -> String {
    let mut short = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if short.len() + c.len_utf8() > longest {
            break;
        }
        short.push(c);
    }
    short.trim().to_owned()
}

/// A reason given in a request, as one in the metadata would be.
pub(super) fn reason(text: &str) -> String {
    printable(text, LONGEST_REASON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataValue;

    #[test]
    fn callers_name_themselves_or_are_named_by_their_address() {
        let mut extensions = Extensions::new();
        let address = "[::ffff:192.0.2.7]:4711".parse().ok();
        extensions.insert(TcpConnectInfo { local_addr: None, remote_addr: address });
        let mut metadata = MetadataMap::new();
        let by = caller(&metadata, &extensions);
        assert_eq!((by.actor.as_str(), by.peer.as_str()), ("192.0.2.7", ""));
        metadata.insert(ACTOR, "cni@host1".parse().unwrap());
        metadata.insert(REASON, "rolling update".parse().unwrap());
        let by = caller(&metadata, &extensions);
        assert_eq!(
            by,
            By { actor: "cni@host1".into(), peer: "192.0.2.7".into(), reason: "rolling update".into() }
        );
        metadata.insert_bin(REASON_BIN, MetadataValue::from_bytes("für später\n\x1b[2J".as_bytes()));
        assert_eq!(caller(&metadata, &extensions).reason, "für später[2J");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(printable("éé", 3), "é");
        assert_eq!(printable(&"x".repeat(1000), 256).len(), 256);
        assert_eq!(printable("  \u{7f} ", 10), "");
    }
}
