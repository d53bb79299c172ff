//! One BGP message, as received from any kind of peer (first octet: which): read or refused, never a panic, and what is read
//! and could be announced reads the same once written again.
#![no_main]

use causeway_bgp::mutate::{Report, message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let [role, octets @ ..] = data {
        message(octets, *role, &mut Report::default());
    }
});
