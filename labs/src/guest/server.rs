//! Inside a lab's guest: brings the lab up and runs commands in its nodes, for those outside.
//!
//! A thread for each port; a port has one request at a time. There is no terminal: commands have pipes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::frame::{Frame, Request};
use super::stage::port_name;
use crate::cancel::Cancel;
use crate::enter::{self, exit_number};
use crate::error::{Act, LabError, chain};
use crate::note::note;
use crate::report;
use crate::running::RunningLab;
use crate::state::LabState;
use crate::up::{Place, UpOptions, up};

/// How many requests a lab's guest serves at a time.
pub(crate) const PORTS: usize = 16;
/// When a command has ended while something it has left still holds its streams: how long these must be quiet.
const QUIET: Duration = Duration::from_millis(300);

/// Names of the ports, for both sides.
pub(crate) fn port(number: usize) -> String {
    format!("serve{number}")
}

/// Serves until the guest ends.
pub(crate) fn run() -> Result<ExitCode, LabError> {
    let lab = Arc::new(Mutex::new(None));
    let mut threads = Vec::new();
    for number in 0..PORTS {
        let path = find_port(&port_name(&port(number)))?;
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .act(|| format!("open {}", path.display()))?;
        let lab = Arc::clone(&lab);
        let thread =
            std::thread::Builder::new().name(format!("port {number}")).spawn(move || Port::serve(port, &lab));
        threads.push(thread.act(|| "start a thread".to_owned())?);
    }
    for thread in threads {
        drop(thread.join());
    }
    Ok(ExitCode::SUCCESS)
}

