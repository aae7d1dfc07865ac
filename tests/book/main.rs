//! The pages that people read: each is in the book, each link leads somewhere, each command is run by a test or says why not, and
//! no page names a command, a flag or a value that does not exist.

mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use page::{Block, HOME, anchors, blocks, commands, fault, fault_of_mark, links, pages, program, read, root, texts};

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

/// Code takes the address from Cargo.toml; what is no code has it in writing.
#[test]
fn the_repository_has_one_address() {
    fn below(path: PathBuf, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                below(entry.unwrap().path(), found);
            }
        } else if path.extension().is_none_or(|extension| extension != "png") {
            found.push(path);
        }
    }
    let mut files = Vec::new();
    for path in ["README.md", "CHANGELOG.md", "book.toml", ".github", "deploy", "docs", "src", "tests/check/golden"] {
        below(root().join(path), &mut files);
    }
    let (ours, mut count) = (env!("CARGO_PKG_REPOSITORY"), 0);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (at, host) in text.match_indices("https://github.com/") {
            let is_part = |char: char| char.is_alphanumeric() || "-_.".contains(char);
            let mut parts = text[at + host.len()..].splitn(3, '/');
            let [owner, name] = [parts.next(), parts.next()].map(Option::unwrap_or_default);
            let name = name.split(|char| !is_part(char)).next().unwrap_or_default();
            if name == "linkerd-gate" && owner.chars().all(is_part) {
                count += 1;
                assert_eq!(format!("{host}{owner}/{name}"), ours, "{}", file.display());
            }
        }
    }
    assert!(count > 50, "{count} addresses");
}

/// What a bug cannot be understood without.
#[test]
fn every_issue_form_asks_for_a_check() {
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
    let gone = format!("tried: tests/book/main.rs, `fn {}`", "gone");
    for wrong in [None, Some("run: tests/none.rs"), Some("not run:"), Some("run: tests/words.rs"), Some(&*gone)] {
        assert!(fault_of_mark("no/such/page.md", wrong).is_some(), "{wrong:?}");
    }
    for right in
        ["run: tests/book/page.rs", "tried: tests/book/page.rs, `fault_of_mark`", "not run: it needs a cluster"]
    {
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
