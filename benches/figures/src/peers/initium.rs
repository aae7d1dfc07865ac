//! `initium wait-for`, a Rust program for init containers, from crates.io.

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use linkerd_gate_kit::parts::cache_root;
use linkerd_gate_kit::standin::Fault;
use tokio::process::Command;
use tokio::time::Instant;

use crate::linkerd::Linkerd;

const VERSION: &str = "2.1.0";

/// The program, and the stand-ins that it asks.
pub struct Initium {
    binary: PathBuf,
    linkerd: Linkerd,
}

// === impl Initium ===

impl Initium {
    /// Builds it once: statically, as its image has it, but with the smallest of its databases alone: they make it larger, and
    /// without any it does not compile.
    pub async fn find() -> Result<Self> {
        let root = cache_root()?.join(format!("tools/initium-{VERSION}"));
        let binary = root.join("bin/initium");
        if !binary.is_file() {
            crate::said("building initium, once (about 2 minutes)");
            let target = tempfile::tempdir()?;
            let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            install
                .args(["install", "initium", "--version", &format!("={VERSION}"), "--locked", "--quiet"])
                .args([
                    "--no-default-features",
                    "--features",
                    "postgres",
                    "--target",
                    &format!("{ARCH}-unknown-linux-gnu"),
                    "--root",
                ])
                .arg(&root)
                .arg("--target-dir")
                .arg(target.path())
                .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
                .env_remove("CARGO_ENCODED_RUSTFLAGS")
                .stdin(Stdio::null())
                .kill_on_drop(true);
            let output = install.output().await?;
            let words = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "cargo install: {}", words.lines().last().unwrap_or("failed"));
        }
        Ok(Self { binary, linkerd: Linkerd::start().await.context("no stand-ins for initium")? })
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// It looks every 500 ms, as often as linkerd-gate does at its rarest; its own default grows to 30 s. A TCP connection is
    /// all that it can ask of a gRPC port.
    pub fn wait(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .args(["wait-for", "--insecure-tls", "--timeout", "10m", "--max-attempts", "10000"])
            .args(["--initial-delay", "500ms", "--max-delay", "500ms"])
            .args(["--target", &format!("https://{}/", self.linkerd.injector.address())])
            .args(["--target", &format!("tcp://{}", self.linkerd.identity.address())]);
        command
    }

    pub async fn fall(&self) -> Result<()> {
        self.linkerd.suffer(Fault::Absent).await
    }

    pub async fn rise(&self) -> Result<Instant> {
        self.linkerd.recover().await
    }
}
