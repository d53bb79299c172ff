//! What is said between a lab's guest and those outside: frames of a kind, a length and that many bytes.
//!
//! One port, and one connection of a client, carries one request at a time: the request, then what it tells, to its end.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::state::LabState;
use crate::up::Step;

/// Longest content of a frame, in bytes.
const LONGEST: usize = 4 << 20;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Nothing but an answer.
    Hello,
    /// Bring the lab up.
    Up { file: PathBuf, name: String, stand_in: bool },
    /// Run a command in a node of the lab, or in the guest itself.
    Exec { lab: String, node: Option<String>, argv: Vec<String> },
    /// Rows of `inspect`, as JSON on standard output.
    Nodes { lab: String },
    /// Rows of `inspect interfaces`, likewise.
    Interfaces { lab: String, node: Option<String> },
}

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    /// To the guest: do this.
    Request(Request),
    /// To the guest: bytes for the command's standard input; none: it is at its end. The next follow [`Frame::Taken`].
    Input(Vec<u8>),
    /// To the guest: nobody waits any more.
    Kill,
    /// The last input was taken.
    Taken,
    /// Standard output.
    Out(Vec<u8>),
    /// Standard error.
    Err(Vec<u8>),
    /// Progress of [`Request::Up`].
    Step(Step),
    /// The lab is up; so many commands of its file have failed. The last frame of a request.
    Up(Box<LabState>, usize),
    /// The exit status. The last frame of a request.
    Exit(i32),
    /// It could not be done. The last frame of a request.
    Failed(String),
}

impl Frame {
    /// True if the request is over with it.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self, Frame::Up(..) | Frame::Exit(_) | Frame::Failed(_))
    }

    /// Writes it in one piece.
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let (kind, content) = match self {
            Frame::Request(request) => (b'R', serde_json::to_vec(request)?),
            Frame::Input(bytes) => (b'I', bytes.clone()),
            Frame::Kill => (b'K', Vec::new()),
            Frame::Taken => (b'T', Vec::new()),
            Frame::Out(bytes) => (b'O', bytes.clone()),
            Frame::Err(bytes) => (b'E', bytes.clone()),
            Frame::Step(step) => (b'S', serde_json::to_vec(step)?),
            Frame::Up(state, failed) => (b'U', serde_json::to_vec(&(state, failed))?),
            Frame::Exit(status) => (b'X', serde_json::to_vec(status)?),
            Frame::Failed(what) => (b'F', what.clone().into_bytes()),
        };
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, "a frame is too long");
        let length = u32::try_from(content.len())
            .ok()
            .filter(|length| *length as usize <= LONGEST)
            .ok_or_else(too_long)?;
        let mut bytes = Vec::with_capacity(content.len() + 5);
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend(content);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// The next one; `None`: the other side is gone.
    ///
    /// # Errors
    /// It breaks off inside a frame; the frame is none of ours.
    pub(crate) fn read(mut from: impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        match from.read(&mut head) {
            Ok(0) => return Ok(None),
            Ok(length) => from.read_exact(head.get_mut(length..).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content)?;
        Self::parse(kind, content).map(Some)
    }

    fn parse(kind: u8, content: Vec<u8>) -> io::Result<Self> {
        fn json<T: DeserializeOwned>(content: &[u8]) -> io::Result<T> {
            Ok(serde_json::from_slice(content)?)
        }
        Ok(match kind {
            b'R' => Frame::Request(json(&content)?),
            b'I' => Frame::Input(content),
            b'K' => Frame::Kill,
            b'T' => Frame::Taken,
            b'O' => Frame::Out(content),
            b'E' => Frame::Err(content),
            b'S' => Frame::Step(json(&content)?),
            b'U' => {
                let (state, failed) = json(&content)?;
                Frame::Up(state, failed)
            }
            b'X' => Frame::Exit(json(&content)?),
            b'F' => Frame::Failed(String::from_utf8_lossy(&content).into_owned()),
            other => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of kind {other}")));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..50);
        prop_oneof![
            (
                any::<String>(),
                proptest::option::of(any::<String>()),
                proptest::collection::vec(any::<String>(), 0..4)
            )
                .prop_map(|(lab, node, argv)| Frame::Request(Request::Exec { lab, node, argv })),
            bytes().prop_map(Frame::Input),
            bytes().prop_map(Frame::Out),
            bytes().prop_map(Frame::Err),
            Just(Frame::Kill),
            Just(Frame::Taken),
            any::<i32>().prop_map(Frame::Exit),
            any::<String>().prop_map(Frame::Failed),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(frames in proptest::collection::vec(frames(), 0..6)) {
            let mut stream = Vec::new();
            for frame in &frames {
                frame.write(&mut stream).unwrap();
            }
            let mut stream = stream.as_slice();
            for frame in &frames {
                let read = Frame::read(&mut stream).unwrap();
                prop_assert_eq!(read.as_ref(), Some(frame));
            }
            prop_assert!(Frame::read(&mut stream).unwrap().is_none());
        }

        #[test]
        fn whatever_comes_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut stream = bytes.as_slice();
            while let Ok(Some(_)) = Frame::read(&mut stream) {}
        }
    }
}
