//! What comes from Debian's packages: the program that starts containers, CNI plugins, nftables.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::on_path;

/// Debian's packages and, for each, a file whose presence says that it need not be installed.
const PACKAGES: &[(&str, &[&str])] = &[
    ("runc", &["runc"]),
    // Debian's place, then where the plugins' own releases and most other distributions put them.
    ("containernetworking-plugins", &["/usr/lib/cni/bridge", "/opt/cni/bin/bridge", "/usr/libexec/cni/bridge"]),
    // kube-proxy calls `nft`.
    ("nftables", &["nft"]),
    ("iproute2", &["ip"]),
    ("util-linux", &["unshare"]),
];

/// What is there of Debian's, all of it.
pub(super) struct Installed {
    pub(super) runc: PathBuf,
    pub(super) cni_plugins: PathBuf,
}

// === impl Installed ===

impl Installed {
    /// Finds the packages' programs; as root, installs what is missing.
    pub(super) fn find() -> Result<Self> {
        if let Some(installed) = Self::locate() {
            return Ok(installed);
        }
        let packages = missing();
        let missing = packages.join(" ");
        let instruction = format!("install them: apt-get install {missing}");
        if !nix::unistd::geteuid().is_root() {
            bail!("missing for node-size tests: {missing}; not root, so {instruction}");
        }
        if on_path("apt-get").is_none() {
            bail!(
                "missing for node-size tests: {missing}; there is no apt-get here, install your system's packages of the same content"
            );
        }
        eprintln!("parts: installing {missing} with apt-get");
        // Lists may be absent (container images are shipped without) or old; a failing update is the install's to report.
        let _ = apt_get(&["update"]);
        let installed = apt_get(&[&["install", "--yes", "--no-install-recommends"], packages.as_slice()].concat());
        match (installed, Self::locate()) {
            (Ok(()), Some(installed)) => Ok(installed),
            (Ok(()), None) => bail!("apt-get installed {missing}, and still they are not found"),
            (Err(error), _) => bail!("missing for node-size tests: {missing}; {instruction} ({error:#})"),
        }
    }

    fn locate() -> Option<Self> {
        if !missing().is_empty() {
            return None;
        }
        let (_, plugins) = PACKAGES.iter().find(|(package, _)| *package == "containernetworking-plugins")?;
        Some(Self {
            runc: on_path("runc")?,
            cni_plugins: plugins.iter().find_map(|place| locate(place))?.parent()?.to_path_buf(),
        })
    }
}

fn missing() -> Vec<&'static str> {
    let absent = |places: &[&str]| places.iter().all(|place| locate(place).is_none());
    PACKAGES.iter().filter(|(_, places)| absent(places)).map(|(package, _)| *package).collect()
}

/// An absolute path stands for itself, anything else is looked up on the `PATH`.
fn locate(place: &str) -> Option<PathBuf> {
    match Path::new(place) {
        path if path.is_absolute() => path.is_file().then(|| path.to_path_buf()),
        _ => on_path(place),
    }
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {}: {}", arguments.join(" "), words.lines().last().unwrap_or("failed without a word"));
    }
    Ok(())
}
