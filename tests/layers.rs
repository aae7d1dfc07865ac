//! Which module may use which: the table of `docs/architecture.md`, and that its paths exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every file of `src`, by its path below it, without its tests and comments.
fn sources() -> BTreeMap<String, String> {
    fn visit(directory: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, root, found);
            } else if is_rust(&path) && !is_test(&path) {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, code.join("\n"));
            }
        }
    }
    let root = repository("src");
    let mut found = BTreeMap::new();
    visit(&root, &root, &mut found);
    assert!(found.len() > 80, "{} files", found.len());
    found
}

fn is_rust(path: impl AsRef<Path>) -> bool {
    path.as_ref().extension().is_some_and(|extension| extension == "rs")
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with("tests") || name == "properties" || path.components().any(|part| part.as_os_str() == "tests")
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn is_part(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Whether `code` has `word`, and not as a part of another one.
fn has(code: &str, word: &str) -> bool {
    let joins = |one: Option<char>, other: Option<char>| one.is_some_and(is_part) && other.is_some_and(is_part);
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + word.len()..].chars().next());
        !joins(before, word.chars().next()) && !joins(word.chars().next_back(), after)
    })
}

/// The modules of this crate that `code` names.
fn used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let (mut depth, mut word) = (0, String::new());
        // In braces, what follows each comma of the outermost ones; else what stands there.
        for char in rest.chars() {
            match char {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => {
                    used.insert(std::mem::take(&mut word));
                    continue;
                }
                _ if depth <= 1 && is_part(char) && !word.ends_with(':') => word.push(char),
                ':' if !word.is_empty() && !word.ends_with(':') => word.push(':'),
                _ => {}
            }
            if depth <= 0 && !is_part(char) && char != '{' {
                break;
            }
        }
        used.insert(word);
    }
    used.into_iter().map(|word| word.trim_end_matches(':').to_owned()).filter(|word| !word.is_empty()).collect()
}

/// The files outside `room` that have one of these words.
fn outside(room: &str, words: &[&str]) -> Vec<String> {
    let uses = |(name, code): (String, String)| {
        let word = words.iter().find(|word| has(&code, word))?;
        (!name.starts_with(room)).then(|| format!("{name}: {word}"))
    };
    sources().into_iter().filter_map(uses).collect()
}

#[test]
fn only_cluster_uses_kube_and_only_observe_reqwest() {
    assert_eq!(outside("cluster", &["kube::"]), [] as [String; 0]);
    assert_eq!(outside("observe", &["reqwest::"]), [] as [String; 0]);
}

#[test]
fn what_decides_has_no_clock_no_async_and_no_environment() {
    let impure = ["async", ".await", "tokio", "Instant", "SystemTime", "now()", "std::env", "tracing"];
    let pure = |name: &str| ["check/", "decide/", "linkerd/", "report/"].iter().any(|module| name.starts_with(module));
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| pure(name))
        .filter_map(|(name, code)| impure.iter().find(|word| has(&code, word)).map(|word| format!("{name}: {word}")))
        .collect();
    assert_eq!(found, [] as [String; 0]);
}

/// `main` and `cli` join everything; nothing else is above `role` and `command`.
#[test]
fn no_module_uses_one_that_is_above_it() {
    let layers: [&[&str]; 7] = [
        &["linkerd", "exit", "shutdown"],
        &["decide"],
        &["check"],
        &["config", "metrics", "report", "retry"],
        &["cluster", "observe", "http", "telemetry"],
        &["role"],
        &["command"],
    ];
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    assert_eq!(
        used("use crate::{a::{b, c}, d};\ncrate::e::f(crate::g)"),
        ["a", "d", "e", "g"].map(str::to_owned).into()
    );
    let mut unknown = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    for (name, code) in sources() {
        let module = name.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        if ["main", "bin", "entry", "cli", "lib"].contains(&module.as_str()) {
            continue;
        }
        let Some(own) = layer_of(&module) else {
            unknown.insert(module);
            continue;
        };
        for used in used(&code) {
            if used != module && layer_of(&used).is_none_or(|layer| layer >= own) {
                wrong.insert(format!("{name} uses {used}"));
            }
        }
    }
    assert!(unknown.is_empty(), "in no layer: {unknown:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_path_that_the_map_names_exists() {
    for page in ["docs/architecture.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(repository(page)).unwrap();
        let is_path = |char: char| char.is_alphanumeric() || "_-./".contains(char);
        for word in text.split(|char| !is_path(char)).filter(|word| word.contains('/') || is_rust(word)) {
            // In the diagrams and the tables a path is given from `src`, or from the path before it.
            let within = ["", "src", "docs", "src/decide", "src/decide/repair", "src/decide/readiness"];
            let first = word.split('/').next().unwrap_or_default();
            let is_one = within.iter().any(|base| repository(base).join(first).exists()) || is_rust(word);
            let found = within.iter().any(|base| repository(base).join(word).exists());
            assert!(found || !is_one || first.is_empty(), "{page} names {word}, which does not exist");
        }
    }
}

/// The paths that a `use` tree names, without aliases.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some(brace) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![path.split("::").map(|segment| segment.trim().to_owned()).collect()];
    };
    let stem = tree[..brace].trim().trim_end_matches(':');
    let stem: Vec<String> = stem.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
    let (mut depth, mut branches) = (0, vec![String::new()]);
    for char in tree[brace + 1..tree.rfind('}').unwrap_or(tree.len())].chars() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                branches.push(String::new());
                continue;
            }
            _ => {}
        }
        branches.last_mut().unwrap().push(char);
    }
    let branches = branches.iter().filter(|branch| !branch.trim().is_empty());
    branches.flat_map(|branch| leaves(branch)).map(|leaf| [stem.clone(), leaf].concat()).collect()
}

