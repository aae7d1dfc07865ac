//! Bytes become characters: UTF-8 or UTF-16, a buffer at a time.

use std::io;

use super::{Text, Trouble};

/// How many bytes are read at once.
const CHUNK: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Encoding {
    Utf8,
    Utf16 { big: bool },
    Utf32,
    Gzip,
}

// === impl Text ===

impl Text<'_> {
    /// Reads the next bytes of the source.
    pub(super) fn fill(&mut self) {
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
                self.trouble = Some(Trouble::Read(super::super::words(&error)));
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
        if self.encoding.is_none() && (self.rest.len() >= 4 || self.ended) {
            self.encoding = Some(Encoding::of(&self.rest));
        }
        match self.encoding {
            None => {}
            Some(Encoding::Utf8) => self.take_utf8(),
            Some(Encoding::Utf16 { big }) => self.take_utf16(big),
            Some(Encoding::Utf32) => {
                self.trouble = Some(Trouble::NotText(
                    "it is UTF-32, which kubectl does not read either: iconv -f UTF-32 -t UTF-8 FILE | linkerd-gate explain -f -",
                ));
            }
            Some(Encoding::Gzip) => {
                self.trouble = Some(Trouble::NotText("it is compressed: gzip -dc FILE | linkerd-gate explain -f -"));
            }
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
            self.trouble = Some(Trouble::NotText(
                "it holds a NUL byte, so it is no text: give YAML or JSON, as kubectl get pods -o yaml prints it",
            ));
            return;
        }
        self.buffer.push_str(text);
        self.rest.drain(..valid);
        if broken && self.trouble.is_none() {
            self.trouble = Some(Trouble::NotText(
                "it is not text in UTF-8 or UTF-16: save it as UTF-8 (iconv -f ISO-8859-1 -t UTF-8 FILE), or give YAML or JSON",
            ));
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
}

// === impl Encoding ===

impl Encoding {
    fn of(begin: &[u8]) -> Self {
        match begin {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Self::Utf32,
            [0xff, 0xfe, ..] => Self::Utf16 { big: false },
            [0xfe, 0xff, ..] => Self::Utf16 { big: true },
            // Without a mark: the first character of any manifest is an ASCII one.
            [first, 0, second, ..] if *first > 0 && *second > 0 => Self::Utf16 { big: false },
            [0, first, 0, ..] if *first > 0 => Self::Utf16 { big: true },
            _ => Self::Utf8,
        }
    }
}
