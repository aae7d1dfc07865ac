//! Where built things are kept, and how two processes avoid building the same one twice.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};

use super::directory;

/// Where the kit keeps what it built: `LINKERD_GATE_TESTS_CACHE`, else `linkerd-gate` in the user's cache directory.
pub fn cache_root() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("LINKERD_GATE_TESTS_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("linkerd-gate")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/linkerd-gate")))
        .ok_or_else(|| anyhow!("nowhere to keep the built parts: set LINKERD_GATE_TESTS_CACHE to a directory"))
}

/// The cached directory `name`; where it is missing, what `build` puts into an empty one.
///
/// The directory appears all at once, by a rename, so what is there is complete. A lock beside it makes a second process
/// wait for the first one's result.
pub(super) fn directory_or_build(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    directory_or_build_in(&cache_root()?.join("parts"), name, build)
}

fn directory_or_build_in(root: &Path, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let finished = root.join(name);
    if finished.is_dir() {
        return Ok(finished);
    }
    directory(root)?;
    let lock_path = root.join(format!(".{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("cannot make {}", lock_path.display()))?;
    if lock.try_lock().is_err() {
        eprintln!("parts: another process is building {name}, waiting for it");
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
    }
    // Somebody else may have finished while we waited.
    if finished.is_dir() {
        return Ok(finished);
    }
    remove_unfinished(root, name);
    let unfinished = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .tempdir_in(root)
        .with_context(|| format!("cannot make a directory in {}", root.display()))?;
    build(unfinished.path())?;
    std::fs::rename(unfinished.keep(), &finished)
        .with_context(|| format!("cannot rename to {}", finished.display()))?;
    Ok(finished)
}

/// Removes what builds of `name` left that were killed half way. The lock is ours: no other is under way.
fn remove_unfinished(root: &Path, name: &str) {
    let prefix = format!(".{name}.");
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) && entry.path().is_dir() {
            // In the way of nobody if it cannot be removed.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::bail;

    use super::*;

    #[test]
    fn what_is_there_is_not_built_again() -> Result<()> {
        let root = tempfile::tempdir()?;
        let first = directory_or_build_in(root.path(), "thing", |dir| Ok(std::fs::write(dir.join("part"), "built")?))?;
        let second = directory_or_build_in(root.path(), "thing", |_| bail!("built twice"))?;
        assert_eq!(first, second);
        assert_eq!(std::fs::read_to_string(second.join("part"))?, "built");
        Ok(())
    }

    #[test]
    fn a_failed_build_leaves_nothing_that_looks_finished() -> Result<()> {
        let root = tempfile::tempdir()?;
        let failed = directory_or_build_in(root.path(), "thing", |dir| {
            std::fs::write(dir.join("part"), "half")?;
            bail!("no more network")
        });
        assert!(failed.is_err());
        assert!(!root.path().join("thing").exists());
        let leftovers: Vec<_> =
            std::fs::read_dir(root.path())?.flatten().filter(|entry| entry.path().is_dir()).collect();
        assert!(leftovers.is_empty(), "left behind: {leftovers:?}");
        Ok(())
    }

    #[test]
    fn what_a_killed_build_left_goes_with_the_next_one() -> Result<()> {
        let root = tempfile::tempdir()?;
        let left = root.path().join(".thing.AbCdEf");
        std::fs::create_dir(&left)?;
        directory_or_build_in(root.path(), "thing", |_| Ok(()))?;
        assert!(!left.exists());
        Ok(())
    }

    #[test]
    fn of_many_that_want_it_at_once_one_builds_it() -> Result<()> {
        let root = tempfile::tempdir()?;
        let builds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    directory_or_build_in(root.path(), "thing", |_| {
                        builds.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    })
                });
            }
        });
        assert_eq!(builds.load(Ordering::SeqCst), 1);
        Ok(())
    }
}
