//! Every refusal says what was given, where, and what is taken, and ends in a command that works: each of them is run here.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::{fs, process};

use clap::Parser as _;
use linkerd_gate::cli::{Cli, Command, Refusal};

use crate::support::program;

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c}]}}\n";

/// A folder with a manifest, and with programs that print one where a command asks a cluster or the network.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(env!("CARGO_BIN_EXE_linkerd-gate"), bin.join("linkerd-gate")).unwrap();
        for (name, script) in [
            ("kubectl", format!("#!/bin/sh\necho '{POD}'\n")),
            ("curl", format!("#!/bin/sh\necho '{POD}'\n")),
            ("PROGRAM", format!("#!/bin/sh\necho '{POD}'\n")),
            ("sudo", format!("#!/bin/sh\necho '{POD}'\n")),
        ] {
            let path = bin.join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(folder.path().join("pod.yaml"), POD).unwrap();
        fs::write(folder.path().join("x"), POD).unwrap();
        fs::write(folder.path().join("namespace"), "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n")
            .unwrap();
        fs::write(folder.path().join("webhook"), "{apiVersion: v1, kind: List, items: []}\n").unwrap();
        fs::create_dir_all(folder.path().join("tests/explain")).unwrap();
        fs::write(folder.path().join("tests/explain/pod.json"), POD).unwrap();
        fs::create_dir(folder.path().join("src")).unwrap();
        fs::write(folder.path().join("src/pod.yaml"), POD).unwrap();
        fs::create_dir(folder.path().join("empty")).unwrap();
        fs::create_dir(folder.path().join("nested")).unwrap();
        fs::create_dir(folder.path().join("nested/below")).unwrap();
        fs::write(folder.path().join("nested/below/pod.yaml"), POD).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, script: &str) -> (Option<i32>, String) {
        let mut shell = process::Command::new("/bin/sh");
        shell.args(["-c", script]).current_dir(self.path()).env_clear();
        let output = shell.env("PATH", self.path().join("bin")).stdin(process::Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// What a script prints on standard output.
    fn out(&self, script: &str) -> String {
        let mut shell = process::Command::new("/bin/sh");
        shell.args(["-c", script]).current_dir(self.path()).env_clear();
        let output = shell.env("PATH", self.path().join("bin")).stdin(process::Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the command that a refusal ends in. Without a cluster, one about a cluster ends with 69; none is refused itself.
    fn follow(&self, refusal: &str) {
        let starts = [": linkerd-gate ", ": kubectl ", ": curl ", ": sudo ", ": PROGRAM "];
        let start = starts.iter().filter_map(|start| refusal.find(start)).min();
        let fix = &refusal[start.unwrap_or_else(|| panic!("no command: {refusal}")) + 2..];
        let fix = fix.lines().next().unwrap().split("; ").next().unwrap();
        let mut fix = fix.replace("NAMESPACE", "shop").replace("IMAGE", "i");
        for (flag, file) in [("--namespace-file", "namespace"), ("--webhook-file", "webhook"), ("-f", "pod.yaml")] {
            fix = fix.replace(&format!("{flag} FILE"), &format!("{flag} {file}"));
        }
        let (code, err) = self.run(&fix);
        assert!(matches!(code, Some(0 | 69)), "{refusal}\n{fix}: {code:?} {err}");
        assert!(code == Some(0) || err.contains("no access to a cluster"), "{fix}: {err}");
    }
}

/// Which of them it is: one that is new is a number here, and a line below.
fn number(refusal: &Refusal) -> usize {
    match refusal {
        Refusal::Nothing => 0,
        Refusal::FilesAndCluster { .. } => 1,
        Refusal::NeedsFiles(_) => 2,
        Refusal::CommandsWithoutMissed => 3,
        Refusal::MissedOf(_) => 4,
        Refusal::MissedAs(_) => 5,
        Refusal::MissedFails(_) => 6,
        Refusal::AllAndOne { .. } => 7,
        Refusal::NameInAll(_) => 8,
        Refusal::NameAndSelector { .. } => 9,
        Refusal::Kind { .. } => 10,
        Refusal::Name { .. } => 11,
        Refusal::NoSlash { .. } => 12,
        Refusal::Url(_) => 13,
        Refusal::File(_) => 14,
        Refusal::NoFile(_) => 15,
        Refusal::Folder(_) => 16,
    }
}

#[test]
fn what_is_typed_wrongly_is_answered_by_a_command_that_works() {
    let desk = Desk::new();
    let mut seen = BTreeSet::new();
    for typed in [
        "",
        "-o json",
        "-f x -A",
        "-f x pod/web",
        "-f x -n shop",
        "-f x -l a=b",
        "-f x --missed",
        "-R -A",
        "pod/web --namespace-file x",
        "-A --webhook-file x",
        "-A -o commands",
        "pod/web -n shop -o commands",
        "-f x -o commands",
        "deploy/web --missed",
        "--missed pods -n shop",
        "-A --missed -o sarif",
        "-A --missed -o name",
        "-A --missed --fail-on missing-entry",
        "--missed -n shop --fail-on warning,not-injected -o json",
        "-A -n shop",
        "pods -A -n shop",
        "pod/web -A",
        "pod web db -A",
        "pod/web -l app=web",
        "pod web -n shop -l app=web",
        "secret/web",
        "rollout/web -n x",
        "rollouts web",
        "services",
        "deploy,rollouts -n shop",
        "deployments.v2/web secrets/x",
        "pod/Web_1",
        "pod/Web_1 -n shop",
        "deploy web UPPER",
        "pod/",
        "pod/a/b",
        "pod/web db -n shop",
        "https://example.com/a.yaml",
        "http://example.com/pods -n shop",
        "pod.yaml",
        "./pod.yaml",
        "nested",
        ".",
        "-",
        "pod.yaml other.yaml",
        // These two are also where the test runs.
        "tests/explain/pod.json",
        "src",
        "./no/such.yaml",
        "no-such.yml",
        "/no/such",
        "~/no-such.json",
    ] {
        let words: Vec<&str> = typed.split_whitespace().collect();
        let (code, err) = desk.run(&format!("linkerd-gate explain {typed}"));
        assert_eq!(code, Some(2), "{typed}: {err}");
        desk.follow(&err);
        let arguments = Cli::try_parse_from(["linkerd-gate", "explain"].into_iter().chain(words)).unwrap();
        let Command::Explain(arguments) = arguments.command else { panic!("{typed}") };
        seen.extend(arguments.read().err().map(|refusal| number(&refusal)));
    }
    assert_eq!(seen, (0..17).collect(), "a refusal is not in this table");
}

#[test]
fn what_kubectl_takes_is_taken() {
    for typed in [
        "deploy,sts -n shop",
        "deploy,sts web db -n shop",
        "po,rs,rc,ds,job,cronjob -A",
        "pod/web deploy/web",
        "pods web db",
        "deployments.apps/web",
        "DEPLOY/web",
        "pods -A -l app=web",
    ] {
        let words: Vec<&str> = ["explain"].into_iter().chain(typed.split_whitespace()).collect();
        let (code, _, err) = program(&words, b"");
        assert!(code == Some(69) && err.contains("no access to a cluster"), "{typed}: {code:?} {err}");
    }
}

#[test]
fn an_unreadable_file_is_answered_with_a_working_command() {
    let desk = Desk::new();
    for (name, words) in [
        ("none.yaml", "none.yaml: it cannot be read: No such file or directory"),
        ("pod/web", "what is in the cluster goes without -f"),
        ("https://example.com/a", "a URL is not fetched"),
        ("nested", "the folder holds no .json, .yaml or .yml file"),
        ("empty -R", "neither the folder nor those below it"),
        ("pod.yaml/x", "it cannot be read: Not a directory"),
    ] {
        let (code, err) = desk.run(&format!("linkerd-gate explain -f {name}"));
        assert_eq!(code, Some(2), "{name}: {err}");
        assert!(err.contains(words) && !err.contains("os error"), "{name}: {err}");
        if !words.contains("Not a directory") {
            desk.follow(&err);
        }
    }
}

/// What is wrong with a document is said with its place, with what is wanted there, and with what prints or explains it.
#[test]
fn documents_that_are_refused_say_where_and_what_is_taken() {
    let desk = Desk::new();
    for (document, line, words) in [
        ("just text", 1, "no Kubernetes object, but a bare value"),
        ("metadata: {name: p}", 1, "it has no kind"),
        ("kind: Pod", 1, "it has no apiVersion"),
        ("apiVersion: 1\nkind: Pod", 1, "apiVersion is a number, and text is wanted"),
        ("apiVersion: v1\nkind: {}\n", 1, "kind is a map, and text is wanted"),
        ("apiVersion: v1\nkind: Pod", 1, "spec.containers is empty, and one container is the least"),
        ("apiVersion: apps/v1\nkind: Deployment", 1, "it has no spec.template"),
        ("apiVersion: batch/v1\nkind: CronJob", 1, "it has no spec.jobTemplate.spec.template"),
        ("apiVersion: v1\nkind: Pod\nspec: []", 3, "spec: it is a list, and a map is wanted"),
        ("apiVersion: v1\nkind: Pod\nspec:\n  containers: {}", 4, "spec.containers: it is a map, and a list is wanted"),
        (
            "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: c\n    ports: [{containerPort: http}]",
            6,
            "spec.containers[0].ports[0].containerPort: it is the text \"http\", and a whole number is wanted",
        ),
        ("apiVersion: v1\nkind: List\nitems: 7", 1, "items is no list"),
    ] {
        fs::write(desk.path().join("wrong.yaml"), document).unwrap();
        let (code, err) = desk.run("linkerd-gate explain -f wrong.yaml");
        assert_eq!(code, Some(2), "{document}: {err}");
        assert!(err.starts_with(&format!("wrong.yaml, document 1, line {line}: ")) && err.contains(words), "{err}");
        assert!(err.contains("kubectl "), "{document}: {err}");
        for rust in ["::", "i32", "struct ", "sequence", "expected", "Some("] {
            assert!(!err.contains(rust), "{rust}: {err}");
        }
    }
    // Text that YAML does not take for text is put into quotes, and that works.
    for value in ["on", "1", "0400", "1.5", "2026"] {
        let pod = |value: &str| POD.replace("name: p", &format!("name: p, annotations: {{a.example/b: {value}}}"));
        fs::write(desk.path().join("wrong.yaml"), pod(value)).unwrap();
        let (code, err) = desk.run("linkerd-gate explain -f wrong.yaml");
        let quoted = format!("write \"{value}\", in quotes");
        assert!(code == Some(2) && err.contains(&quoted) && err.contains("and text is wanted"), "{err}");
        fs::write(desk.path().join("wrong.yaml"), pod(&format!("\"{value}\""))).unwrap();
        assert_eq!(desk.run("linkerd-gate explain -f wrong.yaml").0, Some(0), "{value}");
    }
}

/// What cannot be parsed: the place, what is wrong in words for its author, and the command that prints the lines around it.
#[test]
fn documents_that_cannot_be_parsed_say_where_why_and_what_next() {
    let desk = Desk::new();
    for (document, line, words) in [
        ("metadata:\n\tname: p\n", 2, "a tab stands where YAML takes spaces only"),
        ("metadata:\n  name: p\n   labels: {}\n", 3, "a second `: ` belongs to the same value"),
        ("metadata:\n  name: p\n labels: {}\n", 3, "the line is not indented as the lines that it belongs to"),
        ("metadata:\n  name: p\n  note: see: this\n", 3, "a second `: ` belongs to the same value"),
        ("metadata:\n  name: p\n  labels\nkind: Pod\n", 3, "`: ` is missing behind a name"),
        ("metadata:\n  name: \"p\n", 2, "a quote is not closed"),
        ("metadata:\n  name: 'it's'\n", 2, "a quote within single quotes is written twice"),
        ("metadata:\n  name: \"C:\\d\"\n", 2, "write `\\\\`, or single quotes"),
        ("metadata: {name: p\nkind: Pod\n", 2, "between brackets, a comma is missing or a bracket is not closed"),
        ("metadata: {name: p]\n", 1, "`{` is closed by `]`"),
        ("metadata: {name: [a, b\n", 1, "`[` is not closed"),
        ("metadata:\n  name: @p\n", 2, "text that begins with `@` needs quotes"),
        ("metadata:\n  name: *p\n", 2, "text that begins with `*` needs quotes"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: p}\n", 1, "`{` is not closed"),
        ("metadata: - name: p\n", 1, "`- ` is not indented as the other items of its list"),
        ("{\"kind\": \"Pod\"\n \"metadata\": {}}\n", 2, "`,` or `}` is missing, here or on the line before"),
    ] {
        fs::write(desk.path().join("wrong.yaml"), format!("{POD}---\n{document}---\n{POD}")).unwrap();
        let script = "linkerd-gate explain -f wrong.yaml";
        let (code, err) = desk.run(script);
        assert_eq!(code, Some(2), "{document}: {err}");
        // The others are explained.
        assert_eq!(desk.out(script).matches("Pod default/p ").count(), 2, "{document}: {err}");
        let place = format!("wrong.yaml, document 2, line {}: this is n", line + 2);
        assert!(err.starts_with(&place) && err.contains(words), "{document}: {err}");
        let (_, command) = err.lines().next().unwrap().rsplit_once("; its lines: ").unwrap_or_else(|| panic!("{err}"));
        let shown = desk.out(&format!("PATH=$PATH:/usr/bin:/bin; {command}"));
        let wrong = document.lines().nth(line - 1);
        assert!(wrong.is_none_or(|line| shown.lines().any(|printed| printed == line)), "{command}: {shown}");
    }
    let (_, err) = desk.run("linkerd-gate explain -f - < wrong.yaml");
    assert!(err.contains("; with the input in a file, its lines: sed -n 2,5p FILE\n"), "{err}");
    fs::write(desk.path().join("wrong.yaml"), "{\"kind\": \"Pod\",\n \"metadata\": {\"name\":").unwrap();
    let (_, err) = desk.run("linkerd-gate explain -f wrong.yaml");
    assert!(
        err.contains(
            "this is neither JSON nor YAML: it ends before its last bracket is closed: it may have been cut off"
        ),
        "{err}"
    );
}

/// A program that writes to a named pipe is waited for; a pipe that no program opens does not hold a CI for ever (see the
/// module that opens it).
#[test]
fn a_named_pipe_is_read_once_its_writer_comes() {
    let desk = Desk::new();
    nix::unistd::mkfifo(&desk.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (code, err) =
        desk.run("(while read line; do echo \"$line\"; done < pod.yaml > pipe) & linkerd-gate explain -f pipe");
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn an_unusable_kubeconfig_is_reported_in_plain_words() {
    let desk = Desk::new();
    let write = |name: &str, text: &str| fs::write(desk.path().join(name), text).unwrap();
    write("broken", "a: [");
    write("vacant", "apiVersion: v1\nkind: Config\n");
    write(
        "one",
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: k, cluster: {server: 'https://127.0.0.1:1', certificate-authority: /no/ca}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nusers: [{name: u, user: {}}]\n",
    );
    write(
        "plugin",
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: k, cluster: {server: 'https://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nusers: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, args: ['-c', 'echo no token today >&2; exit 3'], interactiveMode: Never}}}]\n",
    );
    for (flags, words) in [
        ("--kubeconfig /no/such", "/no/such cannot be read: No such file or directory"),
        ("--kubeconfig broken", "not of the form that kubectl reads"),
        ("--kubeconfig vacant", "no current context"),
        ("--kubeconfig one --context other", "has no context other"),
        ("--kubeconfig one", "certificate-authority /no/ca cannot be read: No such file or directory"),
        ("--kubeconfig plugin", "exit status: 3): no token today"),
    ] {
        let (code, err) = desk.run(&format!("linkerd-gate explain -A {flags}"));
        assert_eq!(code, Some(69), "{flags}: {err}");
        assert!(err.contains(words), "{flags}: {err}");
        for rust in ["os error", "Output {", "\\\"", "'\"", "::"] {
            assert!(!err.contains(rust), "{rust}: {err}");
        }
    }
}
