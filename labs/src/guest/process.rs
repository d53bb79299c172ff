//! QEMU as a child of this process, and the sockets to it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::error::failed;
use super::kernel::Kernel;
use super::stage::{Marks, port_name, script};
use super::stream::{Told, copy};
use super::{Guest, GuestError, TIMED_OUT};
use crate::cancel::Cancel;
use crate::state::ProcessId;

/// Where guests have their sockets; below /run, which is not shared: a guest has a /run of its own.
const RUN_DIR: &str = "/run/causeway/guests";
/// How long QEMU may take to open its end of the sockets.
const START: Duration = Duration::from_secs(30);
/// QEMU drops a message to the guest ("this port is connected") when too many are under way, which more ports than this
/// bring about; writing to such a port then waits for ever.
const PORTS_OF_DEVICE: usize = 6;
/// For Linux with nothing but virtio: what only takes time in an emulated machine is left out.
const KERNEL_FLAGS: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check \
    random.trust_cpu=on audit=0 apparmor=0 rcupdate.rcu_expedited=1 cryptomgr.notests net.ifnames=0";

/// A guest that runs. Dropping it ends it; so does the end of the thread that started it.
#[derive(Debug)]
pub(crate) struct GuestProcess {
    child: Child,
    scratch: Scratch,
    marks: Marks,
    out: UnixStream,
    err: UnixStream,
    /// This process's ends of the further ports, in their order.
    pub(crate) ports: Vec<UnixStream>,
}

impl GuestProcess {
    /// Starts QEMU and waits until it has opened the sockets; the guest boots from there on.
    /// `ports` are further two-way streams between the command and this process.
    pub(crate) fn start<S: AsRef<OsStr>>(
        guest: &Guest,
        argv: &[S],
        ports: &[&str],
    ) -> Result<Self, GuestError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(GuestError::NotRoot);
        }
        let kernel = Kernel::find()?;
        let word = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(failed("get a random word"))?;
        let marks = Marks::new(&word);
        let scratch = Scratch::new()?;
        let words: Vec<&OsStr> = argv.iter().map(AsRef::as_ref).collect();
        let stage = scratch.file("stage");
        fs::write(&stage, script(guest, &kernel.modules, &words, &marks))
            .map_err(failed(format!("write {}", stage.display())))?;

        let names: Vec<&str> = ["out", "err"].into_iter().chain(ports.iter().copied()).collect();
        let listen = |name: &&str| {
            let path = scratch.file(name);
            let listener = UnixListener::bind(&path).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listener.map_err(failed(format!("listen on {}", path.display())))
        };
        let listeners = names.iter().map(listen).collect::<Result<Vec<_>, _>>()?;
        let errors = scratch.file("qemu.err");
        let errors = File::create(&errors).map_err(failed(format!("create {}", errors.display())))?;
        let mut child = Command::new("/usr/bin/setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(kernel.qemu())
            .args(arguments(guest, &kernel, &scratch, &names)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(failed("run setpriv (package util-linux)"))?;
        match accept_all(&listeners, &mut child) {
            Ok(mut streams) => {
                let ports = streams.split_off(2);
                let mut streams = streams.into_iter();
                let (Some(out), Some(err)) = (streams.next(), streams.next()) else {
                    unreachable!("there are two listeners at least")
                };
                Ok(GuestProcess { child, scratch, marks, out, err, ports })
            }
            Err(error) => {
                let status = reap(&mut child);
                Err(error.unwrap_or_else(|| died(&status, &scratch)))
            }
        }
    }

    /// QEMU itself.
    pub(crate) fn id(&self) -> Option<ProcessId> {
        ProcessId::of(self.child.id())
    }

    /// Copies the command's streams until it has ended; gives back its exit status, and when it was started.
    pub(crate) fn stream(
        &mut self,
        deadline: Option<Instant>,
        out: impl Write + Send,
        err: impl Write + Send,
    ) -> Result<(i32, Option<Instant>), GuestError> {
        let (sender, receiver) = mpsc::channel();
        let marks = &self.marks;
        let copied = (self.out.try_clone(), self.err.try_clone());
        let (Ok(out_stream), Ok(err_stream)) = copied else {
            return Err(failed("copy a socket")(io::Error::last_os_error()));
        };
        let child = &mut self.child;
        let streams = [&self.out, &self.err];
        let (statuses, begun) = std::thread::scope(|scope| {
            let tell = sender.clone();
            scope.spawn(move || copy(out_stream, marks, out, |told| _ = tell.send(told)));
            scope.spawn(move || copy(err_stream, marks, err, |told| _ = sender.send(told)));
            let seen = listen_to(&receiver, deadline);
            if seen.0.len() < 2 {
                // Too late, or dead: the threads end with the sockets.
                if deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    wait_shortly(child);
                }
                drop(child.kill());
                for stream in streams {
                    drop(stream.shutdown(std::net::Shutdown::Both));
                }
            }
            seen
        });
        match statuses.as_slice() {
            [status, _] => Ok((*status, begun)),
            _ if deadline.is_some_and(|deadline| Instant::now() >= deadline) => Ok((TIMED_OUT, begun)),
            _ => Err(died(&reap(&mut self.child), &self.scratch)),
        }
    }

    /// Ends it. Nothing is lost: what the command wrote is out when its end is told.
    pub(crate) fn end(&mut self) {
        reap(&mut self.child);
    }
}

