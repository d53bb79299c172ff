//! The last complete desired state on disk, so that a node keeps its data plane through controller loss and reboot.
//!
//! One file, `state`: a magic line, then records of one byte kind (1 snapshot, 2 delta), four bytes length, eight bytes
//! FNV-1a, both little endian, and a protobuf message. The first record is a snapshot; deltas are appended, so that one
//! change among 100,000 entries costs one small write. A snapshot, and the folding of deltas into one, goes to a new
//! file that replaces the old by rename. A record that does not sum up ends the file: what came before it counts.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use causeway_proto::v1;
use prost::Message;

const MAGIC: &[u8] = b"causeway-agent state 1\n";
const SNAPSHOT: u8 = 1;
const DELTA: u8 = 2;
const HEAD: usize = 13;
/// Deltas are folded when they are larger than this and than the snapshot.
const FOLD_AT: u64 = 1 << 20;

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("{act} {}: {source}", path.display())]
    Io {
        /// What failed.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not our file, or damaged in its first record.
    #[error("{} is not a state file of this version or is damaged; it is left as it is and not used", .0.display())]
    Damaged(PathBuf),
}

/// The state file of one agent.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    file: Option<File>,
    snapshot_bytes: u64,
    delta_bytes: u64,
}

fn fail<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::Io { act, path: path.to_owned(), source }
}

fn sum(kind: u8, bytes: &[u8]) -> u64 {
    let all = std::iter::once(&kind).chain(bytes);
    all.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD + bytes.len());
    record.push(kind);
    record.extend((bytes.len() as u32).to_le_bytes());
    record.extend(sum(kind, bytes).to_le_bytes());
    record.extend(bytes);
    record
}

/// First record, and what is behind it; `None` at the end or at damage.
fn split_record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let expected =
        u64::from_le_bytes([head[5], head[6], head[7], head[8], head[9], head[10], head[11], head[12]]);
    let body = bytes.get(HEAD..HEAD.checked_add(length)?)?;
    (sum(head[0], body) == expected).then(|| (head[0], body, &bytes[HEAD + length..]))
}

impl Journal {
    /// Opens the state directory, made if missing, and reads what is there: the state, or none.
    pub fn open(dir: &Path) -> Result<(Journal, Option<v1::NodeState>), JournalError> {
        fs::create_dir_all(dir).map_err(fail("create", dir))?;
        let mut journal = Journal { dir: dir.to_owned(), file: None, snapshot_bytes: 0, delta_bytes: 0 };
        let path = dir.join("state");
        let Some((state, good)) = read(&path)? else { return Ok((journal, None)) };
        let file = OpenOptions::new().append(true).open(&path).map_err(fail("open", &path))?;
        file.set_len(good).map_err(fail("cut", &path))?;
        journal.snapshot_bytes = state.encoded_len() as u64;
        journal.delta_bytes = good.saturating_sub(journal.snapshot_bytes);
        journal.file = Some(file);
        Ok((journal, Some(state)))
    }

    /// Reads the state without opening it for writing.
    pub fn load(dir: &Path) -> Result<Option<v1::NodeState>, JournalError> {
        Ok(read(&dir.join("state"))?.map(|(state, _)| state))
    }

    /// Replaces the state. On disk when this returns.
    pub fn write_snapshot(&mut self, state: &v1::NodeState) -> Result<(), JournalError> {
        let (new, path) = (self.dir.join("state.new"), self.dir.join("state"));
        let bytes = record(SNAPSHOT, &state.encode_to_vec());
        let mut file = File::create(&new).map_err(fail("create", &new))?;
        file.write_all(MAGIC).map_err(fail("write", &new))?;
        file.write_all(&bytes).map_err(fail("write", &new))?;
        file.sync_all().map_err(fail("sync", &new))?;
        fs::rename(&new, &path).map_err(fail("replace", &path))?;
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(fail("sync", &self.dir))?;
        self.file = Some(file);
        self.snapshot_bytes = bytes.len() as u64;
        self.delta_bytes = 0;
        Ok(())
    }

