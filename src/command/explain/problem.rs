//! What is wrong with the input.

use super::{plain, read::Place};
use std::fmt;

/// One thing that is wrong with the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was given.
    pub file: String,
    /// The document in it, from 1, where it is known.
    pub document: Option<usize>,
    /// The line in the file, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    pub(super) fn of(file: &str, message: String) -> Self {
        Self { file: file.to_owned(), document: None, line: None, message }
    }

    pub(super) fn at(place: &Place, message: String) -> Self {
        Self { file: place.file.clone(), document: Some(place.document), line: Some(place.line), message }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = if self.file == "-" { "standard input" } else { &self.file };
        f.write_str(&plain(file))?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        // What was typed in is quoted in it: that must not pass for a line of ours.
        write!(f, ": {}", plain(&self.message))
    }
}
