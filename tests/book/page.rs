//! What is read of the pages: their links, anchors, blocks of commands, and what is wrong with each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// Where the repository is on the web, by Cargo.toml. Pages of the book link to files outside of it by this address, and so does
/// the program.
pub const HOME: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/");

/// What is read beside the book.
const OTHERS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "ROADMAP.md",
    "deploy/chart/README.md",
    "deploy/manifests/README.md",
    "deploy/manifests-pre-1.36/README.md",
    "tests/kit/README.md",
];

/// A block of commands, and the comment above it.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    pub line: usize,
    pub mark: Option<String>,
    pub text: String,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Every page of the book, by its path in the repository.
pub fn pages() -> Vec<String> {
    let mut pages: Vec<String> = fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .filter_map(|path| Some(format!("docs/{}", path.file_name()?.to_str()?)))
        .filter(|page| page != "docs/SUMMARY.md")
        .collect();
    pages.sort();
    assert!(pages.len() > 25, "{pages:?}");
    pages
}

/// Everything that is read, by its path in the repository.
pub fn texts() -> BTreeMap<String, String> {
    let others = OTHERS.iter().map(|path| (*path).to_owned());
    let paths = pages().into_iter().chain(others).chain(["docs/SUMMARY.md".to_owned()]);
    paths.map(|path| (path.clone(), read(path))).collect()
}

/// The lines outside of blocks, with their numbers; code within a line is left out.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let outside = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
            lines.push((number + 1, outside));
        }
    }
    lines
}

/// Where the links of a text lead.
pub fn links(text: &str) -> Vec<(usize, String)> {
    let of_line = |(number, line): (usize, String)| {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next().map(str::to_owned));
        targets.map(|target| (number, target)).collect::<Vec<_>>()
    };
    prose(text).into_iter().flat_map(of_line).collect()
}

/// The anchors of a text's headings, as GitHub and mdBook make them.
pub fn anchors(text: &str) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let Some((_, heading)) =
            line.split_once("# ").filter(|(hashes, _)| !fenced && hashes.chars().all(|it| it == '#'))
        else {
            continue;
        };
        let kept = |char: char| match char {
            ' ' => Some('-'),
            '-' | '_' => Some(char),
            _ => char.is_alphanumeric().then(|| char.to_ascii_lowercase()),
        };
        let anchor: String = heading.trim().chars().filter_map(kept).collect();
        let count = counts.entry(anchor.clone()).or_default();
        anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    anchors
}

/// A path without `..` in it; nothing where it leads out of the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    path.components().try_fold(PathBuf::new(), |mut normal, component| match component {
        Component::ParentDir => normal.pop().then_some(normal),
        Component::Normal(name) => {
            normal.push(name);
            Some(normal)
        }
        _ => Some(normal),
    })
}

/// What is wrong with a link of this file, if anything.
pub fn fault(from: &str, target: &str) -> Option<String> {
    let in_book = from.starts_with("docs/");
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match path.strip_prefix(HOME) {
        Some(path) if in_book && path.starts_with("docs/") => {
            return Some("a page of the book has a shorter path".into());
        }
        Some(path) => PathBuf::from(path),
        None if path.contains("://") || path.starts_with("mailto:") => return None,
        None if path.is_empty() => PathBuf::from(from),
        None => normal(&Path::new(from).parent()?.join(path))?,
    };
    if in_book && !target.starts_with(HOME) && !path.starts_with("docs") {
        return Some(format!("it leads out of the book: write {HOME}…"));
    }
    if !root().join(&path).exists() {
        return Some(format!("there is no {}", path.display()));
    }
    let is_page = path.extension().is_some_and(|extension| extension == "md");
    (is_page && !anchor.is_empty() && !anchors(&read(&path)).contains(anchor))
        .then(|| format!("{} has no heading {anchor}", path.display()))
}

/// The blocks of a text that hold commands.
pub fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut blocks = Vec::new();
    for (number, _) in lines.iter().enumerate().filter(|(_, line)| matches!(**line, "```sh" | "```console")) {
        let above = number.checked_sub(1).map_or("", |above| lines[above]);
        let mark = above.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")).map(str::to_owned);
        let text =
            lines[number + 1..].iter().take_while(|line| **line != "```").copied().collect::<Vec<_>>().join("\n");
        blocks.push(Block { line: number + 1, mark, text });
    }
    blocks
}

/// What is wrong with the comment above a block of this page, if anything.
pub fn fault_of_mark(page: &str, mark: Option<&str>) -> Option<String> {
    let (kind, rest) = mark.and_then(|mark| mark.split_once(": ")).unwrap_or_default();
    let file = rest.split([',', ' ']).next().unwrap_or_default();
    let test = |file: &str| fs::read_to_string(root().join(file)).ok();
    match (kind, test(file)) {
        ("run", Some(test)) if test.contains(page) => None,
        ("run", Some(_)) => Some(format!("{file} does not read {page}")),
        ("tried", Some(test)) => {
            let lacking = rest.split('`').skip(1).step_by(2).find(|name| !test.contains(*name));
            lacking.map(|name| format!("{file} has no {name}"))
        }
        ("not run", _) if rest.len() > 10 => None,
        _ => Some("above it: <!-- run: FILE -->, <!-- tried: FILE, `function` -->, or <!-- not run: why -->".into()),
    }
}

pub fn program(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_linkerd-gate")).args(arguments).env_clear().output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every command of the program that a text names, in a block or in a line: `open NODE --for 1h`.
pub fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let of_blocks = blocks(&joined).into_iter().flat_map(|block| {
        let lines = block.text.lines().map(|line| line.split(" # ").next().unwrap_or_default().to_owned());
        lines.collect::<Vec<_>>()
    });
    let in_lines = joined.lines().flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned));
    let pieces = of_blocks.chain(in_lines.filter(|code| code.starts_with("linkerd-gate ")));
    let pieces: Vec<String> =
        pieces.flat_map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>()).collect();
    let call = |piece: &String| {
        let piece = piece.trim().trim_start_matches("$ ");
        piece.strip_prefix("linkerd-gate ").map(str::to_owned)
    };
    pieces.iter().filter_map(call).collect()
}
