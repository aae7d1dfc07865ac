//! Bytes become text, a buffer at a time: UTF-8 or UTF-16, with an end to it.

mod documents;
mod encoding;
mod json_bytes;
mod trouble;

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;

pub(super) use self::documents::Template;
use self::encoding::Encoding;
use self::json_bytes::{JsonBytes, Recorded};
pub(super) use self::trouble::Trouble;
use super::{Fault, MAX_FILE, MAX_OBJECT};

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

    /// The line that is read, for callers that cannot ask while reading.
    pub(super) fn line_cell(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.line)
    }

    /// How much of the current object was taken: the caller sets it back after each object.
    pub(super) fn taken_cell(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.taken)
    }

    pub(super) fn bytes(&mut self) -> JsonBytes<'_, 'a> {
        JsonBytes::new(self)
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
