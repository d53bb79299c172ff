//! From a file to a [`Lab`].

use std::collections::BTreeMap;
use std::path::Path;

use crate::diagnostic::Diagnostic;
use crate::lab::Lab;

/// What reading a file depends on, beside the file.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Environment variables to expand. [`LoadOptions::from_process`] takes those of this process.
    pub env: BTreeMap<String, String>,
    /// Home folder, for `~/` in paths. `None`: `~` is refused.
    pub home: Option<std::path::PathBuf>,
    /// Git branch and hash of the file's repository, for `__gitBranch__` and `__gitHash__` in the lab's name.
    pub git: Option<(String, String)>,
    /// True: files named by the lab (binds, startup-config, env-files) are looked at. False: the text alone counts,
    /// and env-files are not read.
    pub check_files: bool,
}

/// A lab and what was noticed while it was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The lab.
    pub lab: Lab,
    /// Warnings and notes, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

/// Reads a topology file. See [`parse`].
///
/// # Errors
/// All that is wrong with it, at least one diagnostic of severity error.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, Vec<Diagnostic>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse(&text, path, options)
}

/// Expands variables, parses and validates a topology file's text. `file` names it in diagnostics; relative paths are
/// relative to its folder.
///
/// # Errors
/// All that is wrong with it, at least one diagnostic of severity error.
pub fn parse(_text: &str, _file: &Path, _options: &LoadOptions) -> Result<Loaded, Vec<Diagnostic>> {
    Err(Vec::new())
}
