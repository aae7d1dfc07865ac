//! `docs/reference.md` names every label, annotation, taint, gate and Event reason of the code, and no other.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use linkerd_gate::config::table::{PREFIX, Role};
use linkerd_gate::config::{AgentSettings, ControllerSettings, Problems, Wait};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of all files below a directory, but for tests.
fn text_below(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "tests" {
            text += &text_below(&path);
        } else if path.is_file() && !name.ends_with("tests.rs") {
            let file = fs::read_to_string(&path).unwrap();
            text += file.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        }
    }
    text
}

/// The words that follow `start` in `text`, of such characters.
fn words_after(text: &str, start: &str, is_part: impl Fn(char) -> bool) -> BTreeSet<String> {
    let words =
        text.split(start).skip(1).map(|rest| rest.chars().take_while(|char| is_part(*char)).collect::<String>());
    words.map(|word| word.trim_end_matches('-').to_owned()).filter(|word| !word.is_empty()).collect()
}

#[test]
fn the_reference_names_every_key_and_no_other() {
    let is_key = |char: char| char.is_ascii_lowercase() || char == '-';
    let mut keys = words_after(&text_below(&repository("src")), "\"linkerd-gate/", is_key);
    keys.extend(words_after(&text_below(&repository("deploy/chart/templates")), "linkerd-gate/", is_key));
    // Paths of files, and names of values in an error of the chart.
    for other in ["admission-chosen", "admission-value", "boot", "ca", "kubeconfig"] {
        keys.remove(other);
    }
    let page = fs::read_to_string(repository("docs/reference.md")).unwrap();
    assert_eq!(words_after(&page, "`linkerd-gate/", is_key), keys);
}

#[test]
fn the_reference_names_every_event_reason_and_no_other() {
    let is_word = |char: char| char.is_ascii_alphabetic();
    let mut reasons = BTreeSet::new();
    for (file, starts) in [
        ("src/role/agent/node_reconciler/messages.rs", &["=> \"", "false, \"", "true, \""] as &[&str]),
        ("src/role/controller/late.rs", &["reason: \""]),
        ("src/role/controller/orphan_nodes.rs", &["reason: \""]),
        ("src/role/controller/report.rs", &["reason: \"", "(true, \"", "(false, \"", "=> (\""]),
        ("src/cluster/held_pod.rs", &["true, \"", "false, \""]),
        ("src/decide/repair/event_text.rs", &["&str = \""]),
    ] {
        let text = fs::read_to_string(repository(file)).unwrap();
        for start in starts {
            let found = words_after(&text, start, is_word);
            reasons.extend(found.into_iter().filter(|word| {
                word.starts_with(|char: char| char.is_ascii_uppercase()) && word.chars().skip(1).any(char::is_lowercase)
            }));
        }
    }
    let page = fs::read_to_string(repository("docs/reference.md")).unwrap();
    let events = page.split("## Event reasons").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    assert_eq!(words_after(events, "\n| `", is_word), reasons);
}

#[test]
fn every_setting_that_a_page_shows_is_accepted() {
    let mut pages =
        vec![repository("README.md"), repository("deploy/manifests/README.md"), repository("deploy/chart/README.md")];
    pages.extend(fs::read_dir(repository("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let is_name = |char: char| char.is_ascii_uppercase() || char == '_';
    let mut settings = BTreeSet::new();
    for page in pages.into_iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for rest in text.split("LINKERD_GATE_").skip(1) {
            let name: String = rest.chars().take_while(|char| is_name(*char)).collect();
            let value = rest[name.len()..].strip_prefix('=').unwrap_or_default();
            let value: String =
                value.chars().take_while(|char| char.is_ascii_alphanumeric() || "-.:/".contains(*char)).collect();
            // DIR, VALUE and the like stand for something; the tests have variables as well.
            let stands_for = value.chars().all(|char| char.is_ascii_uppercase());
            if !stands_for && Role::ALL.iter().any(|role| role.find(&format!("{PREFIX}{name}")).is_some()) {
                settings.insert((format!("{PREFIX}{name}"), value.trim_end_matches(['.', ':']).to_owned()));
            }
        }
    }
    assert!(settings.len() > 5, "{settings:?}");
    for (name, value) in settings {
        let variables = || [(OsString::from(&name), OsString::from(&value))];
        let wait = Wait::from_variables(variables()).err();
        let agent = AgentSettings::read(variables()).err();
        let controller = ControllerSettings::read(variables()).err();
        let refused = |problems: &Option<Problems>| {
            problems.as_ref().is_some_and(|all| all.iter().any(|it| it.variable == name && it.value.is_some()))
        };
        let everywhere = [wait, agent, controller];
        assert!(!everywhere.iter().all(refused), "{name}={value} is refused by every role: {everywhere:?}");
    }
}
