//! Bytes that others write: whatever they are, what reads them says so or takes them for what they are. It never panics, never
//! prints what a terminal obeys, and never takes a broken word for an open gate.
//!
//! Each property starts from genuine inputs and breaks them: bytes flipped, cut out, doubled, replaced by others that mean something,
//! and JSON values by those of another type. A few hundred of each in every run; for as long as one likes by
//!
//! ```console
//! $ make fuzz FUZZ=1h
//! ```
//!
//! A case that fails is kept in `tests/foreign_bytes/found` by the property's name, and each is played first in every run.

mod annotations;
mod broken;
mod environment;
mod manifests;
mod objects;
mod questions;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestCaseResult, TestError, TestRunner};

/// How many cases of a property there are in every run.
const CASES: u32 = 256;

/// How many between two looks at the clock.
const ROUND: u32 = 2048;

/// Holds a property over the cases that were found before, and then over new ones: a few hundred, or as long as `make fuzz` asks.
///
/// # Panics
/// Where it does not hold, with the shortest text that shows it.
pub fn hold<S>(name: &str, strategy: S, property: impl Fn(&str) -> TestCaseResult)
where
    S: Strategy<Value = String>,
{
    for path in found(name) {
        let text = fs::read_to_string(&path).unwrap();
        if let Err(error) = property(&text) {
            panic!("{}: {error}", path.display());
        }
    }
    let lasts = std::env::var("LINKERD_GATE_TESTS_FUZZ").ok().filter(|text| !text.is_empty());
    let lasts =
        lasts.map(|text| humantime::parse_duration(&text).unwrap_or_else(|error| panic!("FUZZ={text}: {error}")));
    let cases = if lasts.is_some() { ROUND } else { CASES };
    let until = Instant::now() + lasts.unwrap_or(Duration::ZERO);
    let mut played = 0_u64;
    loop {
        // Found cases are kept as text, which a person can read: proptest's own files hold seeds, which a new strategy outlives.
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
        match TestRunner::new(config).run(&strategy, |text| property(&text)) {
            Ok(()) => {}
            Err(TestError::Fail(why, text)) => {
                let kept = keep(name, &text);
                panic!("{why}\nof {text:?}\nkept as {}", kept.display());
            }
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
        played += u64::from(cases);
        if Instant::now() >= until {
            break;
        }
    }
    if lasts.is_some() {
        println!("{name}: {played} cases");
    }
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign_bytes/found").join(name)
}

fn found(name: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(directory(name)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn keep(name: &str, text: &str) -> PathBuf {
    let directory = directory(name);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{}.txt", found(name).len() + 1));
    fs::write(&path, text).unwrap();
    path
}

/// Fails where a text holds what a terminal obeys: control characters, and those that turn the direction of writing.
pub fn is_harmless(text: &str) -> TestCaseResult {
    let obeyed = |char: &char| match char {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => char.is_control(),
    };
    match text.chars().find(obeyed) {
        None => Ok(()),
        Some(char) => Err(TestCaseError::fail(format!("{char:?} is in {text:?}"))),
    }
}
