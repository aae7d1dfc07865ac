//! Bytes become text, a buffer at a time: UTF-8 or UTF-16, with an end to it.

use super::{Fault, MAX_FILE, MAX_OBJECT};
use std::{
    cell::Cell,
    fmt,
    io::{self, Read},
    rc::Rc,
};

/// How many bytes are read at once.
const CHUNK: usize = 64 << 10;

/// How much of a document is kept to be read again as YAML where it turns out not to be JSON.
const RECORDED: usize = 256 << 10;

/// Text that is read as it is needed.
pub(in super::super) struct Text<'a> {
    source: Box<dyn Read + 'a>,
    encoding: Option<Encoding>,
    /// Bytes that are no whole character yet.
    rest: Vec<u8>,
    buffer: String,
    at: usize,
    ended: bool,
    line_start: bool,
    read: u64,
    line: Rc<Cell<usize>>,
    /// How much of the current object was taken.
    taken: Rc<Cell<usize>>,
    recorded: Option<Recorded>,
    trouble: Option<Trouble>,
    /// The most bytes of the file, and of one object.
    limits: (u64, usize),
}

#[derive(Default)]
struct Recorded {
    text: Vec<u8>,
    line: usize,
    overflown: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Encoding {
    Utf8,
    Utf16 { big: bool },
}

/// Why a text cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Read(String),
    NotText(&'static str),
    FileTooLong,
    ObjectTooLong,
}

/// The bytes of one JSON value.
pub(super) struct Bytes<'t, 'a>(&'t mut Text<'a>);

// === impl Text ===

impl<'a> Text<'a> {
    pub(in super::super) fn new(source: impl Read + 'a) -> Self {
        Self::limited(source, MAX_FILE, MAX_OBJECT)
    }

    /// With other limits than those that are documented.
    pub(super) fn limited(source: impl Read + 'a, file: u64, object: usize) -> Self {
        Self {
            source: Box::new(source),
            encoding: None,
            rest: Vec::new(),
            buffer: String::new(),
            at: 0,
            ended: false,
            line_start: true,
            read: 0,
            line: Rc::new(Cell::new(1)),
            taken: Rc::default(),
            recorded: None,
            trouble: None,
            limits: (file, object),
        }
    }

    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    pub(super) fn line(&self) -> usize {
        self.line.get()
    }

    /// The line that is read, for whoever cannot ask while reading.
    pub(super) fn line_cell(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.line)
    }

