//! A stream of octets from a peer, cut anywhere, before or after the session is up.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    causeway_bgp::mutate::session(data);
});
