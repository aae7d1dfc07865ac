//! Tells the linker how to lay a release build out; generates nothing.

use std::env;
use std::path::PathBuf;

fn main() {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "link", "seldom.ld"].iter().collect();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", script.display());

    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|is| is == value);
    // A debug build is linked often and never held; other systems' linkers read no such scripts.
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    let pass = |argument: &str| println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    pass(&format!("-T,{}", script.display()));
    // The script drops the tables that this one is an index of.
    pass("--no-eh-frame-hdr");
    if is("CARGO_CFG_TARGET_ENV", "gnu") {
        // Half a megabyte of relocations becomes 5 KiB: https://maskray.me/blog/2021-10-31-relative-relocations-and-relr.
        pass("-z,pack-relative-relocs");
    }
}
