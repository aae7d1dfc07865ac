//! `pod/web deploy/shop`, `pod web-0 web-1`, `deploy,sts`: what of a cluster is meant.

use std::path::Path;

use super::Refusal;
use crate::command::explain::{Kind, source};
use crate::command::pod_name;

/// The kinds, in order, each with names. `place` is how the namespace was given, for commands that are printed.
pub(super) fn kinds(words: &[String], place: &str) -> Result<Vec<(Kind, Vec<String>)>, Refusal> {
    let typed = words.join(" ");
    if let Some(word) = words.iter().find(|word| source::is_url(word)) {
        return Err(Refusal::Url(word.clone()));
    }
    if let Some(word) = words.iter().find(|word| is_file(word)) {
        return Err(match Path::new(word) {
            path if path.is_dir() => Refusal::Folder(word.clone()),
            path if path.exists() || word == "-" => Refusal::File(word.clone()),
            _ => Refusal::NoFile(word.clone()),
        });
    }
    let known = |name: &str| {
        Kind::named(name).ok_or_else(|| Refusal::Kind {
            kind: name.to_owned(),
            typed: typed.clone(),
            place: place.to_owned(),
        })
    };
    let name = |kind: Kind, name: &str| match pod_name::name(name) {
        Ok(name) => Ok(name),
        Err(_) => Err(Refusal::Name { name: name.to_owned(), kind: kind.name(), place: place.to_owned() }),
    };
    let mut found: Vec<(Kind, Vec<String>)> = Vec::new();
    if words[0].contains('/') {
        for word in words {
            let Some((kind, rest)) = word.split_once('/') else {
                return Err(Refusal::NoSlash { word: word.clone(), first: words[0].clone(), place: place.to_owned() });
            };
            let kind = known(kind)?;
            let rest = name(kind, rest)?;
            match found.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, names)) => names.push(rest),
                None => found.push((kind, vec![rest])),
            }
        }
        return Ok(found);
    }
    // As kubectl: each name of each kind.
    for kind in words[0].split(',') {
        let kind = known(kind)?;
        let names = words[1..].iter().map(|word| name(kind, word)).collect::<Result<_, _>>()?;
        if found.iter().all(|(other, _)| *other != kind) {
            found.push((kind, names));
        }
    }
    Ok(found)
}

/// Whether a word is meant as a file: one is there, or it is written as paths are.
fn is_file(word: &str) -> bool {
    let looks_so = word == "-"
        || [".", "..", "~"].contains(&word)
        || ["./", "../", "/", "~/"].iter().any(|start| word.starts_with(start))
        || Path::new(word)
            .extension()
            .is_some_and(|ending| ["json", "yaml", "yml"].iter().any(|known| ending == *known));
    looks_so || Kind::named(word.split(['/', ',']).next().unwrap_or_default()).is_none() && Path::new(word).exists()
}