impl Drop for GuestProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// Hears both streams to their ends: the exit statuses told, and when the first byte came.
fn listen_to(receiver: &mpsc::Receiver<Told>, deadline: Option<Instant>) -> (Vec<i32>, Option<Instant>) {
    let (mut statuses, mut begun) = (Vec::new(), None);
    while statuses.len() < 2 {
        let told = match deadline {
            None => receiver.recv().ok(),
            Some(deadline) => receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok(),
        };
        match told {
            Some(Told::Begun) => begun = begun.or_else(|| Some(Instant::now())),
            Some(Told::Ended(status)) => statuses.push(status),
            Some(Told::Broken) | None => break,
        }
    }
    (statuses, begun)
}

/// QEMU's command line.
fn arguments(
    guest: &Guest,
    kernel: &Kernel,
    scratch: &Scratch,
    names: &[&str],
) -> Result<Vec<OsString>, GuestError> {
    let [accel, cpu] = kernel.accel;
    let (cpus, memory) = (guest.cpus.to_string(), guest.memory.to_string());
    let fixed = [
        "-machine",
        "pc",
        "-accel",
        accel,
        "-cpu",
        cpu,
        "-smp",
        &cpus,
        "-m",
        &memory,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-nic",
        "none",
    ];
    let mut all: Vec<OsString> = fixed.map(OsString::from).into();
    let mut add = |option: &str, parts: &[&OsStr]| {
        all.push(option.into());
        all.push(parts.iter().copied().collect::<OsString>());
    };
    add("-kernel", &[kernel.image.as_os_str()]);
    add("-initrd", &[kernel.initrd.as_os_str()]);
    let flags = format!("{KERNEL_FLAGS} {} causeway.stage=", guest.kernel_flags.join(" "));
    add("-append", &[flags.as_ref(), scratch.file("stage").as_os_str()]);
    add("-serial", &["file:".as_ref(), scratch.file("console").as_os_str()]);
    let shared = ",security_model=none,multidevs=remap".as_ref();
    add("-fsdev", &["local,id=root,path=/,readonly=on".as_ref(), shared]);
    add("-device", &["virtio-9p-pci,fsdev=root,mount_tag=root".as_ref()]);
    for (number, share) in guest.shares.iter().enumerate() {
        let refuse = |what: &str| GuestError::Share { path: share.clone(), what: what.to_owned() };
        if !share.is_dir() {
            return Err(refuse("it is no directory"));
        }
        if share.as_os_str().as_encoded_bytes().contains(&b',') || !share.is_absolute() {
            return Err(refuse("the path must be absolute and without commas"));
        }
        let id = format!("local,id=share{number},path=");
        add("-fsdev", &[id.as_ref(), share.as_os_str(), shared]);
        let device = format!("virtio-9p-pci,fsdev=share{number},mount_tag=share{number}");
        add("-device", &[device.as_ref()]);
    }
    for (number, name) in names.iter().enumerate() {
        let bus = number / PORTS_OF_DEVICE;
        if number % PORTS_OF_DEVICE == 0 {
            let device = format!("virtio-serial-pci,id=serial{bus}");
            add("-device", &[device.as_ref()]);
        }
        let socket = format!("socket,id={name},path=");
        add("-chardev", &[socket.as_ref(), scratch.file(name).as_os_str()]);
        let device = format!("virtserialport,bus=serial{bus}.0,chardev={name},name={}", port_name(name));
        add("-device", &[device.as_ref()]);
    }
    Ok(all)
}

