//! Whoever may write an object may choose its text: none of it acts on a reader.

use super::fixtures::Cluster;
use crate::report::{html, markdown};

/// A name, or a message, that would like to be more than text.
pub const HOSTILE: &str = "\u{1b}]0;owned\u{7}<script>alert(1)</script>\"'><img src=x onerror=alert(1)> | [x](https://evil.example) `@everyone` *b*\u{202e}\n# h";

pub fn cluster() -> Cluster {
    let mut cluster = Cluster::power_cut();
    cluster.gate("node-0", "GateOpenedUnproven", 400, &format!("open, unproven: {HOSTILE}"));
    cluster.gate(HOSTILE, "GateClosed", 401, HOSTILE);
    cluster.node(HOSTILE, 5, false);
    cluster.tainted();
    cluster.nodes[0]["metadata"]["annotations"]["linkerd-gate/override"] = HOSTILE.into();
    cluster.running("bare", Some(HOSTILE), 30);
    cluster.held(HOSTILE, 70);
    cluster.refused(HOSTILE, HOSTILE, 61, 90, 2);
    cluster.lease("linkerd-gate", HOSTILE, 20, 30);
    cluster
}

#[test]
fn markdown_is_neither_markup_nor_a_link_nor_a_call() {
    let page = markdown(&cluster().report());
    assert!(!page.contains(|character: char| character.is_control() && character != '\n'));
    assert!(!page.contains('\u{202e}'));
    // In code it is text; elsewhere it is escaped, and what is escaped is left out here.
    let (mut unescaped, mut characters) = (String::new(), page.chars());
    while let Some(character) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            _ => unescaped.push(character),
        }
    }
    let outside: String = unescaped.split('`').step_by(2).collect();
    for markup in ["<script", "<img", "](https", "https://", "@everyone"] {
        assert!(!outside.contains(markup), "{markup} in\n{outside}");
    }
    // A row of a table has as many cells as its head.
    for table in page.split("\n\n").filter(|block| block.starts_with('|')) {
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let mut lines = table.lines();
        let head = cells(lines.next().unwrap());
        lines.for_each(|line| assert_eq!(cells(line), head, "{line}"));
    }
    assert_eq!(page.lines().filter(|line| line.starts_with("# ")).count(), 1);
}

#[test]
fn html_has_no_tag_and_no_attribute_of_an_object() {
    let page = html(&cluster().report());
    assert!(!page.contains(|character: char| character.is_control() && character != '\n'));
    assert!(!page.contains('\u{202e}'));
    let known = "!doctype html head meta title style body main header h1 h2 p b code dl div dt dd small section figure figcaption span i svg path \
                 ul li ol time details summary table thead tbody tr th td footer";
    let attributes = "lang charset name content http-equiv class style role aria-label aria-hidden datetime data-label scope viewBox \
                      preserveAspectRatio d html";
    let mut tags = 0;
    for rest in page.split('<').skip(1) {
        tags += 1;
        let (tag, _) = rest.split_once('>').expect("each tag ends");
        let name = tag.trim_start_matches('/').split(' ').next().unwrap();
        assert!(known.split_whitespace().any(|it| it == name), "<{tag}>");
        // What is between the quotes is text; what is left are names of attributes.
        let bare: String = tag.split('"').step_by(2).collect();
        for attribute in bare.split([' ', '=']).skip(1).filter(|it| !it.is_empty() && *it != "/") {
            assert!(attributes.split_whitespace().any(|it| it == attribute), "{attribute} of <{tag}>");
        }
    }
    assert!(tags > 300 && page.contains("&lt;script&gt;"), "{tags}");
    assert!(!page.contains("url("), "nothing is loaded");
}

#[test]
fn a_command_of_a_hostile_owner_is_a_comment() {
    let report = cluster().report();
    let row = report.outside.unwrap().into_iter().find(|row| row.owner.contains("script")).unwrap();
    assert!(row.next.starts_with("# "), "{}", row.next);
}
