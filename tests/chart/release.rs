//! What a release is made of: `.github/release/files.sh` over a copy of the repository whose changelog has the section of this
//! version, and the workflows, by actionlint.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use linkerd_gate_kit::parts::{find_actionlint, find_helm};
use serde_json::Value;
use tempfile::TempDir;

use crate::helm::{chart, root};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const IMAGE: &str = "ghcr.io/example/linkerd-gate";

/// What the script reads, with this changelog.
fn checkout(changelog: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for directory in [".github/release", "deploy"] {
        fs::create_dir_all(copy.path().join(directory)).unwrap();
    }
    fs::copy(root().join(".github/release/files.sh"), copy.path().join(".github/release/files.sh")).unwrap();
    let copied = Command::new("cp").arg("-R").arg(chart()).arg(copy.path().join("deploy/chart")).status().unwrap();
    assert!(copied.success());
    fs::write(copy.path().join("CHANGELOG.md"), changelog).unwrap();
    copy
}

fn files(checkout: &Path, version: &str, image: &str) -> Output {
    let helm = find_helm().unwrap_or_else(|error| panic!("{error:#}"));
    Command::new(checkout.join(".github/release/files.sh"))
        .arg(env!("CARGO_BIN_EXE_linkerd-gate"))
        .arg(helm)
        .args([version, image])
        .arg(checkout.join("out"))
        .output()
        .unwrap()
}

#[test]
fn the_files_of_a_release_name_its_image() {
    let changelog =
        format!("# Changelog\n\n## Unreleased\n\n## {VERSION} - 2030-01-01\n\n- The first.\n\n## 0.0.1\n\n- Older.\n");
    let copy = checkout(&changelog);
    let output = files(copy.path(), VERSION, IMAGE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| fs::read_to_string(copy.path().join("out").join(name)).unwrap();
    let image = format!("{IMAGE}:{VERSION}");

    let hold = "kind: MutatingAdmissionPolicy\n";
    for (name, holds, audits) in
        [("install.yaml", true, false), ("install-audit.yaml", false, true), ("install-pre-1.36.yaml", false, false)]
    {
        let text = read(name);
        assert!(text.matches(&image).count() >= 2 && !text.contains("REGISTRY"), "{name} has another image");
        assert_eq!(text.contains(hold), holds, "{name}");
        let agent = text.split("\n---\n").find(|document| document.contains("kind: DaemonSet")).unwrap();
        let document: Value = serde_saphyr::from_str(agent).unwrap();
        let variables = document["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        let audit =
            variables.iter().any(|variable| variable["name"] == "LINKERD_GATE_MODE" && variable["value"] == "audit");
        assert_eq!(audit, audits, "{name}: {variables:?}");
    }

    let notes = read("notes.md");
    assert!(notes.starts_with("\n- The first.\n") || notes.starts_with("- The first.\n"), "{notes}");
    assert!(notes.contains(&image) && !notes.contains("Older"), "{notes}");

    // As it is: no value is needed.
    let package = copy.path().join(format!("out/linkerd-gate-{VERSION}.tgz"));
    let helm = find_helm().unwrap();
    let rendered =
        Command::new(helm).args(["template", "g", "--namespace", "linkerd-gate"]).arg(package).output().unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    assert!(String::from_utf8_lossy(&rendered.stdout).contains(&image));
}

#[test]
fn a_release_that_is_not_ready_is_refused() {
    let ready = format!("## {VERSION}\n\n- The first.\n");
    for (changelog, version, image, why) in [
        ("## Unreleased\n\n- Much.\n", VERSION, IMAGE, "has no section"),
        (&format!("## {VERSION}\n\n## 0.0.1\n\n- Older.\n")[..], VERSION, IMAGE, "or an empty one"),
        (&ready[..], "9.9.9", IMAGE, "and this release is 9.9.9"),
        (&ready[..], VERSION, "ghcr.io/example/linkerd-gate:latest", "give the repository alone"),
    ] {
        let output = files(checkout(changelog).path(), version, image);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(why), "{why}: {said}");
    }
}

#[test]
fn actionlint_finds_nothing_in_the_workflows() {
    let actionlint = find_actionlint().unwrap_or_else(|error| panic!("{error:#}"));
    let workflows = root().join(".github/workflows");
    let all: Vec<_> = fs::read_dir(workflows).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(all.len() >= 3);
    let output = Command::new(actionlint)
        .args(["-no-color", "-shellcheck=", "-pyflakes="])
        .args(all)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
