//! Files become documents: parts of a text that know where they stood.

use super::{
    Problem,
    node::{Misfit, Node, Value},
};
use std::fmt;

/// One document of a file: a YAML document that is not empty.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) place: Place,
    pub(super) root: Node,
    text: String,
    /// How many lines of the file come before this document's text.
    lines_before: usize,
}

/// Where something stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// As it was given: `-` is the standard input.
    pub(super) file: String,
    /// From 1, counting the documents of the file that are not empty.
    pub(super) document: usize,
    /// From 1, in the file.
    pub(super) line: usize,
}

// === impl Document ===

impl Document {
    /// All documents of a file. What can be read is read, whatever else is wrong: each document fails for itself.
    pub(super) fn all(file: &str, text: &str, problems: &mut Vec<Problem>) -> Vec<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut documents = Vec::new();
        for (place, (lines_before, text)) in split(text).into_iter().enumerate() {
            let place = Place { file: file.to_owned(), document: place + 1, line: lines_before + 1 };
            match parse(text) {
                Ok(root) if root.value == Value::Null => {}
                Ok(root) => {
                    let place = Place { line: lines_before + root.line, ..place };
                    documents.push(Self { place, root, text: text.to_owned(), lines_before });
                }
                Err((line, message)) => {
                    let hint = if text.contains("{{") {
                        ": if it is a template of a Helm chart, render it first: helm template CHART | linkerd-gate explain -f -"
                    } else {
                        ""
                    };
                    problems.push(Problem {
                        line: line.map(|line| lines_before + line),
                        ..Problem::at(&place, format!("this is not YAML: {message}{hint}"))
                    });
                }
            }
        }
        documents
    }

    /// Where a part of this document stands.
    pub(super) fn place_of(&self, node: &Node) -> Place {
        Place { line: self.lines_before + node.line, ..self.place.clone() }
    }

    /// A problem with something in this document.
    pub(super) fn misfit(&self, what: &str, misfit: &Misfit) -> Problem {
        let written = self.text.get(misfit.text.clone()).unwrap_or_default();
        let message = if misfit.unquoted && !written.is_empty() {
            format!(
                "this is no {what}: {misfit}: YAML takes {written} for more than text, so write \"{written}\", in quotes"
            )
        } else {
            format!("this is no {what}: {misfit}")
        };
        Problem { line: Some(self.lines_before + misfit.line), ..Problem::at(&self.place, message) }
    }
}

/// Cuts a text at lines that begin with `---`, which nothing else in YAML may, and drops what has no content.
///
/// Each piece comes with the number of lines before it. Cutting here rather than in the parser lets one broken document leave
/// the others readable, and is how kubectl does it.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut pieces = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let (mut content, mut directive) = (false, false);
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if rest.is_some() {
            if content {
                pieces.push((lines_before, &text[start..offset]));
            }
            if content || !directive {
                (start, lines_before) = (offset, number);
            }
            (content, directive) = (false, false);
        }
        let line_content = rest.unwrap_or(line).trim_start();
        directive |= rest.is_none() && !content && line.starts_with('%');
        content |=
            !(line_content.is_empty() || line_content.starts_with('#') || (rest.is_none() && line.starts_with('%')));
        offset += line.len();
    }
    if content || directive {
        pieces.push((lines_before, &text[start..]));
    }
    pieces
}

fn parse(text: &str) -> Result<Node, (Option<usize>, String)> {
    let options = serde_saphyr::options! {
        // Snippets are several lines; one line per problem is the rule here.
        with_snippet: false,
        // The library's limits are for strangers' input. This is a file that a person names, and `kubectl get pods -A -o yaml`
        // of a large cluster is one document of millions of nodes. Depth and aliases stay limited.
        budget: serde_saphyr::budget! {
            max_events: 100_000_000,
            max_nodes: 50_000_000,
            max_total_scalar_bytes: 4 << 30,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let location = error.location();
        let mut message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
        if let Some(location) = location {
            // The line within this piece; the caller knows the one within the file.
            let suffix = format!(" at line {}, column {}", location.line(), location.column());
            if let Some(rest) = message.strip_suffix(&suffix) {
                message = rest.to_owned();
            }
        }
        (location.and_then(|location| usize::try_from(location.line()).ok()), message)
    })
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, document, line } = self;
        let file = if file == "-" { "standard input" } else { file };
        write!(f, "{file}, document {document}, line {line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<(usize, &str)> {
        split(text)
    }

    #[test]
    fn a_text_is_cut_where_documents_begin() {
        assert_eq!(pieces("a: 1\n---\nb: 2\n"), [(0, "a: 1\n"), (1, "---\nb: 2\n")]);
        assert_eq!(pieces("a: 1\n--- # two\nb: 2"), [(0, "a: 1\n"), (1, "--- # two\nb: 2")]);
        assert_eq!(pieces("a: 1\r\n---\r\nb: 2\r\n"), [(0, "a: 1\r\n"), (1, "---\r\nb: 2\r\n")]);
        assert_eq!(pieces("a: 1\n--- {b: 2}\n"), [(0, "a: 1\n"), (1, "--- {b: 2}\n")]);
    }

    #[test]
    fn empty_documents_are_none() {
        assert_eq!(pieces(""), []);
        assert_eq!(pieces("# nothing\n---\n\n---\n# here\n---"), []);
        assert_eq!(pieces("---\n---\na: 1\n---\n---\n"), [(1, "---\na: 1\n")]);
    }

    #[test]
    fn what_only_looks_like_a_separator_is_none() {
        for text in ["a: |\n  ---\n", "a: '\n  ---'\n", "----\n", "---a\n", " ---\n"] {
            assert_eq!(pieces(text), [(0, text)]);
        }
    }

    #[test]
    fn a_directive_stays_with_its_document() {
        assert_eq!(pieces("%YAML 1.2\n---\na: 1\n---\nb: 2\n"), [(0, "%YAML 1.2\n---\na: 1\n"), (3, "---\nb: 2\n")]);
    }

    #[test]
    fn a_broken_document_is_told_by_its_number_and_line_and_leaves_the_others() {
        let mut problems = Vec::new();
        let documents = Document::all("x.yaml", "a: 1\n---\nb: [1\n---\nc: 3\n", &mut problems);
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].place.to_string(), "x.yaml, document 3, line 5");
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["x.yaml, document 2, line 3: this is not YAML: unclosed bracket '['"]
        );
    }
}
