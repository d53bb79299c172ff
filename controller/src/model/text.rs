//! Values of the BGP library as text in JSON.

use causeway_bgp::Esi;

/// A text that is no Ethernet segment identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not ten bytes in hex with colons, not all zero and not all ff")]
pub struct EsiError(String);

/// Reads `00:11:22:33:44:55:66:77:88:99`. All zero means single-homed and all ones is reserved (RFC 7432 §5): both are
/// refused.
pub fn parse_esi(text: &str) -> Result<Esi, EsiError> {
    let wrong = || EsiError(text.chars().take(40).collect());
    let mut bytes = [0u8; 10];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
        if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() || bytes == [0; 10] || bytes == [0xff; 10] {
        return Err(wrong());
    }
    Ok(Esi(bytes))
}

/// An optional Ethernet segment identifier.
pub(super) mod esi {
    use causeway_bgp::Esi;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::model) fn serialize<S: Serializer>(esi: &Option<Esi>, s: S) -> Result<S::Ok, S::Error> {
        match esi {
            Some(esi) => s.collect_str(esi),
            None => s.serialize_none(),
        }
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Esi>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| super::parse_esi(&text).map_err(D::Error::custom)).transpose()
    }
}

/// Route targets.
pub(super) mod targets {
    use causeway_bgp::RouteTarget;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::model) fn serialize<S: Serializer>(
        targets: &[RouteTarget],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(targets.iter().map(ToString::to_string))
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<RouteTarget>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|t| t.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_segments_are_ten_bytes() {
        let text = "03:44:38:39:ff:ff:01:00:00:01";
        assert_eq!(parse_esi(text).unwrap().to_string(), text);
        for bad in [
            "",
            "03:44:38:39:ff:ff:01:00:00",
            "03:44:38:39:ff:ff:01:00:00:01:02",
            "03:44:38:39:ff:ff:01:00:00:0x",
            "3:44:38:39:ff:ff:01:00:00:01",
            "00:00:00:00:00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff:ff:ff:ff:ff",
            "+3:44:38:39:ff:ff:01:00:00:01",
        ] {
            assert!(parse_esi(bad).is_err(), "{bad}");
        }
    }
}