/// Where a path leads from the module `here`; nothing where it leaves this crate.
fn absolute(path: &[String], here: &[String]) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([here, &path[1..]].concat()),
        "super" => Some([&here[..here.len().checked_sub(supers)?], &path[supers..]].concat()),
        _ => None,
    }
}

/// Every path in `code`: those of `use` items, and those that are written out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let is_path = |char: char| is_part(char) || char == ':';
    let is_tree = |tree: &str| tree.chars().all(|char| is_path(char) || "{}, *\n".contains(char));
    let items = code.split(';').filter_map(|item| item.rsplit_once("use "));
    let uses = items.filter(|(_, tree)| is_tree(tree)).flat_map(|(_, tree)| leaves(tree));
    let written = code.split(|char| !is_path(char)).filter(|word| word.contains("::"));
    uses.chain(written.map(|word| word.split("::").map(str::to_owned).collect())).collect()
}

/// Between the modules of one directory, whatever is inside each of them. A module may use its parent, and the other way round.
#[test]
fn no_two_modules_depend_on_each_other() {
    let modules: BTreeMap<Vec<String>, String> = sources()
        .into_iter()
        .filter(|(name, _)| name != "main.rs")
        .map(|(name, code)| {
            let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
            let segments = name.split('/').filter(|segment| *segment != "lib").map(str::to_owned);
            (segments.collect(), code)
        })
        .collect();
    // A re-export is no use of its own: it leads to where the item is.
    let mut exports = BTreeMap::new();
    for (module, code) in &modules {
        for item in code.split(';').filter(|item| item.trim_start().starts_with("pub")) {
            let Some((_, tree)) = item.rsplit_once("use ") else { continue };
            for leaf in leaves(tree) {
                if let (Some(target), Some(name)) = (absolute(&leaf, module), leaf.last()) {
                    exports.insert([module.as_slice(), std::slice::from_ref(name)].concat(), target);
                }
            }
        }
    }
    let module_of = |mut path: Vec<String>| {
        while let Some(target) = exports.get(&path) {
            path.clone_from(target);
        }
        while !path.is_empty() && !modules.contains_key(&path) {
            path.pop();
        }
        path
    };
    // By parent: which of its children use which.
    let mut edges: BTreeMap<Vec<String>, BTreeMap<String, BTreeMap<String, String>>> = BTreeMap::new();
    for (module, code) in &modules {
        for path in paths(code).iter().filter_map(|path| absolute(path, module)) {
            let target = module_of(path);
            let shared = module.iter().zip(&target).take_while(|(one, other)| one == other).count();
            if shared < module.len() && shared < target.len() {
                let uses = edges.entry(module[..shared].to_vec()).or_default();
                let example = format!("{} → {}", module.join("::"), target.join("::"));
                uses.entry(module[shared].clone()).or_default().insert(target[shared].clone(), example);
            }
        }
    }
    assert!(edges.len() > 8, "{edges:?}");
    let mut circles = BTreeSet::new();
    for uses in edges.values() {
        for (from, targets) in uses {
            for (to, example) in targets {
                let (mut seen, mut next) = (BTreeSet::new(), vec![to]);
                while let Some(module) = next.pop() {
                    if seen.insert(module) {
                        next.extend(uses.get(module).into_iter().flat_map(BTreeMap::keys));
                    }
                }
                if seen.contains(from) {
                    circles.insert(example.clone());
                }
            }
        }
    }
    assert!(circles.is_empty(), "these are parts of circles: {circles:#?}");
}

/// `link/seldom.ld` names our modules by their mangled paths, such as `linkerd_gate4role5agent`. One that was renamed would be
/// placed anywhere, and only the memory of a waiting pod would tell.
#[test]
fn every_module_that_the_linker_script_names_exists() {
    let script = fs::read_to_string(repository("link/seldom.ld")).unwrap();
    let mut found = BTreeSet::new();
    for pattern in script.split(".text.*linkerd_gate").skip(1) {
        let pattern = pattern.split('*').next().unwrap_or_default();
        let mut path: Vec<&str> = pattern.split("..").filter(|segment| !segment.is_empty()).collect();
        if !pattern.starts_with('.') {
            path.clear();
            let mut rest = pattern;
            while let Some(end) = rest.find(|char: char| !char.is_ascii_digit()).filter(|end| *end > 0) {
                let length: usize = rest[..end].parse().unwrap();
                path.push(&rest[end..end + length]);
                rest = &rest[end + length..];
            }
        }
        found.insert(path.join("/"));
    }
    assert!(found.len() > 6, "{found:?}");
    for path in found {
        let is_module = ["", ".rs"].iter().any(|end| repository(&format!("src/{path}{end}")).exists());
        let is_function = path.rsplit_once('/').is_some_and(|(module, name)| {
            fs::read_to_string(repository(&format!("src/{module}.rs")))
                .is_ok_and(|code| code.contains(&format!("fn {name}(")))
        });
        assert!(is_module || is_function, "link/seldom.ld names {path}, which is no module and no function");
    }
}
