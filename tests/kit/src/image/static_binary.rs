//! Static programs out of this workspace.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

/// Which features of a package a program is built with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Features {
    /// The package's default ones.
    Default,
    /// None of them.
    None,
}

/// Builds the programs `binaries` of the workspace's `package` as static ones and returns their paths.
///
/// They are built for this machine's own target, with the C library linked in: a musl target need not be installed. Target
/// directory and flags are its own, so that neither build spoils the other's cache. `profile` is Cargo's name for it:
/// `release`, `dev`.
pub fn static_binaries<const N: usize>(package: &str, binaries: [&str; N], profile: &str) -> Result<[PathBuf; N]> {
    build(package, binaries, profile, Features::Default)
}

/// A static program of this kit itself, for instance `pause`: without debugging information, since images hold it.
pub fn kit_binary(binary: &str) -> Result<PathBuf> {
    let [path] = build("linkerd-gate-kit", [binary], "dev", Features::None)?;
    Ok(path)
}

/// Runs the workspace's `make image`, which writes the image that users get into `archive`; its programs are built with `profile`.
pub fn make_image(archive: &Path, profile: &str) -> Result<()> {
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "image"]).env("IMAGE_FILE", archive).env("PROFILE", profile);
    without_package(make.current_dir(workspace()));
    let status = make.status().context("cannot start make")?;
    if !status.success() {
        bail!("make image ended with {status}");
    }
    Ok(())
}

fn build<const N: usize>(
    package: &str,
    binaries: [&str; N],
    profile: &str,
    features: Features,
) -> Result<[PathBuf; N]> {
    let triple = host_triple()?;
    let target = target_directory().join("static");
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--locked", "--package", package, "--profile", profile, "--target", &triple])
        .arg("--target-dir")
        .arg(&target)
        .args(binaries.iter().flat_map(|binary| ["--bin", binary]))
        .env("RUSTFLAGS", flags())
        // It would win over RUSTFLAGS.
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    if features == Features::None {
        command.arg("--no-default-features");
    }
    if profile == "dev" {
        command.env("CARGO_PROFILE_DEV_DEBUG", "none").env("CARGO_PROFILE_DEV_STRIP", "symbols");
    }
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cannot build {} of {package}:\n{}", binaries.join(", "), String::from_utf8_lossy(&output.stderr));
    }
    // The one profile whose directory is not called like itself.
    let directory = target.join(triple).join(if profile == "dev" { "debug" } else { profile });
    Ok(binaries.map(|binary| directory.join(binary)))
}

/// The flags of the outer build, and the static C library.
fn flags() -> OsString {
    let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(" -Ctarget-feature=+crt-static");
    flags
}

/// The workspace's target directory.
fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// `tests/kit`, twice up.
fn workspace() -> &'static Path {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    kit.ancestors().nth(2).unwrap_or(kit)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).stdin(Stdio::null());
    without_package(&mut command);
    command
}

/// Takes from `command` what Cargo tells a test about its package: its name, version and directory.
///
/// ring's build script reads such variables and tells Cargo so (0.17, `build.rs`). A build that a test starts would compile ring, and the dozen
/// crates that depend on it, once for each package and each clone.
fn without_package(command: &mut Command) {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| is_of_a_package(name)) {
        command.env_remove(name);
    }
}

/// Whether Cargo sets this variable to what differs between packages, clones and targets.
fn is_of_a_package(variable: &str) -> bool {
    const BEGINNINGS: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CFG_"];
    const NAMES: [&str; 4] = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
    BEGINNINGS.iter().any(|beginning| variable.starts_with(beginning)) || NAMES.contains(&variable)
}

/// The target of this machine's compiler, for instance `x86_64-unknown-linux-gnu`.
fn host_triple() -> Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .current_dir(workspace())
        .output()
        .context("cannot start rustc")?;
    let words = String::from_utf8_lossy(&output.stdout);
    let triple = words.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).ok_or_else(|| anyhow!("rustc -vV does not name its host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_a_test_starts_does_not_know_the_tests_package() {
        let command = cargo();
        let removed: Vec<_> = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR"] {
            assert!(removed.contains(&name.as_ref()), "{name} is left: {removed:?}");
        }
        for name in ["CARGO", "CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_INCREMENTAL", "RUSTFLAGS", "PATH"] {
            assert!(!is_of_a_package(name), "{name} is how, not what, to build");
        }
    }
}
