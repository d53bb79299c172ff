//! Which of two connections to one peer stays. Pure.

use crate::speaker::SessionState;

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// We did.
    Ours,
    /// The peer did.
    Theirs,
}

/// What to do with the connection whose OPEN has just been accepted, and with the one already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    KeepBoth,
    /// Cease/7 on the new one.
    CloseNew,
    /// Cease/7 on the old one.
    CloseOld,
    /// The peer may have restarted, and the old one be dead (RFC 4724 §5): the new one replaces it if it comes up. Not
    /// before, as it may be the loser of a collision that the peer has decided and not told yet.
    Replace,
}

/// A speaker's rank: identifier first, AS number between equals (RFC 6286 §2.3).
pub(crate) type Rank = (u32, u32);

/// `new` opened the connection whose OPEN has come in; `old` opened the other one. `restart`: graceful restart is agreed on
/// the old one, and the new one was opened when that was already Established.
pub(crate) fn resolve(
    own: Rank,
    peer: Rank,
    new: Side,
    old: Side,
    old_state: SessionState,
    restart: bool,
) -> Verdict {
    match old_state {
        SessionState::Established if restart && new == Side::Theirs => Verdict::Replace,
        SessionState::Established => Verdict::CloseNew,
        // RFC 4271 §6.8: the connection opened by the higher one stays. In OpenSent too: the peer is known by address.
        SessionState::OpenSent | SessionState::OpenConfirm => {
            let stays = if own > peer { Side::Ours } else { Side::Theirs };
            match (new == stays, old == stays) {
                // Two from one side: the older one is dead or dying, or it would have been used.
                (true, _) => Verdict::CloseOld,
                (false, _) => Verdict::CloseNew,
            }
        }
        _ => Verdict::KeepBoth,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Rank = (1, 65000);
    const HIGH: Rank = (2, 65000);

    fn decide(own: Rank, peer: Rank, new: Side, old: Side, state: SessionState) -> Verdict {
        resolve(own, peer, new, old, state, false)
    }

    #[test]
    fn the_connection_of_the_higher_identifier_stays() {
        for state in [SessionState::OpenSent, SessionState::OpenConfirm] {
            assert_eq!(decide(LOW, HIGH, Side::Theirs, Side::Ours, state), Verdict::CloseOld);
            assert_eq!(decide(LOW, HIGH, Side::Ours, Side::Theirs, state), Verdict::CloseNew);
            assert_eq!(decide(HIGH, LOW, Side::Theirs, Side::Ours, state), Verdict::CloseNew);
            assert_eq!(decide(HIGH, LOW, Side::Ours, Side::Theirs, state), Verdict::CloseOld);
        }
    }

    #[test]
    fn both_sides_come_to_the_same_end() {
        // What one side calls ours is theirs for the other: of connections A (opened by a) and B exactly one survives.
        for (a, b) in [(LOW, HIGH), (HIGH, LOW), ((5, 1), (5, 2)), ((5, 2), (5, 1))] {
            let at_a = decide(a, b, Side::Theirs, Side::Ours, SessionState::OpenConfirm);
            let at_b = decide(b, a, Side::Theirs, Side::Ours, SessionState::OpenConfirm);
            // At a the new one is B; at b the new one is A.
            let a_keeps_b = at_a == Verdict::CloseOld;
            let b_keeps_a = at_b == Verdict::CloseOld;
            assert_ne!(a_keeps_b, b_keeps_a, "{a:?} {b:?}");
        }
    }

    #[test]
    fn an_established_session_gives_way_only_to_a_restarted_peer() {
        let established = SessionState::Established;
        assert_eq!(resolve(LOW, HIGH, Side::Theirs, Side::Ours, established, false), Verdict::CloseNew);
        assert_eq!(resolve(LOW, HIGH, Side::Theirs, Side::Ours, established, true), Verdict::Replace);
        assert_eq!(resolve(LOW, HIGH, Side::Ours, Side::Theirs, established, true), Verdict::CloseNew);
    }
}