    /// Appends a change. Survives a crash of the agent at once, one of the machine when the kernel has written it.
    pub fn write_delta(&mut self, delta: &v1::NodeDelta) -> Result<(), JournalError> {
        let path = self.dir.join("state");
        let bytes = record(DELTA, &delta.encode_to_vec());
        let Some(file) = &mut self.file else { return Err(JournalError::Damaged(path)) };
        if let Err(error) = file.write_all(&bytes) {
            // Half a record would hide all later ones.
            self.file = None;
            return Err(fail("append to", &path)(error));
        }
        self.delta_bytes += bytes.len() as u64;
        if self.delta_bytes > FOLD_AT.max(self.snapshot_bytes)
            && let Some((state, _)) = read(&path)?
        {
            self.write_snapshot(&state)?;
        }
        Ok(())
    }
}

/// The state and how many bytes of the file are good; `None` if there is no file.
fn read(path: &Path) -> Result<Option<(v1::NodeState, u64)>, JournalError> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(fail("read", path))?,
    };
    let damaged = || JournalError::Damaged(path.to_owned());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let Some((SNAPSHOT, body, mut rest)) = split_record(rest) else { return Err(damaged()) };
    let mut fold = Fold::from(v1::NodeState::decode(body).map_err(|_| damaged())?);
    while let Some((DELTA, body, behind)) = split_record(rest) {
        let Ok(delta) = v1::NodeDelta::decode(body) else { break };
        fold.apply(delta);
        rest = behind;
    }
    Ok(Some((fold.into(), (bytes.len() - rest.len()) as u64)))
}

/// A state by key, to apply deltas to.
struct Fold {
    state: v1::NodeState,
    networks: BTreeMap<u32, v1::NodeNetwork>,
    ports: BTreeMap<String, v1::NodePort>,
    remotes: BTreeMap<(u32, String), v1::RemoteMac>,
    floods: BTreeMap<(u32, String), v1::FloodTarget>,
    vrfs: BTreeMap<String, v1::NodeVrf>,
    routes: BTreeMap<(String, String), v1::NodeRoute>,
    switch_ports: BTreeMap<String, v1::SwitchPort>,
    locals: BTreeMap<(u32, String), v1::LocalMac>,
}

impl From<v1::NodeState> for Fold {
    fn from(mut state: v1::NodeState) -> Self {
        let networks = std::mem::take(&mut state.networks);
        let ports = std::mem::take(&mut state.ports);
        let remotes = std::mem::take(&mut state.remotes);
        let floods = std::mem::take(&mut state.floods);
        let vrfs = std::mem::take(&mut state.vrfs);
        let routes = std::mem::take(&mut state.routes);
        let switch_ports = std::mem::take(&mut state.switch_ports);
        let locals = std::mem::take(&mut state.locals);
        Fold {
            state,
            vrfs: vrfs.into_iter().map(|v| (v.name.clone(), v)).collect(),
            routes: routes.into_iter().map(|r| ((r.vrf.clone(), r.prefix.clone()), r)).collect(),
            switch_ports: switch_ports.into_iter().map(|p| (p.interface.clone(), p)).collect(),
            locals: locals.into_iter().map(|l| ((l.vni, l.mac.clone()), l)).collect(),
            networks: networks.into_iter().map(|n| (n.vni, n)).collect(),
            ports: ports.into_iter().map(|p| (p.id.clone(), p)).collect(),
            remotes: remotes.into_iter().map(|r| ((r.vni, r.mac.clone()), r)).collect(),
            floods: floods.into_iter().map(|f| ((f.vni, f.vtep.clone()), f)).collect(),
        }
    }
}

