//! The contract between everything in Causeway: the gRPC package `causeway.v1` ([`v1`]) and the domain newtypes that
//! both sides of it share. Text from the wire or a user becomes a newtype once, at the edge; behind it a bad value
//! cannot be spelled.

mod detail;
mod mac;
mod names;
mod numbers;
mod prefix;

pub use mac::{Mac, MacError};
pub use names::{Name, NameError, NetworkKey, PortKey, PortName};
pub use numbers::{NumberError, Revision, VlanId, Vni};
pub use prefix::{AddressRange, Prefix, PrefixError, RangeError};

/// Generated messages, clients and servers of the gRPC package `causeway.v1`. Documented in the `.proto` files.
#[allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code; its documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("causeway.v1");
}

/// The encoded file descriptor set of the contract, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("causeway.v1");