/// One connection at each listener. `Err(None)`: QEMU has ended.
fn accept_all(listeners: &[UnixListener], child: &mut Child) -> Result<Vec<UnixStream>, Option<GuestError>> {
    let pause = Cancel::new();
    let deadline = Instant::now() + START;
    let mut streams = Vec::new();
    while let Some(listener) = listeners.get(streams.len()) {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(|error| Some(failed("set up a socket")(error)))?;
                streams.push(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !matches!(child.try_wait(), Ok(None)) || Instant::now() > deadline {
                    return Err(None);
                }
                drop(pause.pause(Duration::from_millis(5)));
            }
            Err(error) => return Err(Some(failed("accept QEMU's connection")(error))),
        }
    }
    Ok(streams)
}

/// QEMU closes its sockets a moment before it ends by itself.
fn wait_shortly(child: &mut Child) {
    let pause = Cancel::new();
    let deadline = Instant::now() + Duration::from_secs(2);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        drop(pause.pause(Duration::from_millis(10)));
    }
}

/// Kills QEMU if it still runs; how it ended.
fn reap(child: &mut Child) -> String {
    // Already ended: it is only waited for.
    drop(child.kill());
    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
}

fn died(status: &str, scratch: &Scratch) -> GuestError {
    let lines = |name: &str| {
        let bytes = fs::read(scratch.file(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let last = |lines: &[String], count: usize| {
        lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
    };
    let console = lines("console");
    // A panic says its reason first, and then much more.
    let panic = console.iter().find(|line| line.contains("Kernel panic")).cloned().unwrap_or_default();
    let parts = [last(&lines("qemu.err"), 5), panic, last(&console, 15)];
    let words: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let words = if words.is_empty() { "(none)".to_owned() } else { words.join("\n") };
    GuestError::Died { status: status.to_owned(), words }
}

/// The folder of one guest: sockets, console, the stage script. Removed when dropped; what killed processes have left is
/// removed by the next guest.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self, GuestError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        sweep();
        let own = ProcessId::of(std::process::id()).unwrap_or(ProcessId { pid: 0, start: 0 });
        let name = format!("{}-{}-{}", own.pid, own.start, COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(RUN_DIR).join(name);
        fs::create_dir_all(&path).map_err(failed(format!("create {}", path.display())))?;
        Ok(Scratch { path })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing stays; folders in use by others are not empty.
        drop(fs::remove_dir_all(&self.path));
        drop(fs::remove_dir(RUN_DIR));
        drop(Path::new(RUN_DIR).parent().map(fs::remove_dir));
    }
}

/// Removes folders of guests whose owners are gone.
fn sweep() {
    for entry in fs::read_dir(RUN_DIR).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut numbers = name.split('-').map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(start))) = (numbers.next(), numbers.next()) else { continue };
        let owner = u32::try_from(pid).ok().map(|pid| ProcessId { pid, start });
        if owner.is_some_and(|owner| !owner.is_alive()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