fn find_port(name: &str) -> Result<PathBuf, LabError> {
    let folder = "/sys/class/virtio-ports";
    for entry in std::fs::read_dir(folder).act(|| format!("read {folder}"))?.flatten() {
        if std::fs::read_to_string(entry.path().join("name")).is_ok_and(|there| there.trim() == name) {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(LabError::Unsupported {
        subject: format!("port {name}"),
        what: "this guest has none: the command is for guests that causeway lab up makes".to_owned(),
    })
}

type Held = Arc<Mutex<Option<RunningLab>>>;

/// One port and what it does now.
struct Port {
    writer: Arc<Mutex<File>>,
    lab: Held,
    /// Of the command that runs: its number, and where its input goes.
    command: Arc<Mutex<Option<Running>>>,
    /// Of the lab that is being brought up. Not of one that is up: its nodes hang on it.
    cancel: Arc<Mutex<Option<Cancel>>>,
}

struct Running {
    pid: u32,
    input: Option<mpsc::Sender<Vec<u8>>>,
}

impl Port {
    fn serve(port: File, lab: &Held) {
        let Ok(mut reader) = port.try_clone() else { return };
        let port = Port {
            writer: Arc::new(Mutex::new(port)),
            lab: Arc::clone(lab),
            command: Arc::default(),
            cancel: Arc::default(),
        };
        loop {
            match Frame::read(&mut reader) {
                Ok(Some(Frame::Request(request))) => port.begin(request),
                Ok(Some(Frame::Input(bytes))) => port.input(bytes),
                Ok(Some(Frame::Kill)) => port.kill(),
                Ok(Some(_)) => {}
                // The kernel has not heard yet that the other side is there. When it has gone, so has this guest.
                Ok(None) => drop(Cancel::new().pause(Duration::from_millis(20))),
                Err(error) => return note(&format!("causeway: a port of the guest is given up: {error}")),
            }
        }
    }

    /// Starts a request in a thread of its own: this one must hear a [`Frame::Kill`].
    fn begin(&self, request: Request) {
        let (writer, lab) = (Arc::clone(&self.writer), Arc::clone(&self.lab));
        let command = Arc::clone(&self.command);
        let started = match request {
            Request::Exec { lab, node, argv } => start_command(&lab, node.as_deref(), &argv).map(|child| {
                let (sender, receiver) = mpsc::channel();
                *lock(&command) = Some(Running { pid: child.id(), input: Some(sender) });
                Box::new(move || attend(child, receiver, &writer, &command))
                    as Box<dyn FnOnce() -> Frame + Send>
            }),
            Request::Hello => Ok(Box::new(|| Frame::Exit(0)) as _),
            Request::Up { file, name, stand_in } => {
                let cancel = Cancel::new();
                *lock(&self.cancel) = Some(cancel.clone());
                let running = Arc::clone(&self.cancel);
                let options = UpOptions {
                    name: Some(name),
                    stand_in,
                    cancel,
                    place: Place::Here,
                    ..UpOptions::new(file)
                };
                Ok(Box::new(move || {
                    let frame = bring_up(options, &writer, &lab);
                    *lock(&running) = None;
                    frame
                }) as _)
            }
            Request::Nodes { lab } => {
                Ok(Box::new(move || tell(&writer, state(&lab).map(|lab| report::node_rows(&lab)))) as _)
            }
            Request::Interfaces { lab, node } => Ok(Box::new(move || {
                tell(&writer, state(&lab).and_then(|lab| report::interfaces(&lab, node.as_deref())))
            }) as _),
        };
        let writer = Arc::clone(&self.writer);
        match started {
            Ok(work) => {
                let thread = std::thread::Builder::new().spawn({
                    let writer = Arc::clone(&writer);
                    move || say(&writer, &work())
                });
                if let Err(error) = thread {
                    say(&writer, &Frame::Failed(format!("cannot start a thread in the guest: {error}")));
                }
            }
            Err(error) => say(&writer, &Frame::Failed(chain(&error))),
        }
    }

    fn input(&self, bytes: Vec<u8>) {
        let mut command = lock(&self.command);
        let Some(running) = command.as_mut() else { return };
        if bytes.is_empty() {
            running.input = None;
        } else if let Some(input) = &running.input {
            // It takes no more when it has closed its input or ended.
            let _ = input.send(bytes);
        }
    }

    fn kill(&self) {
        if let Some(cancel) = lock(&self.cancel).as_ref() {
            cancel.cancel();
        }
        let pid = lock(&self.command).as_ref().and_then(|running| i32::try_from(running.pid).ok());
        if let Some(pid) = pid {
            // As if the caller outside had started it itself and was killed: see `enter::command`.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who is told is outside; if it is gone, the guest is about to end.
fn say(writer: &Mutex<File>, frame: &Frame) {
    let _ = frame.write(&mut *lock(writer));
}

fn state(lab: &str) -> Result<LabState, LabError> {
    LabState::read(lab)?.ok_or_else(|| LabError::NotUp { name: lab.to_owned() })
}

fn tell<T: serde::Serialize>(writer: &Mutex<File>, value: Result<T, LabError>) -> Frame {
    let text = value.and_then(|value| serde_json::to_vec(&value).act(|| "write JSON".to_owned()));
    match text {
        Ok(text) => {
            say(writer, &Frame::Out(text));
            Frame::Exit(0)
        }
        Err(error) => Frame::Failed(chain(&error)),
    }
}

fn bring_up(options: UpOptions, writer: &Arc<Mutex<File>>, held: &Held) -> Frame {
    let steps = Arc::clone(writer);
    let options =
        UpOptions { progress: Arc::new(move |step| say(&steps, &Frame::Step(step.clone()))), ..options };
    match up(&options) {
        Ok(lab) => {
            let frame = Frame::Up(Box::new(lab.state().clone()), lab.failed_exec());
            *lock(held) = Some(lab);
            frame
        }
        Err(error) => Frame::Failed(chain(&error)),
    }
}

fn start_command(lab: &str, node: Option<&str>, argv: &[String]) -> Result<Child, LabError> {
    let mut command = match (node, argv.split_first()) {
        (Some(node), _) => {
            let lab = state(lab)?;
            enter::command(&lab, lab.node(node)?, argv)?
        }
        (None, Some((program, arguments))) => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
        (None, None) => {
            return Err(LabError::Unsupported {
                subject: "exec".to_owned(),
                what: "no command given".to_owned(),
            });
        }
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().act(|| format!("run {} in the guest", argv.first().map_or("", String::as_str)))
}

/// Carries a command's streams until it has ended.
fn attend(
    mut child: Child,
    input: mpsc::Receiver<Vec<u8>>,
    writer: &Arc<Mutex<File>>,
    command: &Mutex<Option<Running>>,
) -> Frame {
    let is_over = Arc::new(AtomicBool::new(false));
    let traffic = Arc::new(Traffic::default());
    let (ended, has_ended) = mpsc::channel();
    if let Some(stdin) = child.stdin.take() {
        let writer = Arc::clone(writer);
        std::thread::spawn(move || feed(stdin, &input, &writer));
    }
    let out = child
        .stdout
        .take()
        .map(|stream| (Box::new(stream) as Box<dyn Read + Send>, Frame::Out as fn(_) -> _));
    let err = child
        .stderr
        .take()
        .map(|stream| (Box::new(stream) as Box<dyn Read + Send>, Frame::Err as fn(_) -> _));
    for (stream, frame) in [out, err].into_iter().flatten() {
        let (writer, is_over, traffic, ended) =
            (Arc::clone(writer), Arc::clone(&is_over), Arc::clone(&traffic), ended.clone());
        std::thread::spawn(move || {
            pump(stream, frame, &writer, &is_over, &traffic);
            let _ = ended.send(());
        });
    }
    drop(ended);
    let status = child.wait();
    *lock(command) = None;
    // Both streams to their ends; or, if something in the background keeps them open, until nothing comes.
    let mut open = 2;
    while open > 0 {
        let before = traffic.idle_after();
        match has_ended.recv_timeout(QUIET) {
            Ok(()) => open -= 1,
            Err(mpsc::RecvTimeoutError::Timeout) if before.is_some() && traffic.idle_after() == before => {
                // No frame is half-written while we have the writer.
                let _writer = lock(writer);
                is_over.store(true, Ordering::Release);
                break;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    match status {
        Ok(status) => Frame::Exit(exit_number(status)),
        Err(error) => Frame::Failed(format!("cannot wait for the command in the guest: {error}")),
    }
}

/// How often both pumps have read, and how many of them have not written yet what they read.
#[derive(Default)]
struct Traffic {
    reads: AtomicU64,
    busy: AtomicU64,
}

impl Traffic {
    /// The number of reads, if nothing is on its way.
    fn idle_after(&self) -> Option<u64> {
        let reads = self.reads.load(Ordering::SeqCst);
        (self.busy.load(Ordering::SeqCst) == 0).then_some(reads)
    }
}

fn feed(mut stdin: ChildStdin, input: &mpsc::Receiver<Vec<u8>>, writer: &Mutex<File>) {
    for bytes in input {
        // A command that reads no more has its reasons: what is left is dropped, as by a pipe.
        if stdin.write_all(&bytes).is_err() {
            return;
        }
        say(writer, &Frame::Taken);
    }
}

fn pump(
    mut stream: Box<dyn Read + Send>,
    frame: fn(Vec<u8>) -> Frame,
    writer: &Mutex<File>,
    is_over: &AtomicBool,
    traffic: &Traffic,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        traffic.busy.fetch_add(1, Ordering::SeqCst);
        traffic.reads.fetch_add(1, Ordering::SeqCst);
        let mut writer = lock(writer);
        // Looked at with the writer in hand: after the last frame nothing may follow.
        if is_over.load(Ordering::Acquire) || frame(bytes).write(&mut *writer).is_err() {
            return;
        }
        traffic.busy.fetch_sub(1, Ordering::SeqCst);
    }
}
