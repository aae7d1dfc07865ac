//! Words that a reader from Kubernetes or Linkerd would have to look up here, and the word to use instead.

use std::fs;
use std::path::{Path, PathBuf};

/// What is read: files, and directories with everything below them.
const READ: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "ROADMAP.md",
    "Makefile",
    "Dockerfile",
    "docs",
    "deploy/chart",
    "link",
    "src",
];

/// Each word or phrase to avoid, and what to write instead. A final `*` stands for any ending. Identifiers count as their words:
/// `by_hand` and `ByHand` are `by hand`.
const AVOID: &[(&str, &str)] = &[
    // Actors without a name.
    ("nobody", "the actor: `no agent`, `no pod`"),
    ("somebody", "the actor: `a person`, `another program`"),
    ("anybody", "the actor: `any client`"),
    ("everybody", "the actors: `every account`, `all agents`"),
    ("whom", "a sentence whose subject acts"),
    // Words that have a plainer one.
    ("anew", "again"),
    ("of its own", "own, separate"),
    ("of their own", "own, separate"),
    ("that is not there", "missing"),
    ("that are not there", "missing"),
    ("what is not there", "missing"),
    ("for want of", "without, because there is no"),
    ("look again", "recheck"),
    ("fell silent", "stopped renewing the Lease"),
    ("take back", "remove"),
    ("takes back", "removes"),
    ("took back", "removed"),
    ("person s word", "manual override"),
    ("end of the world", "shutdown signal"),
    // Names that only this project had.
    ("steward*", "node reconciler"),
    ("narrat*", "status log"),
    ("farewell*", "shutdown, step down"),
    ("opener*", "orphan nodes"),
    ("strike*", "failure"),
    ("breath*", "heartbeat"),
    ("obstacle*", "failed probe"),
    ("disposition*", "decision"),
    ("stance*", "lease state"),
];

/// The same, in all but `src`: identifiers there still have these words.
const AVOID_IN_PROSE: &[(&str, &str)] = &[
    ("told", "reported, given, sent"),
    ("by hand", "manual override"),
    ("tender*", "tolerations"),
    ("tended", "has a ready agent"),
    ("scribe*", "event recorder"),
    ("teller*", "report"),
    ("nudg*", "retry"),
    ("doubt*", "degraded"),
    ("overtak*", "conflict"),
    ("yield*", "taint suppressed"),
    ("publication*", "published verdict"),
    ("outline*", "injection input"),
    ("sighting*", "lease observer"),
    ("forget*", "clear"),
    ("forgot*", "cleared"),
];

/// Where a word to avoid is part of a name: the end of the path, a part of the line, and whose name it is. None is yet.
const FOREIGN: &[(&str, &str, &str)] = &[];

/// A word of a file, in lower case, and its line.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    text: String,
    line: usize,
}

fn repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every file of [`READ`].
fn files() -> Vec<PathBuf> {
    fn visit(path: &Path, found: &mut Vec<PathBuf>) {
        if !path.is_dir() {
            found.push(path.to_owned());
            return;
        }
        let mut below: Vec<PathBuf> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        below.sort();
        for path in below {
            visit(&path, found);
        }
    }
    let mut found = Vec::new();
    for path in READ {
        visit(&repository(path), &mut found);
    }
    found.retain(|path| {
        !path.extension().is_some_and(|extension| extension == "svg" || extension == "png") && !is_test(path)
    });
    found
}

/// Whether a file of `src` is a test: their stories have characters, and no operator reads them.
fn is_test(path: &Path) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with("tests") || name == "properties" || path.components().any(|part| part.as_os_str() == "tests")
}

/// The text of a file, of code without its test module.
fn text_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// The words of a text. `aB`, `a_b` and `a-b` are two words, and a phrase may go over the end of a line.
fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut word = String::new();
        let mut take = |word: &mut String| {
            if !word.is_empty() {
                words.push(Word { text: std::mem::take(word).to_lowercase(), line: number + 1 });
            }
        };
        for char in line.chars() {
            let begins = char.is_uppercase() && word.chars().next_back().is_some_and(char::is_lowercase);
            if begins || !char.is_alphanumeric() {
                take(&mut word);
            }
            if char.is_alphanumeric() {
                word.push(char);
            }
        }
        take(&mut word);
    }
    words
}

