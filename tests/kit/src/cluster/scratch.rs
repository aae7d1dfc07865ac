//! A directory that is removed with us, even if we are killed.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

/// Names the directory under which everything of a sandbox lies; whoever made the sandbox removes it.
pub(super) const PARENT: &str = "LINKERD_GATE_TESTS_SCRATCH";

/// A directory for one cluster's data, logs and sockets.
///
/// Its path is short, since a Unix socket's may have 107 bytes.
pub(super) struct Scratch {
    path: PathBuf,
    /// A shell that waits for the end of its standard input, which is this process's death if nothing comes before.
    janitor: Child,
}

// === impl Scratch ===

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        let parent = std::env::var_os(PARENT).map_or_else(std::env::temp_dir, PathBuf::from);
        let path = tempfile::Builder::new()
            .prefix("lg-")
            .tempdir_in(&parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?
            .keep();
        // What still writes there is being killed at the same moment, hence several tries.
        let script = r#"cat >/dev/null; for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" 2>/dev/null && exit; sleep 0.2; done"#;
        let janitor = Command::new("sh")
            .args(["-c", script, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Out of reach of a terminal's Ctrl-C, which is meant for the test.
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        Ok(Self { path, janitor })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory of that name within, made if it is not there.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // It ends by itself within two seconds; its status tells nothing that a drop could act on.
        let _ = self.janitor.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_the_value() -> Result<()> {
        let scratch = Scratch::new()?;
        let path = scratch.path().to_path_buf();
        std::fs::write(scratch.directory("data")?.join("file"), "x")?;
        drop(scratch);
        assert!(!path.exists());
        Ok(())
    }
}
