//! How fast a port may be: token buckets on the host side, where the workload cannot reach them.
//!
//! ```text
//!  towards the workload:  bridge ──> root qdisc of the host side (tbf) ──> workload
//!  from the workload:     workload ──> ingress of the host side ──> ifb, its root qdisc (tbf) ──> bridge
//! ```
//!
//! What comes in cannot be queued, only dropped; a policer costs TCP much of the limit. Passing it through an
//! intermediate device (`ifb`) queues it too, so both directions are shaped alike. Rates count whole Ethernet frames
//! without preamble and checksum. Our qdiscs and filters have the number 77.

pub(crate) mod filter;
pub mod lead;
pub(crate) mod message;

use crate::dev::PROTOCOL;
use crate::model::Rate;

/// Major number of our qdiscs, as `tc` prints it: hexadecimal.
pub const HANDLE: u16 = PROTOCOL as u16;
/// Bytes of an Ethernet header with a VLAN tag.
const HEADER: u64 = 18;
/// What the kernel hands over as one, to be cut into frames later (GSO), at most.
const LARGEST: u64 = 65_535;
/// Headers of each frame cut from it: Ethernet, and the longest of IPv4 and TCP.
const HEADERS: u64 = HEADER + 120;
/// Frames that may wait, however low the rate.
const LEAST_QUEUE: u64 = 32;

/// Which way frames go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the workload.
    In,
    /// From the workload.
    Out,
}

/// How frames from a workload get to the device that limits them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Led {
    /// By a filter at the ingress of the host side; towards the workload, by themselves.
    #[default]
    ByFilter,
    /// By the rules of the port's guard, which a filter would go around.
    ByGuard,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that pass at once after a pause: 10 ms at full rate, and at least what the kernel hands over as one. With
    /// less, a packet that waits when the limit is lowered would never have enough tokens, and block all behind it.
    pub burst: u32,
    /// Bytes that may wait, the burst included: 50 ms more, and at least 32 frames more.
    pub limit: u32,
}

/// What is found of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Found {
    /// No limit.
    #[default]
    None,
    /// A token bucket of ours: bytes a second, bytes that may wait.
    Ours {
        /// Bytes a second.
        rate: u64,
        /// Bytes.
        limit: u32,
        /// Who leads frames to it.
        led: Led,
    },
    /// Something of ours, but not all that it takes.
    Damaged,
    /// Somebody else's.
    Foreign,
}

/// What is found of a port's limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shaping {
    /// Towards the workload.
    pub inwards: Found,
    /// From the workload.
    pub outwards: Found,
}

impl Shaping {
    /// Of one direction.
    pub fn of(&self, direction: Direction) -> Found {
        match direction {
            Direction::In => self.inwards,
            Direction::Out => self.outwards,
        }
    }

    /// To be changed.
    pub fn of_mut(&mut self, direction: Direction) -> &mut Found {
        match direction {
            Direction::In => &mut self.inwards,
            Direction::Out => &mut self.outwards,
        }
    }

    /// What is left after the host side has gone: its qdiscs go with it, the intermediate device stays.
    #[must_use]
    pub fn orphaned(self) -> Self {
        let outwards = if self.outwards == Found::None { Found::None } else { Found::Damaged };
        Shaping { inwards: Found::None, outwards }
    }
}

impl Rate {
    /// The limit of a direction in kbit/s; 0: none.
    pub fn of(self, direction: Direction) -> u64 {
        match direction {
            Direction::In => self.in_kbit,
            Direction::Out => self.out_kbit,
        }
    }
}

impl Shape {
    /// The bucket for a limit in kbit/s on a device with this MTU; `None` for 0.
    pub fn new(kbit: u64, mtu: u32) -> Option<Self> {
        let rate = kbit.saturating_mul(125);
        let frame = u64::from(mtu) + HEADER;
        let payload = u64::from(mtu).saturating_sub(HEADERS).max(8);
        let burst = (rate / 100).max(LARGEST + LARGEST.div_ceil(payload) * HEADERS);
        let limit = burst.saturating_add((rate / 20).max(LEAST_QUEUE * frame));
        let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        (kbit > 0).then(|| Shape { rate, burst: small(burst), limit: small(limit) })
    }

    /// As it reads back.
    pub fn found(&self, led: Led) -> Found {
        Found::Ours { rate: self.rate, limit: self.limit, led }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn burst_and_queue_follow_rate_and_mtu() {
        assert_eq!(Shape::new(0, 1500), None);
        let slow = Shape { rate: 125_000, burst: 72_297, limit: 120_873 };
        assert_eq!(Shape::new(1000, 1500), Some(slow));
        let fast = Shape { rate: 125_000_000, burst: 1_250_000, limit: 7_500_000 };
        assert_eq!(Shape::new(1_000_000, 1500), Some(fast));
    }

    proptest! {
        #[test]
        fn a_frame_always_fits(kbit in 1..=1_000_000_000_u64, mtu in 68..=65535_u32) {
            let shape = Shape::new(kbit, mtu).unwrap();
            prop_assert!(shape.burst > mtu + 18 && shape.burst > 65_535 && shape.limit > shape.burst);
        }
    }
}
