//! Which file, which lab: what `-t` and `--name` mean.

use std::path::{Path, PathBuf};

use causeway_topology::LoadOptions;

use crate::containerlab;
use crate::error::{Act, LabError};
use crate::state::LabState;

/// The topology file itself, or the only `*.clab.yml` or `*.clab.yaml` of a folder; absolute.
///
/// # Errors
/// It is not there, or the folder has none or several.
pub fn topology_file(path: &Path) -> Result<PathBuf, LabError> {
    let path = path.canonicalize().act(|| format!("find {}", path.display()))?;
    if !path.is_dir() {
        return Ok(path);
    }
    let entries = std::fs::read_dir(&path).act(|| format!("read {}", path.display()))?;
    let is_topology = |file: &PathBuf| {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.ends_with(".clab.yml") || name.ends_with(".clab.yaml")
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_topology).collect();
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (None, _) => Err(LabError::WhichFile { folder: path, count: 0 }),
        (Some(_), others) => Err(LabError::WhichFile { folder: path, count: others + 1 }),
    }
}

/// Name of the lab that is meant: the one given, else that of a lab made from this file, else the name in the file.
///
/// # Errors
/// The file is not there; or it is up under several names; or it is not up and cannot be read.
pub fn lab_name(file: &Path, name: Option<&str>) -> Result<String, LabError> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    let file = topology_file(file)?;
    let labs = known_labs()?;
    let same: Vec<_> = labs.iter().filter(|lab| lab.file == file).map(|lab| lab.name.as_str()).collect();
    match same.as_slice() {
        // A lab that runs is found even if its file no longer parses, or its variables are not set now.
        [name] => Ok((*name).to_owned()),
        names => {
            let loaded = causeway_topology::load(
                &file,
                &LoadOptions { check_files: false, ..LoadOptions::from_process() },
            );
            let name = loaded.map_err(LabError::Topology)?.lab.name;
            if names.is_empty() || names.contains(&name.as_str()) {
                return Ok(name);
            }
            let what = format!("it is up as {}: name one with --name", names.join(", "));
            Err(LabError::Unsupported { subject: file.display().to_string(), what })
        }
    }
}

/// The folder `clab-LAB` of a lab that need not be up: beside the file, or in `$CLAB_LABDIR_BASE`.
///
/// # Errors
/// The file is not there.
pub(crate) fn lab_dir(file: &Path, name: &str) -> Result<PathBuf, LabError> {
    let base = match std::env::var_os("CLAB_LABDIR_BASE") {
        Some(base) => PathBuf::from(base),
        None => topology_file(file)?.parent().map(Path::to_owned).unwrap_or_default(),
    };
    Ok(base.join(format!("clab-{name}")))
}

/// The lab that is meant, as it runs.
///
/// # Errors
/// Those of [`lab_name`]; it is not up.
pub fn running_lab(file: &Path, name: Option<&str>) -> Result<LabState, LabError> {
    let name = lab_name(file, name)?;
    known_lab(&name)?.ok_or(LabError::NotUp { name })
}

/// All labs on this machine, ours and containerlab's, in the order of their names.
///
/// # Errors
/// A state cannot be read.
pub fn known_labs() -> Result<Vec<LabState>, LabError> {
    let mut labs = LabState::all()?;
    labs.extend(containerlab::labs()?);
    labs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(labs)
}

/// The lab of that name, ours before containerlab's.
pub(crate) fn known_lab(name: &str) -> Result<Option<LabState>, LabError> {
    match LabState::read(name)? {
        Some(lab) => Ok(Some(lab)),
        None => Ok(containerlab::labs()?.into_iter().find(|lab| lab.name == name)),
    }
}
