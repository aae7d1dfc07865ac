//! What `-f` names: a file, a folder, the standard input.

use super::MAX_FILE;
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The endings of names that a folder's files are taken by, as kubectl takes them.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// The files that a name stands for: itself, or those of a folder, in the order of their names.
///
/// # Errors
/// A folder that cannot be listed, and a URL, which is not fetched.
pub(in super::super) fn files(name: &str, recursive: bool) -> Result<Vec<String>, String> {
    if name.starts_with("http://") || name.starts_with("https://") {
        return Err(format!("a URL is not fetched: curl -fsSL {name} | linkerd-gate explain -f -"));
    }
    if name == "-" || !Path::new(name).is_dir() {
        return Ok(vec![name.to_owned()]);
    }
    let mut found = Vec::new();
    list(Path::new(name), recursive, &mut found).map_err(|error| format!("it cannot be listed: {error}"))?;
    if found.is_empty() {
        let hint = if recursive { "" } else { "; -R looks into the folders below as well" };
        return Err(format!("the folder holds no .json, .yaml or .yml file{hint}"));
    }
    Ok(found.into_iter().map(|path| path.to_string_lossy().into_owned()).collect())
}

fn list(folder: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    for path in entries {
        // A link to a folder may lead back to where it stands.
        if path.is_dir() {
            if recursive && !path.is_symlink() {
                list(&path, recursive, found)?;
            }
        } else if path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known)) {
            found.push(path);
        }
    }
    Ok(())
}

/// Opens a file.
///
/// # Errors
/// What cannot be opened, and what is too large to be read.
pub(in super::super) fn open(path: &str) -> Result<File, String> {
    let file = File::open(path).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::NotFound && path.contains('/') && kind_and_name(path) {
            format!(": what is in the cluster goes without -f: linkerd-gate explain {path} -n NAMESPACE")
        } else {
            String::new()
        };
        format!("it cannot be read: {error}{hint}")
    })?;
    let metadata = file.metadata().map_err(|error| format!("it cannot be read: {error}"))?;
    if metadata.is_file() && metadata.len() > MAX_FILE {
        return Err(super::text::Trouble::FileTooLong.to_string());
    }
    Ok(file)
}

/// Whether this is how kubectl names an object.
pub(in super::super) fn kind_and_name(text: &str) -> bool {
    const KINDS: [&str; 14] = [
        "pod",
        "pods",
        "po",
        "deployment",
        "deployments",
        "deploy",
        "statefulset",
        "sts",
        "daemonset",
        "ds",
        "job",
        "jobs",
        "cronjob",
        "replicaset",
    ];
    text.split_once('/')
        .is_some_and(|(kind, name)| KINDS.contains(&kind.split('.').next().unwrap_or_default()) && !name.is_empty())
}
