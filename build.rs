//! Tells the linker how to lay a release build out; generates nothing.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=link");

    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|is| is == value);
    // A debug build is linked often and never held; other systems' linkers read no such scripts.
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    let pass = |argument: &str| println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    pass(&format!("-T,{}", copy("seldom.ld").display()));
    println!("cargo::rustc-link-arg-bin=gate-wait=-Wl,-T,{}", copy("held.ld").display());
    // The script drops the tables that this one is an index of.
    pass("--no-eh-frame-hdr");
    if is("CARGO_CFG_TARGET_ENV", "gnu") {
        // Half a megabyte of relocations becomes 5 KiB: https://maskray.me/blog/2021-10-31-relative-relocations-and-relr.
        pass("-z,pack-relative-relocs");
    }
}

/// A copy of a linker script, because what is printed here is kept with what is built: two checkouts that share a target directory are
/// one package to Cargo, and the first of them may be gone.
fn copy(script: &str) -> PathBuf {
    let from = Path::new("link").join(script);
    let to = Path::new(&env::var("OUT_DIR").expect("Cargo names a directory")).join(script);
    fs::copy(&from, &to).unwrap_or_else(|error| panic!("cannot copy {} to {}: {error}", from.display(), to.display()));
    to
}