impl From<Fold> for v1::NodeState {
    fn from(fold: Fold) -> Self {
        v1::NodeState {
            networks: fold.networks.into_values().collect(),
            ports: fold.ports.into_values().collect(),
            remotes: fold.remotes.into_values().collect(),
            floods: fold.floods.into_values().collect(),
            vrfs: fold.vrfs.into_values().collect(),
            routes: fold.routes.into_values().collect(),
            switch_ports: fold.switch_ports.into_values().collect(),
            locals: fold.locals.into_values().collect(),
            ..fold.state
        }
    }
}

impl Fold {
    fn apply(&mut self, delta: v1::NodeDelta) {
        self.state.revision = delta.revision;
        for vni in &delta.deleted_networks {
            self.networks.remove(vni);
        }
        for id in &delta.deleted_ports {
            self.ports.remove(id);
        }
        for remote in delta.deleted_remotes {
            self.remotes.remove(&(remote.vni, remote.mac));
        }
        for flood in delta.deleted_floods {
            self.floods.remove(&(flood.vni, flood.vtep));
        }
        for name in &delta.deleted_vrfs {
            self.vrfs.remove(name);
        }
        for route in delta.deleted_routes {
            self.routes.remove(&(route.vrf, route.prefix));
        }
        for interface in &delta.deleted_switch_ports {
            self.switch_ports.remove(interface);
        }
        for local in delta.deleted_locals {
            self.locals.remove(&(local.vni, local.mac));
        }
        self.vrfs.extend(delta.vrfs.into_iter().map(|v| (v.name.clone(), v)));
        self.routes.extend(delta.routes.into_iter().map(|r| ((r.vrf.clone(), r.prefix.clone()), r)));
        self.switch_ports.extend(delta.switch_ports.into_iter().map(|p| (p.interface.clone(), p)));
        self.locals.extend(delta.locals.into_iter().map(|l| ((l.vni, l.mac.clone()), l)));
        self.networks.extend(delta.networks.into_iter().map(|n| (n.vni, n)));
        self.ports.extend(delta.ports.into_iter().map(|p| (p.id.clone(), p)));
        self.remotes.extend(delta.remotes.into_iter().map(|r| ((r.vni, r.mac.clone()), r)));
        self.floods.extend(delta.floods.into_iter().map(|f| ((f.vni, f.vtep.clone()), f)));
    }
}

/// The installation's id: made once, kept in the state directory, so that a restarted agent takes its own place back.
pub fn instance_id(dir: &Path) -> Result<String, JournalError> {
    let path = dir.join("instance-id");
    match fs::read_to_string(&path) {
        Ok(id) if id.trim().len() == 32 => return Ok(id.trim().to_owned()),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("read", &path)(e)),
        _ => {}
    }
    let id = random_id();
    fs::create_dir_all(dir).map_err(fail("create", dir))?;
    let new = dir.join("instance-id.new");
    fs::write(&new, format!("{id}\n")).map_err(fail("write", &new))?;
    fs::rename(&new, &path).map_err(fail("replace", &path))?;
    Ok(id)
}

