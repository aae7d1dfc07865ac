//! YAML becomes trees of values, as sigs.k8s.io/yaml has them.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Tag};

use super::chars::Chars;
use super::{Fault, Fields, MAX_DEPTH, MAX_VALUES, Node, Place, Repeated, Root, Sink, Text, Value, scalar, syntax};

/// Reads what stands between two separators: one document, or several that `...` ends.
pub(super) fn documents(text: &mut Text<'_>, place: &mut Place, sink: &mut dyn Sink) -> Result<(), Fault> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let lines_before = text.line() - 1;
    let taken = text.taken_cell();
    let parser = Parser::with_options(Chars::new(text), options);
    let mut builder = Builder { parser, taken, lines_before, anchors: BTreeMap::new(), values: 0, repeated: vec![] };
    let mut first = true;
    loop {
        match builder.next()? {
            None => return Ok(()),
            Some((Event::DocumentStart(..), _)) => {
                let (event, line) = builder.expect()?;
                if is_empty(&event) {
                    continue;
                }
                if !first {
                    place.document += 1;
                }
                first = false;
                place.line = line;
                let read = builder.root(event, line, place, sink);
                if read.is_err() {
                    sink.abandon();
                }
                read?;
                builder.anchors.clear();
            }
            Some(_) => {}
        }
    }
}

/// Whether a document consists of nothing.
fn is_empty(event: &Event<'_>) -> bool {
    matches!(event, Event::Scalar(text, ScalarStyle::Plain, 0, None) if scalar::resolve(text) == Some(Value::Null))
}

struct Builder<'t, 'a> {
    parser: Parser<'static, Chars<'t, 'a>>,
    /// How much of the text the current object took.
    taken: Rc<Cell<usize>>,
    lines_before: usize,
    anchors: BTreeMap<usize, Node>,
    values: usize,
    repeated: Vec<Repeated>,
}

impl Builder<'_, '_> {
    fn next(&mut self) -> Result<Option<(Event<'static>, usize)>, Fault> {
        match self.parser.next_event() {
            None => Ok(None),
            // Of the span, which is large, only the line is of use.
            Some(Ok((event, span))) => Ok(Some((event, self.lines_before + span.start.line()))),
            Some(Err(error)) => {
                let line = Some(self.lines_before + error.marker().line());
                let message = match error.kind() {
                    ErrorKind::RecursionLimitExceeded => too_deep(),
                    kind => format!("this is not YAML: {}", syntax::of_yaml(kind)),
                };
                Err(Fault { line, message })
            }
        }
    }

    fn expect(&mut self) -> Result<(Event<'static>, usize), Fault> {
        self.next()?.ok_or_else(|| Fault { line: None, message: "this is not YAML: it ends too early".to_owned() })
    }

    fn fault<T>(line: usize, message: impl Into<String>) -> Result<T, Fault> {
        Err(Fault { line: Some(line), message: message.into() })
    }

    fn count(&mut self, values: usize, line: usize) -> Result<(), Fault> {
        self.values += values;
        if self.values > MAX_VALUES {
            let what = "one object has more than 200,000 values, those that its aliases repeat among them: \
                        no API server would take it";
            return Self::fault(line, what);
        }
        Ok(())
    }

    /// The root of a document. The items of a list go to the sink one by one.
    fn root(&mut self, event: Event<'static>, line: usize, place: &Place, sink: &mut dyn Sink) -> Result<(), Fault> {
        self.values = 0;
        let mut root = Root::new(sink, place);
        if !matches!(event, Event::MappingStart(_, 0, _)) {
            let node = self.node(event, line, 0)?;
            if let Value::Map(fields) = node.value {
                for (key, node) in fields {
                    match node.value {
                        Value::List(items) if key == "items" => {
                            for item in items {
                                root.item(item, Vec::new());
                            }
                        }
                        _ => root.field(key, node),
                    }
                }
                root.repeated = std::mem::take(&mut self.repeated);
                root.end(None);
            } else {
                root.end(Some(node.value));
            }
            return Ok(());
        }
        loop {
            let (event, line) = self.expect()?;
            if event == Event::MappingEnd {
                break;
            }
            let (key, plain) = self.key(event, line)?;
            let (event, line) = self.expect()?;
            match event {
                Event::SequenceStart(_, 0, _) if key == "items" => loop {
                    let (event, line) = self.expect()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let item = self.node(event, line, 2)?;
                    root.item(item, std::mem::take(&mut self.repeated));
                    self.values = 0;
                    self.taken.set(0);
                },
                event => {
                    let node = self.node(event, line, 1)?;
                    root.repeated.append(&mut self.repeated);
                    if plain && key == "<<" {
                        for (key, node) in Self::merged(node, line)? {
                            root.field(key, node);
                        }
                    } else {
                        root.field(key, node);
                    }
                }
            }
        }
        root.end(None);
        Ok(())
    }