/// Where `phrase` begins in `words`.
fn places<'a>(words: &'a [Word], phrase: &str) -> impl Iterator<Item = usize> + use<'a> {
    let parts: Vec<String> = phrase.split(' ').map(str::to_owned).collect();
    words.windows(parts.len()).filter_map(move |window| {
        let same = |(word, part): (&Word, &String)| match part.strip_suffix('*') {
            Some(beginning) => word.text.starts_with(beginning),
            None => word.text == *part,
        };
        window.iter().zip(&parts).all(same).then(|| window[0].line)
    })
}

/// The names of the functions below `#[test]` and `#[tokio::test…]`.
fn tests_of(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(function) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn ")) {
            names.extend(function.split('(').next().filter(|_| is_test));
            is_test = false;
        }
    }
    names
}

#[test]
fn names_of_tests_are_short_and_plain() {
    fn visit(path: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                visit(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                found.push(entry);
            }
        }
    }
    let mut files = Vec::new();
    for directory in ["src", "tests", "benches"] {
        visit(&repository(directory), &mut files);
    }
    let (mut count, mut wrong) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for name in tests_of(&text) {
            count += 1;
            let words = words(name);
            let avoided =
                AVOID.iter().chain(AVOID_IN_PROSE).find(|(phrase, _)| places(&words, phrase).next().is_some());
            if name.len() > 60 || avoided.is_some() {
                wrong.push(format!("{}: {name} ({} letters, {avoided:?})", file.display(), name.len()));
            }
        }
    }
    assert!(count > 900, "{count} tests");
    assert!(wrong.is_empty(), "at most 60 letters, and no word to avoid:\n{}", wrong.join("\n"));
}

#[test]
fn words_to_avoid_are_avoided() {
    let mut found = Vec::new();
    let files = files();
    assert!(files.len() > 50, "{} files", files.len());
    for path in files {
        let text = text_of(&path);
        let words = words(&text);
        let lines: Vec<&str> = text.lines().collect();
        let is_prose = !path.starts_with(repository("src"));
        for (phrase, instead) in AVOID.iter().chain(AVOID_IN_PROSE.iter().filter(|_| is_prose)) {
            for line in places(&words, phrase) {
                let foreign =
                    |(end, part, _): &&(&str, &str, &str)| path.ends_with(end) && lines[line - 1].contains(part);
                if !FOREIGN.iter().any(|name| foreign(&name)) {
                    let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display();
                    found.push(format!("{path}:{line}: `{phrase}`; instead: {instead}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} words to avoid:\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_exception_is_needed() {
    for (end, part, owner) in FOREIGN {
        assert!(!owner.is_empty());
        let lines = files().into_iter().filter(|path| path.ends_with(end)).map(|path| text_of(&path));
        let needed = lines.into_iter().any(|text| {
            let with_part = text.lines().filter(|line| line.contains(part)).collect::<Vec<_>>().join("\n");
            let words = words(&with_part);
            AVOID.iter().chain(AVOID_IN_PROSE).any(|(phrase, _)| places(&words, phrase).next().is_some())
        });
        assert!(needed, "{end} needs no exception for {part}");
    }
}

#[test]
fn identifiers_and_line_ends_hide_no_word() {
    let found = |text: &str, phrase: &str| places(&words(text), phrase).collect::<Vec<_>>();
    assert_eq!(found("fn by_hand() {}\nstruct ByHand;\n--by-hand", "by hand"), [1, 2, 3]);
    assert_eq!(found("a namespace of its\n/// own", "of its own"), [1]);
    assert_eq!(found("nudged, LINKERD_GATE_NUDGE, nudge", "nudg*"), [1, 1, 1]);
    assert_eq!(found("handy, toldo, untold", "told"), [0_usize; 0]);
    assert_eq!(found("linkerd-gate/nudged-at", "nudg*"), [1]);
}
