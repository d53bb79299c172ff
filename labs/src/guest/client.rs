//! From outside to a lab's guest.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::frame::{Frame, Request};
use crate::cancel::Cancel;
use crate::error::{Act, LabError};
use crate::state::{GuestState, LabState};
use crate::up::Step;

fn begin(socket: &Path, request: Request) -> Result<UnixStream, LabError> {
    let stream =
        UnixStream::connect(socket).act(|| format!("speak with the lab's guest at {}", socket.display()))?;
    Frame::Request(request).write(&stream).act(|| "ask the guest".to_owned())?;
    Ok(stream)
}

fn next(stream: &UnixStream) -> Result<Frame, LabError> {
    let frame = Frame::read(stream).act(|| "hear from the guest".to_owned())?;
    frame.ok_or_else(|| failed("it has ended".to_owned()))
}

fn failed(what: String) -> LabError {
    LabError::Unsupported { subject: "the guest".to_owned(), what }
}

/// Asks for something that is answered with JSON.
pub(crate) fn ask<T: DeserializeOwned>(guest: &GuestState, request: Request) -> Result<T, LabError> {
    let stream = begin(&guest.socket, request)?;
    let mut text = Vec::new();
    loop {
        match next(&stream)? {
            Frame::Out(bytes) => text.extend(bytes),
            Frame::Exit(_) => return serde_json::from_slice(&text).act(|| "understand the guest".to_owned()),
            Frame::Failed(what) => return Err(failed(what)),
            _ => {}
        }
    }
}

/// Has the guest bring the lab up; gives back the lab as it is there, and how many commands of its file failed.
pub(crate) fn up(
    guest: &GuestState,
    request: Request,
    cancel: &Cancel,
    step: &dyn Fn(Step),
) -> Result<(LabState, usize), LabError> {
    let stream = begin(&guest.socket, request)?;
    let stopper = stream.try_clone().act(|| "copy a socket".to_owned())?;
    cancel.on_cancel(move || drop(stopper.shutdown(Shutdown::Both)));
    loop {
        match next(&stream)? {
            Frame::Step(each) => step(each),
            Frame::Up(state, failed) => return Ok((*state, failed)),
            Frame::Failed(what) => return Err(failed(what)),
            _ => {}
        }
    }
}

/// Runs a command in the guest with this process's standard streams, and gives back its exit status.
pub(crate) fn exec(socket: &Path, request: Request) -> Result<i32, LabError> {
    let stream = begin(socket, request)?;
    let input = stream.try_clone().act(|| "copy a socket".to_owned())?;
    let (taken, is_taken) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || send_input(&input, &is_taken))
        .act(|| "start a thread".to_owned())?;
    loop {
        match next(&stream)? {
            // Who reads it may have seen enough: the command is told by its own streams, as by a pipe.
            Frame::Out(bytes) => put(io::stdout().lock(), &bytes)?,
            Frame::Err(bytes) => put(io::stderr().lock(), &bytes)?,
            Frame::Taken => _ = taken.try_send(()),
            Frame::Exit(status) => return Ok(status),
            Frame::Failed(what) => return Err(failed(what)),
            _ => {}
        }
    }
}

fn put(mut to: impl Write, bytes: &[u8]) -> Result<(), LabError> {
    to.write_all(bytes).and_then(|()| to.flush()).act(|| "print".to_owned())
}

/// One piece at a time: the guest says when the command has taken it.
fn send_input(stream: &UnixStream, is_taken: &std::sync::mpsc::Receiver<()>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match io::stdin().lock().read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        if Frame::Input(bytes).write(stream).is_err() || length == 0 || is_taken.recv().is_err() {
            return;
        }
    }
}
