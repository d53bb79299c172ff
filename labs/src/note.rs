//! Words for people, on standard error.

use std::io::Write;

/// Prints a line. Unlike `eprintln!` it does not panic when nobody reads it or the disk is full: PID 1 of a node must
/// not end for that, nor a lab that is half-way up.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
