//! The bytes of one JSON value, for serde_json; kept, so that what turns out not to be JSON can be read again as YAML.

use std::io::{self, Read};

use super::Text;

/// How many bytes of a document are kept.
const RECORDED: usize = 256 << 10;

#[derive(Default)]
pub(super) struct Recorded {
    text: Vec<u8>,
    line: usize,
    overflown: bool,
}

/// The bytes of one JSON value.
pub(in super::super) struct JsonBytes<'t, 'a>(&'t mut Text<'a>);

// === impl Text ===

impl Text<'_> {
    /// From here on keeps what is taken, so that it can be taken again.
    pub(in super::super) fn record(&mut self) {
        self.recorded = Some(Recorded { line: self.line(), ..Recorded::default() });
    }

    /// Goes back to where [`Text::record`] was called; whether that was possible.
    pub(in super::super) fn replay(&mut self) -> bool {
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

    fn next_byte(&mut self) -> Option<u8> {
        let byte = self.buffer.as_bytes().get(self.at).copied()?;
        self.at += 1;
        self.line_start = byte == b'\n';
        if self.line_start {
            self.line.set(self.line.get() + 1);
        }
        if let Some(recorded) = &mut self.recorded {
            if recorded.text.len() < RECORDED {
                recorded.text.push(byte);
            } else {
                recorded.overflown = true;
            }
        }
        Some(byte)
    }
}

// === impl JsonBytes ===

impl<'t, 'a> JsonBytes<'t, 'a> {
    pub(super) fn new(text: &'t mut Text<'a>) -> Self {
        Self(text)
    }
}

impl Drop for JsonBytes<'_, '_> {
    /// A parser that found a fault has stopped at any byte. What reads on reads whole characters.
    fn drop(&mut self) {
        while !self.0.buffer.is_char_boundary(self.0.at) && self.0.next_byte().is_some() {}
    }
}

impl Read for JsonBytes<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let text = &mut *self.0;
        if text.at >= text.buffer.len() && !text.ensure(1) {
            return match &text.trouble {
                Some(trouble) => Err(io::Error::other(trouble.to_string())),
                None => Ok(0),
            };
        }
        let (Some(first), Some(byte)) = (into.first_mut(), text.next_byte()) else { return Ok(0) };
        *first = byte;
        if !text.took(1) {
            return Err(io::Error::other("too long"));
        }
        Ok(1)
    }
}
