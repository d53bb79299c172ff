//! Numbers with a range: VNI, VLAN id, store revision.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a number is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// RFC 7348: 24 bits; 0 is not used here.
    #[error("VNI {0} is not in 1 to 16777215")]
    Vni(u32),
    /// IEEE 802.1Q: 0 means priority tag, 4095 is reserved.
    #[error("VLAN id {0} is not in 1 to 4094")]
    Vlan(u32),
}

/// A VXLAN network identifier, 1 to 2^24 - 1 (RFC 7348).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// An 802.1Q VLAN id, 1 to 4094.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct VlanId(u16);

/// A revision of the store: every transaction that changes something has a higher one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Vni {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl VlanId {
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = NumberError;

    fn try_from(n: u32) -> Result<Self, NumberError> {
        if (1..1 << 24).contains(&n) { Ok(Vni(n)) } else { Err(NumberError::Vni(n)) }
    }
}

impl TryFrom<u32> for VlanId {
    type Error = NumberError;

    fn try_from(n: u32) -> Result<Self, NumberError> {
        match u16::try_from(n) {
            Ok(id @ 1..=4094) => Ok(VlanId(id)),
            _ => Err(NumberError::Vlan(n)),
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl From<VlanId> for u32 {
    fn from(vlan: VlanId) -> u32 {
        u32::from(vlan.0)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_kept() {
        assert_eq!(Vni::try_from(0), Err(NumberError::Vni(0)));
        assert_eq!(Vni::try_from(0xff_ffff).map(Vni::get), Ok(0xff_ffff));
        assert_eq!(Vni::try_from(0x100_0000), Err(NumberError::Vni(0x100_0000)));
        assert_eq!(VlanId::try_from(0), Err(NumberError::Vlan(0)));
        assert_eq!(VlanId::try_from(4094).map(VlanId::get), Ok(4094));
        assert_eq!(VlanId::try_from(4095), Err(NumberError::Vlan(4095)));
        assert_eq!(VlanId::try_from(65537), Err(NumberError::Vlan(65537)));
    }
}
