//! The typed detail of an error, as a gRPC status carries it.

use prost::Message;
use tonic::{Code, Status};

use crate::v1::ErrorDetail;

/// Type URL of the detail.
const TYPE: &str = "type.googleapis.com/causeway.v1.ErrorDetail";

/// `google.rpc.Status`: what the binary details of a gRPC status hold.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

impl ErrorDetail {
    /// A gRPC status with this detail.
    pub fn into_status(self, code: Code, message: impl Into<String>) -> Status {
        let message = message.into();
        let any = prost_types::Any { type_url: TYPE.to_owned(), value: self.encode_to_vec() };
        let rpc = RpcStatus { code: code.into(), message: message.clone(), details: vec![any] };
        Status::with_details(code, message, rpc.encode_to_vec().into())
    }

    /// The detail of a gRPC status, if it carries one.
    pub fn of(status: &Status) -> Option<ErrorDetail> {
        let rpc = RpcStatus::decode(status.details()).ok()?;
        let any = rpc.details.iter().find(|any| any.type_url == TYPE)?;
        ErrorDetail::decode(any.value.as_slice()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_its_detail() {
        let detail = ErrorDetail { retryable: true, hint: "try again".into(), ..Default::default() };
        let status = detail.clone().into_status(Code::Aborted, "not now");
        assert_eq!((status.code(), status.message()), (Code::Aborted, "not now"));
        let rpc = RpcStatus::decode(status.details()).unwrap();
        assert_eq!((rpc.code, rpc.message.as_str()), (Code::Aborted as i32, "not now"));
        assert_eq!(rpc.details[0].type_url, TYPE);
        assert_eq!(ErrorDetail::of(&status), Some(detail));
    }

    #[test]
    fn others_details_are_none_of_ours() {
        assert_eq!(ErrorDetail::of(&Status::aborted("plain")), None);
        let garbage = Status::with_details(Code::Aborted, "odd", vec![0xff; 9].into());
        assert_eq!(ErrorDetail::of(&garbage), None);
    }
}
