//! The script that the guest's first program ends in: shares, modules, streams, environment, the command.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Guest;
use crate::enter::PATH;

/// What separates the command's own bytes from ours in a stream: a word nobody else can know.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    word: String,
}

impl Marks {
    /// With a random word, for example a UUID.
    pub(super) fn new(word: &str) -> Self {
        Marks { word: word.trim().to_owned() }
    }

    /// Comes before the command's first byte.
    pub(super) fn begin(&self) -> Vec<u8> {
        format!("begin {}\n", self.word).into_bytes()
    }

    /// Comes after the command's last byte, followed by its exit status and a newline.
    pub(super) fn end(&self) -> Vec<u8> {
        format!("end {} ", self.word).into_bytes()
    }
}

/// Name of the port of a stream in the guest.
pub(crate) fn port_name(name: &str) -> String {
    format!("causeway.{name}")
}

/// The script. PID 1 of the guest is the shell that runs it; when the command has ended it waits to be killed, so that
/// nothing is lost that still was on its way out.
pub(super) fn script(guest: &Guest, modules: &Path, argv: &[&OsStr], marks: &Marks) -> Vec<u8> {
    let mut text = Script(b"box=/bin/busybox\n".to_vec());
    let place = Path::new("/lib/modules").join(modules.file_name().unwrap_or_default());
    text.line(&["$box mkdir -p"], &[place.as_os_str()]);
    text.line(&["$box mount -o bind"], &[modules.as_os_str(), place.as_os_str()]);
    let options = "$box mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none";
    for (number, share) in guest.shares.iter().enumerate() {
        text.line(&["$box mkdir -p"], &[share.as_os_str()]);
        text.line(&[options, &format!("share{number}")], &[share.as_os_str()]);
    }
    text.raw(&format!(
        "for port in /sys/class/virtio-ports/*; do\n  read -r name < $port/name\n  case $name in\n    {}) out=/dev/${{port##*/}} ;;\n    {}) err=/dev/${{port##*/}} ;;\n  esac\ndone\nexec 3> $out 4> $err\n",
        port_name("out"),
        port_name("err")
    ));
    let end = |stream: u8| format!("printf 'end %s %s\\n' {} $status >&{stream}\n", marks.word);
    for stream in [3, 4] {
        text.raw(&format!("printf 'begin %s\\n' {} >&{stream}\n", marks.word));
    }
    text.raw(&format!("export PATH={PATH} HOME=/root LANG=C.UTF-8\n"));
    for (name, value) in guest.env.iter().filter(|(name, _)| is_variable(name)) {
        let mut pair = name.clone();
        pair.push("=");
        pair.push(value);
        text.line(&["export"], &[&pair]);
    }
    text.line(&["cd"], &[guest.directory.as_os_str()]);
    // By env, which looks for a program as the machine does (127: there is none): to this shell, busybox, the names of its
    // own small programs come first, sh and ip among them.
    text.raw("(exec 3>&- 4>&-; exec /usr/bin/env --");
    for word in argv {
        text.0.push(b' ');
        text.0.extend(quoted(word));
    }
    text.raw(") < /dev/null >&3 2>&4\nstatus=$?\n$box sync\n");
    text.raw(&(end(3) + &end(4)));
    text.raw("while :; do $box sleep 1000; done\n");
    text.0
}

struct Script(Vec<u8>);

impl Script {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// Words as they are, then words that may hold anything.
    fn line(&mut self, words: &[&str], values: &[&OsStr]) {
        self.raw(&words.join(" "));
        for value in values {
            self.0.push(b' ');
            self.0.extend(quoted(value));
        }
        self.0.push(b'\n');
    }
}

/// For a shell, whatever is in it.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            byte => text.push(*byte),
        }
    }
    text.push(b'\'');
    text
}

/// A shell takes no other names (`BASH_FUNC_x%%` is one).
fn is_variable(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    !bytes.is_empty() && bytes.iter().all(good) && !bytes.first().is_some_and(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    proptest! {
        #[test]
        fn a_shell_gives_back_every_word(bytes in proptest::collection::vec(1u8..=255, 0..40)) {
            let word = std::ffi::OsString::from_vec(bytes.clone());
            let mut script = b"printf %s ".to_vec();
            script.extend(quoted(&word));
            let output = std::process::Command::new("sh")
                .arg("-c").arg(std::ffi::OsString::from_vec(script)).output().unwrap();
            prop_assert_eq!(output.stdout, bytes);
        }
    }

    #[test]
    fn names_that_a_shell_refuses_are_left_out() {
        for (name, good) in
            [("PATH", true), ("_", true), ("a1", true), ("1a", false), ("BASH_FUNC_x%%", false), ("", false)]
        {
            assert_eq!(is_variable(OsStr::new(name)), good, "{name}");
        }
    }
}
