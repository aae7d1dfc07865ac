//! What `-f` names: a file, a folder, the standard input.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{MAX_FILE, fifo, words};
use crate::command::explain::Kind;

/// The endings of names that a folder's files are taken by, as kubectl takes them.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// How long a program that writes to a named pipe may take to open it: a shell does so before the program starts.
const WRITER_COMES_WITHIN: Duration = Duration::from_secs(10);

/// The files that a name stands for: itself, or those of a folder, in the order of their names.
///
/// # Errors
/// A folder that cannot be listed, and a URL, which is not fetched.
pub(in super::super) fn files(name: &str, recursive: bool) -> Result<Vec<String>, String> {
    if is_url(name) {
        return Err(url(name));
    }
    if name == "-" || !Path::new(name).is_dir() {
        return Ok(vec![name.to_owned()]);
    }
    let mut found = Vec::new();
    list(Path::new(name), recursive, &mut found).map_err(|error| format!("it cannot be listed: {}", words(&error)))?;
    if found.is_empty() {
        return Err(if recursive {
            "neither the folder nor those below it hold a .json, .yaml or .yml file; one of another ending is read by its \
             name: linkerd-gate explain -f FILE"
                .to_owned()
        } else {
            format!(
                "the folder holds no .json, .yaml or .yml file; those below it as well: linkerd-gate explain -R -f {name}"
            )
        });
    }
    Ok(found.into_iter().map(|path| path.to_string_lossy().into_owned()).collect())
}

/// Whether it is a URL.
pub(crate) fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// What is said of a URL.
pub(crate) fn url(url: &str) -> String {
    format!("a URL is not fetched: curl -fsSL {url} | linkerd-gate explain -f -")
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

/// Opens a file. One that another program writes is waited for no longer than [`WRITER_COMES_WITHIN`].
///
/// # Errors
/// What cannot be opened, and what is too large to be read.
pub(in super::super) fn open(path: &str) -> Result<Box<dyn Read>, String> {
    let unreadable = |error: &io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound if path.contains('/') && kind_and_name(path) => {
                format!("; what is in the cluster goes without -f: linkerd-gate explain {path} -n NAMESPACE")
            }
            io::ErrorKind::NotFound => {
                "; all manifests in and below this folder: linkerd-gate explain -R -f .".to_owned()
            }
            io::ErrorKind::PermissionDenied => {
                format!("; as another user: sudo cat {path} | linkerd-gate explain -f -")
            }
            _ => String::new(),
        };
        format!("it cannot be read: {}{hint}", words(error))
    };
    let metadata = fs::metadata(path).map_err(|error| unreadable(&error))?;
    if metadata.file_type().is_fifo() {
        let pipe = fifo::open(path, WRITER_COMES_WITHIN).map_err(|error| unreadable(&error))?;
        return pipe.ok_or_else(|| {
            format!(
                "it is a named pipe, and no program opened it for writing within {}: start that program first, or pipe: \
                 PROGRAM | linkerd-gate explain -f -",
                humantime::format_duration(WRITER_COMES_WITHIN)
            )
        });
    }
    if metadata.is_file() && metadata.len() > MAX_FILE {
        return Err(super::text::Trouble::FileTooLong.to_string());
    }
    Ok(Box::new(File::open(path).map_err(|error| unreadable(&error))?))
}

/// Whether this is how kubectl names an object.
fn kind_and_name(text: &str) -> bool {
    text.split_once('/').is_some_and(|(kind, name)| Kind::named(kind).is_some() && !name.is_empty())
}