    fn node(&mut self, event: Event<'static>, line: usize, depth: usize) -> Result<Node, Fault> {
        if depth > MAX_DEPTH {
            return Self::fault(line, too_deep());
        }
        self.count(1, line)?;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = match meaning(&text, style, tag.as_deref()) {
                    None => Node { line, plain: None, value: Value::String(text.into_owned()) },
                    Some(value) => {
                        let plain = style == ScalarStyle::Plain && value != Value::Null;
                        Node { line, plain: plain.then(|| text.into()), value }
                    }
                };
                (node, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, line) = self.expect()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    items.push(self.node(event, line, depth + 1)?);
                }
                (Node { line, plain: None, value: Value::List(items) }, anchor)
            }
            Event::MappingStart(_, anchor, _) => (self.map(line, depth)?, anchor),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Self::fault(line, "this is not YAML: an alias stands within what it is an alias of");
                };
                let (values, depth_of_it) = (node.values(), node.depth());
                self.count(values, line)?;
                if depth + depth_of_it > MAX_DEPTH {
                    return Self::fault(line, too_deep());
                }
                return Ok(self.anchors[&anchor].clone());
            }
            _ => return Self::fault(line, "this is not YAML: a value is missing"),
        };
        if anchor > 0 {
            let values = node.values();
            self.count(values, line)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn map(&mut self, line: usize, depth: usize) -> Result<Node, Fault> {
        let mut fields = Fields::default();
        loop {
            let (event, at) = self.expect()?;
            if event == Event::MappingEnd {
                return Ok(Node { line, plain: None, value: Value::Map(fields.into_vec()) });
            }
            let (key, plain) = self.key(event, at)?;
            let (event, at) = self.expect()?;
            let node = self.node(event, at, depth + 1)?;
            if plain && key == "<<" {
                for (key, node) in Self::merged(node, at)? {
                    fields.put(key, node);
                }
            } else {
                self.repeated.extend(fields.put(key, node));
            }
        }
    }

    /// A map's key, and whether it stands without quotes.
    fn key(&mut self, event: Event<'static>, line: usize) -> Result<(String, bool), Fault> {
        let plain = matches!(event, Event::Scalar(_, ScalarStyle::Plain, ..));
        if let Event::Scalar(text, style, 0, None) = &event
            && meaning(text, *style, None).is_none()
        {
            self.count(1, line)?;
            let Event::Scalar(text, ..) = event else { unreachable!("it is one") };
            return Ok((Cow::into_owned(text), plain));
        }
        let node = self.node(event, line, 0)?;
        match scalar::key(node.value) {
            Some(key) => Ok((key, plain)),
            None => Self::fault(line, "a key is neither text nor a number: JSON has no such keys"),
        }
    }

    /// The fields that a merge key brings. Of several maps the first goes before the others.
    fn merged(node: Node, line: usize) -> Result<Vec<(String, Node)>, Fault> {
        let maps = match node.value {
            Value::Map(fields) => return Ok(fields),
            Value::List(items) => items,
            _ => return Self::fault(line, "<< merges maps, and here stands none"),
        };
        let mut merged = Fields::default();
        for map in maps.into_iter().rev() {
            let Value::Map(fields) = map.value else {
                return Self::fault(line, "<< merges maps, and here stands none");
            };
            for (key, node) in fields {
                merged.put(key, node);
            }
        }
        Ok(merged.into_vec())
    }
}

/// What a scalar means, where it is no text. A tag decides before quotes do.
fn meaning(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<Value> {
    let tag = tag.and_then(Tag::core_suffix);
    match (tag, style) {
        (None, ScalarStyle::Plain) | (Some("int" | "float" | "bool" | "null"), _) => scalar::resolve(text),
        _ => None,
    }
}

fn too_deep() -> String {
    format!("values are nested more than {MAX_DEPTH} deep, which no Kubernetes object is")
}
