//! The pages that people read: each is in the book, each link leads somewhere, each command is run by a test or says why not, and
//! no page names a command, a flag or a value that does not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// Where the repository is on the web. Pages of the book link to files outside of it by this address, and so does the program.
const HOME: &str = "https://github.com/linkerd-gate/linkerd-gate/blob/main/";

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
struct Block {
    line: usize,
    mark: Option<String>,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Every page of the book, by its path in the repository.
fn pages() -> Vec<String> {
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
fn texts() -> BTreeMap<String, String> {
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
fn links(text: &str) -> Vec<(usize, String)> {
    let of_line = |(number, line): (usize, String)| {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next().map(str::to_owned));
        targets.map(|target| (number, target)).collect::<Vec<_>>()
    };
    prose(text).into_iter().flat_map(of_line).collect()
}

/// The anchors of a text's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
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
fn fault(from: &str, target: &str) -> Option<String> {
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
fn blocks(text: &str) -> Vec<Block> {
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
fn fault_of_mark(page: &str, mark: Option<&str>) -> Option<String> {
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

fn program(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_linkerd-gate")).args(arguments).env_clear().output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every command of the program that a text names, in a block or in a line: `open NODE --for 1h`.
fn commands(text: &str) -> Vec<String> {
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

#[test]
fn every_page_is_in_the_summary_once() {
    let summary = read("docs/SUMMARY.md");
    let mut listed: Vec<String> = links(&summary).into_iter().map(|(_, page)| format!("docs/{page}")).collect();
    listed.sort();
    assert_eq!(listed, pages());
    let book = read("book.toml");
    assert!(book.contains("src = \"docs\"") && book.contains("create-missing = false"), "{book}");
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    let texts = texts();
    for (path, text) in &texts {
        for (line, target) in links(text) {
            faults.extend(fault(path, &target).map(|fault| format!("{path}:{line}: {target}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(texts.values().map(|text| links(text).len()).sum::<usize>() > 200);
}

/// Findings, errors and notes of the chart send a person to a page.
#[test]
fn every_page_that_code_and_chart_name_exists() {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { below(&path, found) } else { found.push(path) }
        }
    }
    let mut files = Vec::new();
    for directory in ["src", "deploy/chart"] {
        below(&root().join(directory), &mut files);
    }
    let is_part = |char: char| char.is_alphanumeric() || "-_./#".contains(char);
    let mut named = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("docs/") {
            let before = text[..at].chars().next_back();
            let target: String = text[at..].chars().take_while(|char| is_part(*char)).collect();
            let elsewhere = before.is_some_and(|char| is_part(char) && char != '/') || text[..at].ends_with(".io/");
            if !elsewhere && target.contains(".md") {
                named.insert(target.trim_end_matches('.').to_owned());
            }
        }
    }
    assert!(named.len() > 8, "{named:?}");
    let faults: Vec<String> =
        named.iter().filter_map(|it| fault("README.md", it).map(|why| format!("{it}: {why}"))).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// What a bug cannot be understood without.
#[test]
fn every_form_of_an_issue_asks_for_a_check_and_links_to_what_exists() {
    let mut forms = 0;
    for entry in fs::read_dir(root().join(".github/ISSUE_TEMPLATE")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let form: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        for rest in text.split(HOME).skip(1) {
            let target: String = rest.chars().take_while(|char| !char.is_whitespace() && *char != ')').collect();
            assert_eq!(fault("README.md", &format!("{HOME}{target}")), None, "{}", path.display());
        }
        let Some(fields) = form["body"].as_array() else { continue };
        let text = |field: &serde_json::Value| {
            format!("{}{}", field["attributes"]["label"], field["attributes"]["description"])
        };
        assert!(fields.iter().any(|field| text(field).contains("linkerd-gate check -o json")), "{}", path.display());
        forms += 1;
    }
    assert_eq!(forms, 3);
}

#[test]
fn every_block_of_commands_says_what_runs_it() {
    let mut faults = Vec::new();
    for (path, text) in texts() {
        for block in blocks(&text) {
            let fault = fault_of_mark(&path, block.mark.as_deref());
            faults.extend(fault.map(|fault| format!("{path}:{}: {fault}", block.line)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_command_and_flag_of_the_program_exists() {
    let overview = program(&["help"]);
    let section = overview.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let words = section.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let known: BTreeMap<&str, String> =
        words.filter(|word| !word.is_empty() && *word != "help").map(|word| (word, program(&["help", word]))).collect();
    assert!(known.len() > 12, "{:?}", known.keys());
    let mut faults = BTreeSet::new();
    let mut count = 0;
    for (path, text) in texts() {
        for command in commands(&text) {
            count += 1;
            let mut words = command.split_whitespace();
            let name = words.next().unwrap_or_default();
            let Some(help) = known.get(name) else {
                if name != "help" && !name.starts_with('-') {
                    faults.insert(format!("{path}: linkerd-gate {command}: no command {name}"));
                }
                continue;
            };
            for flag in words.filter(|word| word.starts_with("--") && word.len() > 2) {
                let flag = flag.split(['=', ',', ';', ')', '.']).next().unwrap_or_default();
                let has =
                    help.match_indices(flag).any(|(at, _)| !help[at + flag.len()..].starts_with(char::is_alphanumeric));
                if !has {
                    faults.insert(format!("{path}: linkerd-gate {command}: no flag {flag}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(count > 50, "{count} commands");
}

#[test]
fn every_value_that_a_page_sets_exists() {
    let schema: serde_json::Value = serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap();
    let mut count = 0;
    for (path, text) in texts() {
        for argument in text.split("--set ").skip(1) {
            // Lists have commas of their own: `{a,b}`.
            let argument = argument.split([' ', '\n', '`']).next().unwrap_or_default();
            for value in argument.split(',').filter_map(|set| Some(set.split_once('=')?.0)) {
                // `list[0].name` is a field of an item.
                let found = value.split('.').try_fold(&schema, |schema, part| {
                    let name = part.split('[').next().unwrap_or_default();
                    let found = schema["properties"].get(name)?;
                    if name == part { Some(found) } else { found.get("items") }
                });
                assert!(found.is_some(), "{path}: the chart has no value {value}");
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count} values");
}

#[test]
fn what_is_read_of_a_page_is_read_rightly() {
    let page = "# A `b`: c?\n## A b c\n[x](y.md#z) `[not](this)`\n```sh\n# no heading [n](m)\n```\n";
    assert_eq!(anchors(page), ["a-b-c", "a-b-c-1"].map(str::to_owned).into());
    assert_eq!(links(page), [(3, "y.md#z".to_owned())]);
    let block =
        |mark: Option<&str>, text: &str| Block { line: 2, mark: mark.map(str::to_owned), text: text.to_owned() };
    assert_eq!(blocks("<!-- run: a.rs -->\n```console\n$ b\nc\n```\n"), [block(Some("run: a.rs"), "$ b\nc")]);
    assert_eq!(blocks("text\n```sh\nb\n```\n```yaml\nd\n```\n"), [block(None, "b")]);
    let gone = format!("tried: tests/book.rs, `fn {}`", "gone");
    for wrong in [None, Some("run: tests/none.rs"), Some("not run:"), Some("run: tests/words.rs"), Some(&*gone)] {
        assert!(fault_of_mark("no/such/page.md", wrong).is_some(), "{wrong:?}");
    }
    for right in ["run: tests/book.rs", "tried: tests/book.rs, `fault_of_mark`", "not run: it needs a cluster"] {
        assert_eq!(fault_of_mark("README.md", Some(right)), None);
    }
    assert!(fault("docs/check.md", "../README.md").is_some() && fault("docs/check.md", "nodes.md#none").is_some());
    assert_eq!(fault("docs/check.md", "#lg101"), None);
    assert_eq!(
        commands("`linkerd-gate open a --for 1h` and `linkerd-gate`\n```sh\nx | linkerd-gate explain -f -   # y\n```"),
        ["explain -f -", "open a --for 1h"]
    );
}

/// `make docs` writes it.
#[test]
fn the_page_of_commands_is_the_table() {
    const MARK: &str = "<!-- commands -->\n";
    let overview = program(&["help"]);
    let section = overview.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = section.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    // The roles' help is their variables: docs/configuration.md.
    let names = names.filter(|name| !["", "help", "wait", "agent", "controller"].contains(name));
    let help = |name| format!("\n## {name}\n\n```text\n{}\n```\n", program(&["help", name]).trim_end());
    let page: String = names.map(help).collect();
    let path = root().join("docs/cli.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, found) = text.split_once(MARK).expect("a mark");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{MARK}{page}")).unwrap();
    } else {
        assert!(found == page, "docs/cli.md is out of date: run `make docs`");
    }
}
