//! A directory that is removed with us, even if we are killed.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

/// Names the directory under which everything of a sandbox lies; whoever made the sandbox removes it.
pub(super) const PARENT: &str = "LINKERD_GATE_TESTS_SCRATCH";

/// Waits for the end of its standard input, then removes the directory `$1` and every cgroup `$2` with those below it.
///
/// What still writes there, or is a process in there, is being killed at the same moment, hence several tries.
const JANITOR: &str = r#"
cat >/dev/null
tries=50
while [ "$tries" -gt 0 ]; do
    left=
    for cgroup in "/sys/fs/cgroup/$2" /sys/fs/cgroup/*/"$2"; do
        [ -d "$cgroup" ] || continue
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
        [ -d "$cgroup" ] && left="$cgroup"
    done
    rm -rf -- "$1" 2>/dev/null && [ -z "$left" ] && exit
    tries=$((tries - 1))
    sleep 0.2
done
"#;

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
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .arg(path.file_name().unwrap_or_default())
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

    /// The name of the cgroup under which all others of this cluster are, relative to each hierarchy's root.
    pub(super) fn cgroup(&self) -> PathBuf {
        // Within a sandbox, that of the directory that its maker removes, so that nobody has to survive for it.
        let outermost = std::env::var_os(PARENT).map(PathBuf::from);
        let outermost = outermost.as_deref().unwrap_or(&self.path);
        outermost.file_name().map(PathBuf::from).unwrap_or_default()
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
        // It ends by itself within ten seconds; its status tells nothing that a drop could act on.
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
