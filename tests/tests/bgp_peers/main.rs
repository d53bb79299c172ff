//! Sessions of our speaker with real neighbours: FRR 8.4 and 10.7, GoBGP 3.10 and 4. Every test is run against each.
//! Speaker and neighbour are in namespaces of their own, joined by a veth pair.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code; the exemption for tests covers test functions only"
)]

mod constraint;
mod odd;
mod peer;
mod restart;
mod routes;
mod session;
mod us;

/// Makes a test of each function for each neighbour; of those behind a semicolon for each FRR only.
macro_rules! against_every_peer {
    ($($test:ident),* $(,)? $(; $($frr_only:ident),* $(,)?)?) => {
        against_every_peer!(@ frr_8, Frr, FrrVersion::Debian; $($test,)* $($($frr_only),*)?);
        against_every_peer!(@ frr_10, Frr, FrrVersion::Newest; $($test,)* $($($frr_only),*)?);
        against_every_peer!(@ gobgp_3, GoBgp, GoBgpVersion::Debian; $($test),*);
        against_every_peer!(@ gobgp_4, GoBgp, GoBgpVersion::Newest; $($test),*);
    };
    (@ $module:ident, $kind:ident, $enum:ident :: $version:ident; $($test:ident),* $(,)?) => {
        mod $module {
            use crate::peer::Kind;
            $(
                #[test]
                fn $test() -> anyhow::Result<()> {
                    super::$test(Kind::$kind($crate::peer::$enum::$version))
                }
            )*
        }
    };
}
pub(crate) use against_every_peer;
