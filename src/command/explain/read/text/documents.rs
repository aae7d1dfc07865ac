//! Where documents begin and end: at lines of three dashes, as kubectl splits a file (k8s.io/apimachinery `util/yaml`).

use super::{Fault, Text};

/// What is to be filled in before it is YAML.
#[derive(Clone, Copy)]
pub(in super::super) enum Template {
    /// By `helm template`.
    Helm,
    /// By `envsubst`.
    Shell,
}

// === impl Text ===

impl Text<'_> {
    /// Goes to the next document that is not empty; whether there is one.
    pub(in super::super) fn next_document(&mut self) -> bool {
        self.taken.set(0);
        loop {
            if !self.ensure(4) && self.available().is_empty() {
                return false;
            }
            if self.at_separator() {
                self.skip(3);
                self.line_start = false;
                continue;
            }
            if self.available().starts_with('\u{feff}') {
                self.skip('\u{feff}'.len_utf8());
                continue;
            }
            let Some(content) = self.content_of_line() else {
                if self.trouble.is_some() || self.available().is_empty() {
                    return false;
                }
                self.skip_line();
                continue;
            };
            // A directive is followed by a separator, which leads to its document.
            if content == '%' && self.line_start {
                self.skip_line();
                continue;
            }
            return true;
        }
    }

    /// Goes to the next object of a stream of JSON; whether there is one before the end or a separator.
    pub(in super::super) fn next_json(&mut self) -> Result<bool, Fault> {
        self.taken.set(0);
        self.recorded = None;
        loop {
            if !self.ensure(4) && self.available().is_empty() || self.at_separator() {
                return Ok(false);
            }
            match self.available().chars().next() {
                Some('{') => return Ok(true),
                Some(blank) if blank.is_whitespace() || blank == '\u{feff}' => self.skip(blank.len_utf8()),
                _ => {
                    let message = "after a JSON object stands what is neither another one nor ---".to_owned();
                    return Err(Fault { line: Some(self.line()), message });
                }
            }
        }
    }

    /// Goes to the end of the current document.
    pub(in super::super) fn skip_document(&mut self) {
        self.recorded = None;
        while self.trouble.is_none() {
            self.taken.set(0);
            if !self.ensure(4) && self.available().is_empty() || self.at_separator() {
                return;
            }
            self.skip_line();
        }
    }

    /// Whether what follows begins as a JSON object does, which a YAML map in braces rarely does.
    pub(in super::super) fn looks_like_json(&mut self) -> bool {
        let mut wanted = 64;
        loop {
            let more = self.ensure(wanted);
            if let Some(inner) = self.available().trim_start().strip_prefix('{') {
                let inner = inner.trim_start();
                if inner.starts_with(['"', '}']) {
                    return true;
                }
                if !inner.is_empty() {
                    return false;
                }
            } else if !self.available().trim_start().is_empty() {
                return false;
            }
            if !more || wanted > 4096 {
                return false;
            }
            wanted *= 2;
        }
    }

    /// Which kind of template the document that follows seems to be, as far as it is at hand.
    pub(in super::super) fn unrendered(&mut self) -> Option<Template> {
        self.ensure(4096);
        let document = self.available().split("\n---").next().unwrap_or_default();
        if document.contains("{{") { Some(Template::Helm) } else { document.contains("${").then_some(Template::Shell) }
    }

    /// How many of the bytes at hand belong to the current document, of which `known` are known to, and whether it ends behind
    /// them. Reads on until there are more, or it ends.
    pub(in super::super) fn reach(&mut self, known: usize) -> (usize, bool) {
        loop {
            let (reach, ends) = self.document(known);
            if ends || reach > known {
                return (reach, ends);
            }
            self.fill();
        }
    }

    /// The same of what is at hand already.
    fn document(&self, known: usize) -> (usize, bool) {
        let at_hand = self.available();
        let is_all = self.ended || self.trouble.is_some();
        if known == 0 && self.line_start {
            if at_hand.len() < 4 && !is_all {
                return (0, false);
            }
            if self.at_separator() {
                return (0, true);
            }
        }
        let bytes = at_hand.as_bytes();
        let mut from = known.saturating_sub(1);
        while let Some(found) = find(&bytes[from..], *b"\n---") {
            let separator = from + found + 1;
            match bytes.get(separator + 3) {
                Some(b' ' | b'\t' | b'\r' | b'\n') => return (separator, true),
                None => return (separator, is_all),
                Some(_) => from = separator,
            }
        }
        if is_all {
            return (bytes.len(), true);
        }
        // The beginning of a separator may be the last that is at hand.
        let tail = bytes.len().saturating_sub(3).max(known);
        let cut = bytes[tail..].iter().position(|byte| *byte == b'\n');
        (cut.map_or(bytes.len(), |at| tail + at + 1), false)
    }

    fn at_separator(&self) -> bool {
        self.line_start
            && self
                .available()
                .strip_prefix("---")
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    }

    /// The first character of this line that is neither blank nor part of a comment; nothing where there is none.
    fn content_of_line(&mut self) -> Option<char> {
        loop {
            let mut characters = self.available().chars();
            match characters.find(|character| !matches!(character, ' ' | '\t' | '\r')) {
                Some('\n' | '#') => return None,
                Some(other) => return Some(other),
                None => {}
            }
            let more = self.available().len() * 2 + 1;
            if more > self.limits.1 || !self.ensure(more) && self.available().len() * 2 < more {
                return None;
            }
        }
    }

    fn skip_line(&mut self) {
        loop {
            if let Some(end) = self.available().find('\n') {
                self.skip(end + 1);
                return;
            }
            self.skip(self.available().len());
            if !self.ensure(1) {
                return;
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        let skipped = &self.available()[..bytes];
        let lines = skipped.bytes().filter(|byte| *byte == b'\n').count();
        self.line_start = skipped.ends_with('\n') || (skipped == "\u{feff}" && self.line_start);
        self.line.set(self.line.get() + lines);
        self.at += bytes;
    }
}

/// Where the one stands in the other.
fn find(text: &[u8], wanted: [u8; 4]) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = text[from..].iter().position(|byte| *byte == wanted[0]) {
        if text[from + found..].starts_with(&wanted) {
            return Some(from + found);
        }
        from += found + 1;
    }
    None
}