/// 128 random bits in hexadecimal.
pub fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(n: u8, vtep: &str) -> v1::RemoteMac {
        let mac = format!("02:00:00:00:00:{n:02x}");
        v1::RemoteMac { vni: 100, mac, vtep: vtep.into(), addresses: vec![] }
    }

    fn state() -> v1::NodeState {
        let remotes = vec![remote(1, "192.0.2.1"), remote(2, "192.0.2.1")];
        v1::NodeState { revision: 5, node: "h1".into(), remotes, ..Default::default() }
    }

    fn delta(revision: u64) -> v1::NodeDelta {
        let n = revision as u8;
        v1::NodeDelta {
            revision,
            remotes: vec![remote(n, "192.0.2.9")],
            deleted_remotes: vec![remote(n - 1, "")],
            ..Default::default()
        }
    }

    #[test]
    fn state_and_deltas_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, none) = Journal::open(dir.path()).unwrap();
        assert_eq!(none, None);
        journal.write_snapshot(&state()).unwrap();
        journal.write_delta(&delta(6)).unwrap();
        let (mut journal, read) = Journal::open(dir.path()).unwrap();
        let read = read.unwrap();
        assert_eq!(read.revision, 6);
        assert_eq!(read.remotes, [remote(1, "192.0.2.1"), remote(2, "192.0.2.1"), remote(6, "192.0.2.9")]);
        journal.write_delta(&delta(7)).unwrap();
        assert_eq!(Journal::load(dir.path()).unwrap().unwrap().revision, 7);
    }

    #[test]
    fn deltas_of_switching_and_routing_are_folded() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        let vrf = |name: &str| v1::NodeVrf { name: name.into(), table: 1001, ..Default::default() };
        let route = |p: &str| v1::NodeRoute { vrf: "red".into(), prefix: p.into(), ..Default::default() };
        let port = |i: &str| v1::SwitchPort { interface: i.into(), ..Default::default() };
        let local = |m: &str| v1::LocalMac { vni: 1, mac: m.into(), ..Default::default() };
        let before = v1::NodeState {
            vrfs: vec![vrf("red")],
            routes: vec![route("10.0.0.0/8")],
            switch_ports: vec![port("eth1")],
            locals: vec![local("a")],
            ..state()
        };
        journal.write_snapshot(&before).unwrap();
        let delta = v1::NodeDelta {
            revision: 6,
            vrfs: vec![vrf("blue")],
            routes: vec![route("10.9.0.0/16")],
            switch_ports: vec![port("eth2")],
            locals: vec![local("b")],
            deleted_vrfs: vec!["red".into()],
            deleted_routes: vec![route("10.0.0.0/8")],
            deleted_switch_ports: vec!["eth1".into()],
            deleted_locals: vec![local("a")],
            ..Default::default()
        };
        journal.write_delta(&delta).unwrap();
        let read = Journal::load(dir.path()).unwrap().unwrap();
        assert_eq!(read.vrfs, [vrf("blue")]);
        assert_eq!(read.routes, [route("10.9.0.0/16")]);
        assert_eq!(read.switch_ports, [port("eth2")]);
        assert_eq!(read.locals, [local("b")]);
    }

    #[test]
    fn every_cut_of_the_file_gives_an_earlier_state_or_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.write_snapshot(&state()).unwrap();
        let whole_snapshot = fs::metadata(dir.path().join("state")).unwrap().len() as usize;
        journal.write_delta(&delta(6)).unwrap();
        journal.write_delta(&delta(7)).unwrap();
        let path = dir.path().join("state");
        let bytes = fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            match Journal::open(dir.path()) {
                Ok((mut journal, Some(state))) => {
                    assert!(cut >= whole_snapshot && (5..7).contains(&state.revision), "{cut}");
                    // What is appended behind a cut is found again.
                    journal.write_delta(&delta(8)).unwrap();
                    assert_eq!(Journal::load(dir.path()).unwrap().unwrap().revision, 8);
                }
                Err(JournalError::Damaged(_)) => assert!(cut < whole_snapshot, "{cut}"),
                other => panic!("{other:?}"),
            }
        }
        let mut flipped = bytes;
        flipped[MAGIC.len() + 20] ^= 1;
        fs::write(&path, flipped).unwrap();
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Damaged(_))));
    }

    #[test]
    fn many_deltas_are_folded() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.write_snapshot(&state()).unwrap();
        let mut big = delta(6);
        big.ports = vec![v1::NodePort { id: "x".repeat(300_000), ..Default::default() }];
        for _ in 0..5 {
            journal.write_delta(&big).unwrap();
        }
        assert!(fs::metadata(dir.path().join("state")).unwrap().len() < 1_000_000);
        assert_eq!(Journal::load(dir.path()).unwrap().unwrap().ports.len(), 1);
    }

    #[test]
    fn instance_id_stays() {
        let dir = tempfile::tempdir().unwrap();
        let id = instance_id(dir.path()).unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(instance_id(dir.path()).unwrap(), id);
    }
}