    /// How much of the current object was taken: whoever has an object done sets it back.
    pub(super) fn taken_cell(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.taken)
    }

    pub(super) fn bytes(&mut self) -> Bytes<'_, 'a> {
        Bytes(self)
    }

    /// Goes to the next document that is not empty; whether there is one.
    pub(super) fn next_document(&mut self) -> bool {
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
    pub(super) fn next_json(&mut self) -> Result<bool, Fault> {
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
    pub(super) fn skip_document(&mut self) {
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
    pub(super) fn looks_like_json(&mut self) -> bool {
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

    /// Whether the document that follows, as far as it is at hand, has the braces of a chart that was not rendered.
    pub(super) fn seems_unrendered(&mut self) -> bool {
        self.ensure(4096);
        let available = self.available();
        available.split("\n---").next().is_some_and(|document| document.contains("{{"))
    }

    /// From here on keeps what is taken, so that it can be taken again.
    pub(super) fn record(&mut self) {
        self.recorded = Some(Recorded { line: self.line(), ..Recorded::default() });
    }

    /// Goes back to where [`Text::record`] was called; whether that was possible.
    pub(super) fn replay(&mut self) -> bool {
        let Some(Recorded { text, line, overflown: false }) = self.recorded.take() else { return false };
        let Ok(mut text) = String::from_utf8(text) else { return false };
        text.push_str(self.available());
        self.buffer = text;
        self.at = 0;
        self.line.set(line);
        self.taken.set(0);
        self.line_start = true;
        true
    }

    /// How many of the bytes at hand belong to the current document, of which `known` are known to, and whether it ends behind
    /// them. Reads on until there are more, or it ends.
    pub(super) fn reach(&mut self, known: usize) -> (usize, bool) {
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

    /// Takes so many bytes, which hold no line feed; whether the object is still of a size that is read.
    #[inline]
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        self.at += bytes;
        self.line_start = self.line_start && bytes == 0;
        self.took(bytes)
    }

    /// Takes a line feed, likewise.
    #[inline]
    pub(super) fn take_line_feed(&mut self) -> bool {
        self.at += 1;
        self.line_start = true;
        self.line.set(self.line.get() + 1);
        self.took(1)
    }

    #[inline]
    pub(super) fn available_bytes(&self) -> &[u8] {
        self.buffer.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// The last bytes that were taken.
    pub(super) fn taken_last(&self, bytes: usize) -> &str {
        self.buffer.get(self.at - bytes..self.at).unwrap_or_default()
    }

    #[inline]
    pub(super) fn available(&self) -> &str {
        self.buffer.get(self.at..).unwrap_or_default()
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

    /// Makes at least so many bytes available; whether there are so many.
    fn ensure(&mut self, bytes: usize) -> bool {
        while self.available().len() < bytes {
            if self.ended || self.trouble.is_some() {
                return false;
            }
            self.fill();
        }
        true
    }

    fn fill(&mut self) {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        let before = self.rest.len();
        self.rest.resize(before + CHUNK, 0);
        let read = loop {
            match self.source.read(&mut self.rest[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                self.trouble = Some(Trouble::Read(error.to_string()));
                return;
            }
        };
        self.rest.truncate(before + read);
        self.ended = read == 0;
        self.read += read as u64;
        if self.read > self.limits.0 {
            self.trouble = Some(Trouble::FileTooLong);
            return;
        }
        if self.encoding.is_none() && (self.rest.len() >= 3 || self.ended) {
            self.encoding = Some(Encoding::of(&self.rest));
        }
        match self.encoding {
            None => {}
            Some(Encoding::Utf8) => self.take_utf8(),
            Some(Encoding::Utf16 { big }) => self.take_utf16(big),
        }
    }

    fn take_utf8(&mut self) {
        let (valid, broken) = match std::str::from_utf8(&self.rest) {
            Ok(text) => (text.len(), false),
            // What is cut off at the end may be completed by the next read.
            Err(error) => (error.valid_up_to(), error.error_len().is_some() || self.ended),
        };
        let text = std::str::from_utf8(&self.rest[..valid]).unwrap_or_default();
        if text.contains('\0') {
            self.trouble = Some(Trouble::NotText("it holds a NUL byte, so it is no text"));
            return;
        }
        self.buffer.push_str(text);
        self.rest.drain(..valid);
        if broken && self.trouble.is_none() {
            self.trouble = Some(Trouble::NotText("it is not text in UTF-8 or UTF-16"));
        }
    }

    fn take_utf16(&mut self, big: bool) {
        let unit = |pair: &[u8]| {
            let pair = [pair[0], pair[1]];
            if big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
        };
        let mut units: Vec<u16> = self.rest.chunks_exact(2).map(unit).collect();
        // The first half of a pair waits for the second.
        if !self.ended && units.last().is_some_and(|last| (0xd800..0xdc00).contains(last)) {
            units.pop();
        }
        self.rest.drain(..units.len() * 2);
        match String::from_utf16(&units) {
            Ok(text) if !text.contains('\0') && (!self.ended || self.rest.is_empty()) => self.buffer.push_str(&text),
            _ => {
                self.trouble = Some(Trouble::NotText(
                    "it begins as UTF-16 and does not go on so: save it as UTF-8 (iconv -f UTF-16 -t UTF-8 FILE)",
                ));
            }
        }
    }

    #[inline]
    fn took(&mut self, bytes: usize) -> bool {
        let taken = self.taken.get() + bytes;
        self.taken.set(taken);
        if taken > self.limits.1 {
            self.trouble = Some(Trouble::ObjectTooLong);
        }
        self.trouble.is_none()
    }
}

// === impl Encoding ===

impl Encoding {
    fn of(begin: &[u8]) -> Self {
        match begin {
            [0xff, 0xfe, ..] => Self::Utf16 { big: false },
            [0xfe, 0xff, ..] => Self::Utf16 { big: true },
            // Without a mark: the first character of any manifest is an ASCII one.
            [first, 0, second, ..] if *first > 0 && *second > 0 => Self::Utf16 { big: false },
            [0, first, 0, ..] if *first > 0 => Self::Utf16 { big: true },
            _ => Self::Utf8,
        }
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

// === impl Bytes ===

impl Read for Bytes<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let text = &mut *self.0;
        if text.at >= text.buffer.len() && !text.ensure(1) {
            return match &text.trouble {
                Some(trouble) => Err(io::Error::other(trouble.to_string())),
                None => Ok(0),
            };
        }
        let (Some(first), Some(byte)) = (into.first_mut(), text.buffer.as_bytes().get(text.at).copied()) else {
            return Ok(0);
        };
        *first = byte;
        text.at += 1;
        text.line_start = byte == b'\n';
        if text.line_start {
            text.line.set(text.line.get() + 1);
        }
        if let Some(recorded) = &mut text.recorded {
            if recorded.text.len() < RECORDED {
                recorded.text.push(byte);
            } else {
                recorded.overflown = true;
            }
        }
        if !text.took(1) {
            return Err(io::Error::other("too long"));
        }
        Ok(1)
    }
}

// === impl Trouble ===

impl Trouble {
    /// Whether it is about one document, and not about the file.
    pub(super) fn has_place(&self) -> bool {
        matches!(self, Self::ObjectTooLong)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "it cannot be read: {error}"),
            Self::NotText(why) => f.write_str(why),
            Self::FileTooLong => write!(
                f,
                "it is larger than {} MiB, which is the most that is read of one file: give it in parts, \
                 for example one namespace at a time",
                MAX_FILE >> 20
            ),
            Self::ObjectTooLong => write!(
                f,
                "one object is larger than {} MiB, which no API server would store: the rest of this file is not read",
                MAX_OBJECT >> 20
            ),
        }
    }
}
