//! A tar archive of which everything is said here: names, modes, content, and nothing of the machine or the moment.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use anyhow::{Result, bail};

/// Files by their path, without a leading slash.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    files: BTreeMap<PathBuf, (u32, Vec<u8>)>,
}

// === impl Layer ===

impl Layer {
    pub(super) fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) -> Result<()> {
        let relative: PathBuf = Path::new(path).components().filter(|part| *part != Component::RootDir).collect();
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || relative.as_os_str().is_empty() {
            bail!("not the path of a file in an image: {path:?}");
        }
        self.files.insert(relative, (mode, content));
        Ok(())
    }

    /// The archive: directories before what is in them, everything root's, at the beginning of time.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut directories: Vec<&Path> = self.files.keys().flat_map(|path| path.ancestors().skip(1)).collect();
        directories.sort_unstable();
        directories.dedup();
        for directory in directories.into_iter().filter(|path| !path.as_os_str().is_empty()) {
            let mut header = header(tar::EntryType::Directory, 0o755, 0);
            builder.append_data(&mut header, format!("{}/", directory.display()), std::io::empty())?;
        }
        for (path, (mode, content)) in &self.files {
            let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
            builder.append_data(&mut header, path, content.as_slice())?;
        }
        Ok(builder.into_inner()?)
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for path in ["", "/", "..", "/../etc/passwd", "a/../b"] {
            assert!(Layer::default().add(path, 0o644, Vec::new()).is_err(), "{path:?} was taken");
        }
    }
}
