//! Files for `explain`.

use std::fs;
use std::path::Path;

use linkerd_gate::command::explain::{Explain, Output, explain};
use proptest::prelude::*;
use serde_json::Value;

use super::broken::broken;
use super::{hold, is_harmless};

/// The files that `explain`'s tests have, as they are and as JSON.
fn files() -> Vec<String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "json") {
            texts.push(fs::read_to_string(path).unwrap());
        }
    }
    assert!(texts.len() >= 6);
    texts
}

fn explained(text: &str, output: Output) -> (Vec<u8>, Vec<u8>, Option<String>) {
    let arguments = Explain { files: vec!["-".to_owned()], output, ..Explain::default() };
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let error = explain(&arguments, &mut text.as_bytes(), &mut out, &mut notes).err().map(|error| error.to_string());
    (out, notes, error)
}

#[test]
fn any_file_is_explained_or_refused_in_words_a_terminal_shows() {
    hold("manifest", broken(files()), |text| {
        let (out, notes, error) = explained(text, Output::Text);
        for said in [out, notes] {
            is_harmless(&String::from_utf8(said).expect("text"))?;
        }
        if let Some(error) = error {
            is_harmless(&error)?;
            prop_assert!(error.starts_with("standard input"), "{}", error);
        }
        Ok(())
    });
}

#[test]
fn whatever_is_explained_as_json_is_one_json_document() {
    hold("manifest-json", broken(files()), |text| {
        let (out, _, error) = explained(text, Output::Json);
        if error.is_none() {
            prop_assert!(serde_json::from_slice::<Value>(&out).is_ok(), "{}", String::from_utf8_lossy(&out));
        } else {
            prop_assert!(out.is_empty());
        }
        Ok(())
    });
}
