//! What is said of a value that an API server would not take.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

/// A value that is not what the API server wants at its place.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}{message}", prefix(path))]
pub(in super::super) struct Misfit {
    /// Names of fields and indices of items, the innermost first.
    path: Vec<String>,
    message: String,
    /// The line of the innermost value; 0 where it is not known.
    pub(in super::super) line: usize,
    /// Where text was wanted and something else stands there unquoted: how it is written.
    pub(in super::super) unquoted: Option<Box<str>>,
}

/// Fields that hold a map of whatever names a person chooses: `kubectl explain` knows nothing below them.
const MAPS: [&str; 6] = ["annotations", "labels", "limits", "matchLabels", "nodeSelector", "requests"];

fn prefix(path: &[String]) -> String {
    let mut text = String::new();
    for (place, segment) in path.iter().rev().enumerate() {
        if place > 0 && !segment.starts_with('[') {
            text.push('.');
        }
        text.push_str(segment);
    }
    if !text.is_empty() {
        text.push_str(": ");
    }
    text
}

// === impl Misfit ===

impl Misfit {
    /// The innermost value is where it went wrong; the others only lead there.
    pub(super) fn at(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }

    /// It stands there unquoted, and is written so.
    pub(super) fn unquoted_as(self, written: Option<Box<str>>) -> Self {
        Self { unquoted: written, ..self }
    }

    pub(super) fn within(mut self, segment: String) -> Self {
        self.path.push(segment);
        self
    }

    /// The field, as `kubectl explain` takes it: below an object of this kind, which may be one of a list's items.
    pub(in super::super) fn field(&self, kind: &str) -> String {
        let mut field = kind.to_ascii_lowercase();
        let fields = self.path.iter().rev().flat_map(|segment| segment.split('.'));
        let mut fields = fields.filter(|segment| !segment.starts_with('[')).peekable();
        // The list that it is an item of is none of its fields.
        if self.path.last().is_some_and(|first| first.starts_with("items[")) {
            fields.next();
        }
        for name in fields {
            field.push('.');
            field.push_str(name);
            if MAPS.contains(&name) {
                break;
            }
        }
        field
    }
}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: Vec::new(), message: message.to_string(), line: 0, unquoted: None }
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::custom(format_args!("it is {}, and {} is wanted", what(&found), wanted_by(wanted)))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::invalid_type(found, wanted)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("it has no {field}"))
    }
}

/// What stands there, in words for people.
fn what(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Bool(value) => format!("the boolean {value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("the text \"{text}\""),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        other => other.to_string(),
    }
}

/// What is wanted, where serde and k8s-openapi name types of Rust.
fn wanted_by(wanted: &dyn Expected) -> String {
    let wanted = wanted.to_string();
    match wanted.as_str() {
        "a string" => "text".to_owned(),
        "a boolean" => "a boolean".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        // A type of Kubernetes is called by its name.
        name if name.chars().next().is_some_and(char::is_uppercase) || name.starts_with("struct ") => {
            "a map".to_owned()
        }
        _ => wanted,
    }
}
