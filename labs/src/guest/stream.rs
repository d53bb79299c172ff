//! Taking a command's bytes out of a stream that also carries our marks.

use std::io::{self, Read, Write};

use super::stage::Marks;

/// What a stream has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// The command was started.
    Begun,
    /// The command has ended with this exit status, and all its bytes are out.
    Ended(i32),
    /// The stream has ended without the mark: the guest died.
    Broken,
}

/// Separates marks and bytes, however they are cut into pieces.
#[derive(Debug)]
pub(super) struct Splitter {
    begin: Vec<u8>,
    end: Vec<u8>,
    /// Bytes that were not decided on yet.
    held: Vec<u8>,
    has_begun: bool,
}

impl Splitter {
    pub(super) fn new(marks: &Marks) -> Self {
        Splitter { begin: marks.begin(), end: marks.end(), held: Vec::new(), has_begun: false }
    }

    /// Takes bytes of the stream; gives the command's own to `out` and says what they told. After [`Told::Begun`] there
    /// may be more to tell: push nothing, again.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<Told> {
        self.held.extend_from_slice(bytes);
        if !self.has_begun {
            let at = find(&self.held, &self.begin)?;
            self.held.drain(..at + self.begin.len());
            self.has_begun = true;
            return Some(Told::Begun);
        }
        if let Some(at) = find(&self.held, &self.end) {
            let rest = self.held.get(at + self.end.len()..).unwrap_or_default();
            out.extend_from_slice(self.held.get(..at).unwrap_or_default());
            let line = rest.iter().position(|byte| *byte == b'\n').and_then(|length| rest.get(..length));
            let status = line.and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
            self.held.drain(..at);
            return status.map(Told::Ended);
        }
        // What could be the start of the mark waits for what follows.
        let keep =
            (1..self.end.len()).rev().find(|n| self.held.ends_with(self.end.get(..*n).unwrap_or_default()));
        out.extend(self.held.drain(..self.held.len() - keep.unwrap_or(0)));
        None
    }

    /// The stream is over; what was held back belonged to the command.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        if self.has_begun {
            out.extend(self.held);
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Copies a stream to its end or to its mark, telling what it says.
pub(super) fn copy(mut from: impl Read, marks: &Marks, mut to: impl Write, tell: impl Fn(Told)) {
    let mut splitter = Splitter::new(marks);
    let mut buffer = vec![0; 64 * 1024];
    let mut is_open = true;
    let mut pass = |bytes: &[u8]| {
        // Whoever reads it has seen enough; the command is not to be stopped by that.
        is_open = is_open && to.write_all(bytes).and_then(|()| to.flush()).is_ok();
    };
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let mut out = Vec::new();
        let mut told = splitter.push(buffer.get(..length).unwrap_or_default(), &mut out);
        if told == Some(Told::Begun) {
            tell(Told::Begun);
            told = splitter.push(&[], &mut out);
        }
        pass(&out);
        if let Some(told) = told {
            tell(told);
            return;
        }
    }
    let mut out = Vec::new();
    splitter.finish(&mut out);
    pass(&out);
    tell(Told::Broken);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks() -> Marks {
        Marks::new("1b4e\n")
    }

    proptest! {
        /// Cut anywhere, with any bytes, parts of the marks included.
        #[test]
        fn the_command_s_bytes_come_out_as_they_went_in(
            parts in proptest::collection::vec(prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..20),
                Just(b"end 1b4".to_vec()), Just(b"end 1b4e".to_vec()), Just(b"begin 1b4e\n".to_vec()), Just(b"eend ".to_vec()),
            ], 0..8),
            cuts in 1usize..9,
            status in 0..256i32,
        ) {
            let own: Vec<u8> = parts.concat();
            prop_assume!(find(&own, &marks().end()).is_none());
            let mut stream = marks().begin();
            stream.extend_from_slice(&own);
            stream.extend_from_slice(&marks().end());
            stream.extend_from_slice(format!("{status}\n").as_bytes());
            let (mut out, mut told) = (Vec::new(), Vec::new());
            let mut splitter = Splitter::new(&marks());
            for piece in stream.chunks(cuts) {
                let mut more = splitter.push(piece, &mut out);
                if more == Some(Told::Begun) {
                    more = splitter.push(&[], &mut out);
                }
                told.extend(more);
            }
            prop_assert_eq!(out, own);
            prop_assert_eq!(told.last(), Some(&Told::Ended(status)));
        }
    }

    #[test]
    fn a_stream_that_breaks_off_keeps_what_it_brought() {
        let mut stream = marks().begin();
        stream.extend_from_slice(b"half a line, end 1b");
        let (mut out, told) = (Vec::new(), std::cell::RefCell::new(Vec::new()));
        copy(stream.as_slice(), &marks(), &mut out, |each| told.borrow_mut().push(each));
        assert_eq!(out, b"half a line, end 1b");
        assert_eq!(told.into_inner(), [Told::Begun, Told::Broken]);
    }
}
