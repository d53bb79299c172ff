//! What the controller said of this node's ports, kept in memory and on disk: it holds while no controller is there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_proto::{PortKey, v1};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Level;

/// In the state directory.
const FILE: &str = "levels.json";

/// The controller's word on ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    /// A controller is connected.
    pub connected: bool,
    /// By port.
    pub levels: BTreeMap<PortKey, Known>,
}

/// The controller's word on one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Of this binding.
    pub generation: u64,
    /// 0: nothing, 1: programmed, 2: advertised, 3: proven.
    level: u8,
    /// What the fabric leg waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fabric: String,
    /// What the probe waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub probe: String,
}

impl Known {
    /// True if it has reached the level.
    pub fn reaches(&self, level: Level) -> bool {
        self.level
            >= match level {
                Level::Programmed => 1,
                Level::Advertised => 2,
                Level::Proven => 3,
            }
    }
}

/// Writes the book, and keeps it on disk.
#[derive(Debug)]
pub struct Keeper {
    book: watch::Sender<Arc<Book>>,
    /// `None`: it is not kept.
    path: Option<PathBuf>,
    unsaved: bool,
}

impl Keeper {
    /// One with what is on disk in this directory.
    pub fn open(directory: Option<&Path>) -> Keeper {
        let path = directory.map(|directory| directory.join(FILE));
        let levels = path.as_ref().and_then(|path| match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice::<BTreeMap<String, Known>>(&bytes).ok(),
            Err(_) => None,
        });
        let levels = levels.unwrap_or_default().into_iter();
        let levels = levels.filter_map(|(port, known)| Some((port.parse().ok()?, known))).collect();
        let book = watch::Sender::new(Arc::new(Book { connected: false, levels }));
        Keeper { book, path, unsaved: false }
    }

    /// The book, as it is and will be.
    pub fn book(&self) -> watch::Receiver<Arc<Book>> {
        self.book.subscribe()
    }

    /// A controller came or went.
    pub fn set_connected(&mut self, connected: bool) {
        self.change(|book| book.connected = connected);
    }

    /// The controller's word.
    pub fn take(&mut self, levels: &v1::PortLevels) {
        self.change(|book| {
            if levels.all {
                book.levels.clear();
            }
            for told in &levels.ports {
                let Ok(port) = told.port.parse::<PortKey>() else { continue };
                let level = match told.level() {
                    v1::ReadyLevel::Unspecified => 0,
                    v1::ReadyLevel::Programmed => 1,
                    v1::ReadyLevel::Advertised => 2,
                    v1::ReadyLevel::Proven => 3,
                };
                let (fabric, probe) = (told.fabric.clone(), told.probe.clone());
                book.levels.insert(port, Known { generation: told.generation, level, fabric, probe });
            }
        });
        self.unsaved = true;
    }

    fn change(&self, change: impl FnOnce(&mut Book)) {
        self.book.send_if_modified(|old| {
            let mut new = Book::clone(old);
            change(&mut new);
            let changed = new != **old;
            if changed {
                *old = Arc::new(new);
            }
            changed
        });
    }

    /// True if the disk does not have what the book has.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved && self.path.is_some()
    }

    /// Writes it to disk: small, and complete or not at all.
    pub fn save(&mut self) -> io::Result<()> {
        self.unsaved = false;
        let Some(path) = &self.path else { return Ok(()) };
        let book = Arc::clone(&self.book.borrow());
        let levels: BTreeMap<String, &Known> = book.levels.iter().map(|(p, k)| (p.to_string(), k)).collect();
        let draft = path.with_extension("new");
        std::fs::write(&draft, serde_json::to_vec(&levels)?)?;
        std::fs::rename(&draft, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_survives_the_agent() {
        let directory = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(Some(directory.path()));
        let port = |name: &str, level: v1::ReadyLevel| v1::PortLevel {
            port: format!("default/web/{name}"),
            generation: 2,
            level: level.into(),
            ..Default::default()
        };
        let ports = vec![port("a", v1::ReadyLevel::Proven), port("b", v1::ReadyLevel::Programmed)];
        keeper.take(&v1::PortLevels { all: true, ports });
        assert!(keeper.is_unsaved());
        keeper.save().unwrap();
        let mut again = Keeper::open(Some(directory.path()));
        let book = again.book().borrow().clone();
        assert!(!book.connected);
        let a = &book.levels[&"default/web/a".parse().unwrap()];
        assert!(a.generation == 2 && a.reaches(Level::Proven));
        let b = &book.levels[&"default/web/b".parse().unwrap()];
        assert!(b.reaches(Level::Programmed) && !b.reaches(Level::Advertised));
        again.take(&v1::PortLevels { all: true, ports: Vec::new() });
        assert!(again.book().borrow().levels.is_empty());
        std::fs::write(directory.path().join(FILE), "{not json").unwrap();
        assert!(Keeper::open(Some(directory.path())).book().borrow().levels.is_empty());
    }
}
