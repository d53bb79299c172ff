//! What can be said of a place without the store.

use crate::model::{Attachment, WorkloadKind};
use crate::ports::{Place, PortError};

/// Longest interface name: the kernel's IFNAMSIZ less the final zero.
const LONGEST_INTERFACE: usize = 15;
/// Longest path of a namespace: the kernel's PATH_MAX less the final zero.
const LONGEST_PATH: usize = 4095;
/// Pairs of queues of a tap at most: the kernel's MAX_TAP_QUEUES.
const MOST_QUEUES: u32 = 256;
/// MTUs that can be asked for: IPv4's least (RFC 791) and the largest that networks have.
const MTUS: std::ops::RangeInclusive<u32> = 68..=9216;

/// What can be said of a place without the store.
pub(in crate::ports::plan) fn check(place: &Place, at: &str) -> Result<(), PortError> {
    let wrong = |field: &str, reason: &str| {
        Err(PortError::Field { field: format!("{at}.{field}"), reason: reason.to_owned() })
    };
    if place.kind == WorkloadKind::Container {
        let pid = place
            .netns
            .strip_prefix("pid:")
            .map(|n| n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u32>().is_ok_and(|n| n > 0));
        if place.netns.len() > LONGEST_PATH || place.netns.contains('\0') {
            return wrong("netns", "is longer than a path can be, or has a zero byte");
        }
        if !(pid == Some(true) || place.netns.starts_with('/')) {
            return wrong("netns", "must be an absolute path on the node or pid:NUMBER");
        }
    } else if !place.netns.is_empty() {
        return wrong("netns", "is for containers only");
    }
    let macvlan = matches!(place.attachment, Some(Attachment::Macvlan));
    if place.macvlan_mode.is_some() && !macvlan {
        return wrong("macvlan_mode", "is for the attachment macvlan only");
    }
    if place.kind == WorkloadKind::BareMetal && place.attachment.is_some() {
        return wrong("attachment", "makes no sense for bare metal, which hangs on a wire");
    }
    if place.adopted && place.kind != WorkloadKind::Container {
        return wrong("adopted", "is for containers: a VM's tap that is there is taken by its name");
    }
    if place.apart && !place.adopted {
        return wrong("apart", "is for adopted interfaces: others are attached to their network");
    }
    if place.adopted && (place.attachment.is_some() || place.mtu > 0) {
        return wrong("adopted", "makes no sense with an attachment or MTU: the interface is as it is");
    }
    if place.queues > 0 && place.kind != WorkloadKind::Vm {
        return wrong("queues", "are those of a VM's tap");
    }
    if place.queues > MOST_QUEUES {
        return wrong("queues", "are more than 256");
    }
    if place.mtu > 0 && (!MTUS.contains(&place.mtu) || place.kind == WorkloadKind::BareMetal) {
        return wrong("mtu", "is not between 68 and 9216, or of bare metal, which has its own");
    }
    if !place.interface.is_empty()
        && let Err(reason) = interface_name(&place.interface)
    {
        return wrong("interface", reason);
    }
    Ok(())
}

/// The kernel's rule for interface names, dev_valid_name(); why not, in words.
pub fn interface_name(name: &str) -> Result<(), &'static str> {
    let bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > LONGEST_INTERFACE || name == "." || name == ".." || name.contains(bad)
    {
        return Err("must be 1 to 15 bytes without '/', ':' and blanks");
    }
    Ok(())
}
