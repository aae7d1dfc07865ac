//! Files become trees of values: documents one by one, lists item by item, so that memory is bounded by one object.
//!
//! What is taken is what kubectl takes (k8s.io/apimachinery `util/yaml`, sigs.k8s.io/yaml): YAML 1.1 documents between lines
//! of `---`, streams of JSON objects, UTF-8 or UTF-16. What is wrong with one document leaves the others readable.

mod chars;
mod fields;
mod fifo;
mod json;
mod misfit;
mod node;
mod scalar;
pub(crate) mod source;
mod syntax;
mod text;
mod yaml;

use std::{fmt, io};

use self::fields::Fields;
pub(super) use self::misfit::Misfit;
pub(super) use self::node::{Node, Value};
use self::text::Template;
pub(super) use self::text::Text;

/// The most bytes that one file may hold: `kubectl get pods -A -o json` of 10,000 pods prints about 80 MB.
pub(super) const MAX_FILE: u64 = 256 << 20;

/// The most bytes that one object may hold. An API server stores at most 1.5 MiB of one.
const MAX_OBJECT: usize = 16 << 20;

/// The most values that one object may hold, in values that aliases repeat as well.
const MAX_VALUES: usize = 200_000;

/// How deeply values may be nested.
const MAX_DEPTH: usize = 100;

/// How many problems of one file are collected before the rest of it is given up.
const MAX_PROBLEMS: usize = 100;

/// Where something stood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// As it was given: `-` is the standard input.
    pub(super) file: String,
    /// From 1, counting the documents of the file that are not empty.
    pub(super) document: usize,
    /// From 1, in the file.
    pub(super) line: usize,
}

/// What is wrong with a document as such.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// From 1, in the file; nothing where it is all of the document.
    pub(super) line: Option<usize>,
    pub(super) message: String,
}

/// A key that stands more than once in one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    pub(super) line: usize,
    pub(super) key: String,
}

/// Takes in documents while they are read.
pub(super) trait Sink {
    /// A document begins.
    fn begin(&mut self, place: &Place);

    /// One item of the document's `items`. `header`: the document's fields that came before them.
    fn item(&mut self, item: Node, repeated: Vec<Repeated>, header: &[(String, Node)]);

    /// The rest of the document, without its items.
    fn end(&mut self, root: Node, repeated: Vec<Repeated>);

    /// The document that began is broken: whatever came of it does not count.
    fn abandon(&mut self);

    /// Something is wrong with the document, or with the file where there is no place.
    fn fault(&mut self, place: Option<&Place>, message: String);
}

/// What stands under a root's `items` goes to the sink one by one; everything else is kept.
struct Root<'a> {
    sink: &'a mut dyn Sink,
    fields: Fields,
    repeated: Vec<Repeated>,
    line: usize,
}

/// Reads all documents of a file.
pub(super) fn read(file: &str, text: &mut Text<'_>, sink: &mut dyn Sink) {
    let mut place = Place { file: file.to_owned(), document: 0, line: 1 };
    let mut faults = 0;
    while text.next_document() {
        place.document += 1;
        place.line = text.line();
        let (read, how_to_render) = if text.looks_like_json() {
            (json_then_yaml(text, &mut place, sink), None)
        } else {
            let how = text.unrendered().map(how_to_render);
            // More than one document where `...` ends them.
            (yaml::documents(text, &mut place, sink), how)
        };
        if text.trouble().is_some() {
            sink.abandon();
            break;
        }
        if let Err(Fault { line, message }) = read {
            let line = line.unwrap_or(place.line);
            let next = how_to_render.map_or_else(|| syntax::lines(file, line), str::to_owned);
            sink.fault(Some(&Place { line, ..place.clone() }), format!("{message}; {next}"));
            faults += 1;
        }
        if faults >= MAX_PROBLEMS {
            sink.fault(None, format!("{faults} of its documents are broken: the rest of it is not read"));
            return;
        }
        text.skip_document();
    }
    if let Some(trouble) = text.trouble() {
        let place = Place { line: text.line(), ..place.clone() };
        sink.fault(trouble.has_place().then_some(&place), trouble.to_string());
    } else if place.document == 0 {
        sink.fault(None, String::new());
    }
}

const fn how_to_render(template: Template) -> &'static str {
    match template {
        Template::Helm => {
            "if it is a template of a Helm chart, render it first: helm template CHART | linkerd-gate explain -f -"
        }
        Template::Shell => "if it is a template, fill it in first: envsubst < FILE | linkerd-gate explain -f -",
    }
}

/// A stream of JSON objects. What begins like JSON and is none may still be YAML, which JSON is a part of.
fn json_then_yaml(text: &mut Text<'_>, place: &mut Place, sink: &mut dyn Sink) -> Result<(), Fault> {
    text.record();
    let first = json::value(text, place, sink);
    match first {
        Ok(()) => {}
        Err(_) if text.trouble().is_some() => return Ok(()),
        Err(fault) => {
            sink.abandon();
            if !text.replay() {
                return Err(Fault { message: format!("this is not JSON: {}", fault.message), ..fault });
            }
            return yaml::documents(text, place, sink).map_err(|of_yaml| {
                if fault.message == syntax::NAME_WITHOUT_QUOTES {
                    return of_yaml;
                }
                Fault { message: format!("this is neither JSON nor YAML: {}", fault.message), ..fault }
            });
        }
    }
    while text.next_json()? {
        place.document += 1;
        place.line = text.line();
        json::value(text, place, sink).map_err(|fault| {
            sink.abandon();
            Fault { message: format!("this is not JSON: {}", fault.message), ..fault }
        })?;
    }
    Ok(())
}

// === impl Root ===

impl<'a> Root<'a> {
    fn new(sink: &'a mut dyn Sink, place: &Place) -> Self {
        sink.begin(place);
        Self { sink, fields: Fields::default(), repeated: Vec::new(), line: place.line }
    }

    fn item(&mut self, item: Node, repeated: Vec<Repeated>) {
        self.sink.item(item, repeated, self.fields.as_slice());
    }

    fn field(&mut self, key: String, node: Node) {
        if let Some(earlier) = self.fields.put(key, node) {
            self.repeated.push(earlier);
        }
    }

    fn end(self, value: Option<Value>) {
        let Self { sink, fields, repeated, line } = self;
        let value = value.unwrap_or_else(|| Value::Map(fields.into_vec()));
        sink.end(Node { line, plain: None, value }, repeated);
    }
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, document, line } = self;
        let file = if file == "-" { "standard input" } else { file };
        write!(f, "{file}, document {document}, line {line}")
    }
}

/// An error of the operating system in its own words, without its number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
