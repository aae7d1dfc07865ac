//! The characters of one document, as the YAML scanner asks for them: out of the buffer, without a copy of each.

use granit_parser::{BorrowedInput, Input};

use super::text::Text;

/// The most characters that the scanner looks ahead; it needs 8 for an escape, and more for a deep indentation.
const WINDOW: usize = 16;

/// The characters of one document.
pub(super) struct Chars<'t, 'a> {
    text: &'t mut Text<'a>,
    /// How many bytes at hand are known to belong to the document.
    ahead: usize,
    /// Whether the document ends behind them.
    ends: bool,
    window: usize,
}

// === impl Chars ===

impl<'t, 'a> Chars<'t, 'a> {
    pub(super) fn new(text: &'t mut Text<'a>) -> Self {
        Self { text, ahead: 0, ends: false, window: 0 }
    }

    /// The bytes that are known to belong to the document. They end with a whole character.
    fn bytes(&self) -> &[u8] {
        self.text.available_bytes().get(..self.ahead).unwrap_or_default()
    }

    fn rest(&self) -> &str {
        self.text.available().get(..self.ahead).unwrap_or_default()
    }

    /// Reads on, if the document does.
    fn extend(&mut self) {
        if !self.ends {
            (self.ahead, self.ends) = self.text.reach(self.ahead);
        }
    }

    /// Takes so many bytes, which hold no line feed.
    fn take(&mut self, bytes: usize) {
        self.ahead -= bytes;
        if !self.text.take(bytes) {
            (self.ahead, self.ends) = (0, true);
        }
    }

    /// Takes bytes for as long as `wanted` says so; what it does with them is its own affair.
    fn take_while(&mut self, mut run: impl FnMut(&[u8]) -> usize) -> usize {
        let mut taken = 0;
        loop {
            let bytes = run(self.bytes());
            let all = bytes == self.ahead;
            self.take(bytes);
            taken += bytes;
            if !all || self.ends {
                return taken;
            }
            self.extend();
        }
    }
}

// === impl Chars ===

impl Input for Chars<'_, '_> {
    #[inline]
    fn lookahead(&mut self, count: usize) {
        self.window = self.window.max(count.min(WINDOW));
        // A character has at most 4 bytes.
        while self.ahead < self.window * 4 && !self.ends {
            self.extend();
        }
    }

    #[inline]
    fn buflen(&self) -> usize {
        self.window
    }

    #[inline]
    fn bufmaxlen(&self) -> usize {
        WINDOW
    }

    fn raw_read_ch(&mut self) -> char {
        let character = self.look_ch();
        self.skip();
        character
    }

    fn raw_read_non_breakz_ch(&mut self) -> Option<char> {
        let character = self.look_ch();
        if matches!(character, '\0' | '\n' | '\r') {
            return None;
        }
        self.skip();
        Some(character)
    }

    #[inline]
    fn skip(&mut self) {
        if self.ahead == 0 {
            self.extend();
        }
        match self.bytes().first() {
            None => {}
            Some(b'\n') => {
                self.ahead -= 1;
                if !self.text.take_line_feed() {
                    (self.ahead, self.ends) = (0, true);
                }
            }
            Some(byte) if byte.is_ascii() => self.take(1),
            Some(_) => self.take(self.peek().len_utf8()),
        }
    }

    fn skip_n(&mut self, count: usize) {
        for _ in 0..count {
            self.skip();
        }
    }

    #[inline]
    fn peek(&self) -> char {
        match self.bytes().first() {
            Some(byte) if byte.is_ascii() => char::from(*byte),
            _ => self.rest().chars().next().unwrap_or('\0'),
        }
    }

    #[inline]
    fn peek_nth(&self, n: usize) -> char {
        match self.bytes().get(..=n) {
            Some(bytes) if bytes.is_ascii() => char::from(bytes[n]),
            _ => self.rest().chars().nth(n).unwrap_or('\0'),
        }
    }

    fn skip_while_blank(&mut self) -> usize {
        self.take_while(|bytes| bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count())
    }

    fn fetch_block_scalar_line(&mut self, out: &mut String) -> usize {
        let before = out.len();
        self.take_while(|bytes| {
            let line = bytes.iter().take_while(|byte| !matches!(byte, b'\n' | b'\r' | 0)).count();
            // It ends before an ASCII character, so it is whole.
            out.push_str(std::str::from_utf8(&bytes[..line]).unwrap_or_default());
            line
        });
        out[before..].chars().count()
    }

    fn take_quoted_scalar_ascii_chunk(&mut self, single: bool) -> &str {
        let ordinary = |byte: &&u8| {
            matches!(byte, 0x21..=0x7e) && if single { **byte != b'\'' } else { !matches!(byte, b'"' | b'\\') }
        };
        let bytes = self.bytes().iter().take_while(ordinary).count();
        self.take(bytes);
        self.text.taken_last(bytes)
    }

    fn fetch_plain_scalar_chunk(&mut self, out: &mut String, _: usize, in_flow: bool) -> (bool, usize) {
        let before = out.len();
        loop {
            // A colon is judged by what follows it.
            self.lookahead(2);
            let (run, stops) = plain_run(self.rest(), self.ends, in_flow);
            out.push_str(&self.rest()[..run]);
            self.take(run);
            if stops || self.ends {
                return (true, out[before..].chars().count());
            }
        }
    }
}

impl<'i> BorrowedInput<'i> for Chars<'_, '_> {
    fn slice_borrowed(&self, _: usize, _: usize) -> Option<&'i str> {
        None
    }
}

/// How many bytes of the text belong to a plain scalar, and whether the scalar, or this run of it, ends behind them.
fn plain_run(text: &str, is_all: bool, in_flow: bool) -> (usize, bool) {
    let bytes = text.as_bytes();
    let flow = |byte: u8| in_flow && matches!(byte, b',' | b'[' | b']' | b'{' | b'}');
    let blank = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0);
    for (at, byte) in bytes.iter().copied().enumerate() {
        if blank(byte) || flow(byte) {
            return (at, true);
        }
        if byte == b':' {
            match bytes.get(at + 1) {
                Some(next) if blank(*next) || flow(*next) => return (at, true),
                Some(_) => {}
                None => return (at, is_all),
            }
        }
    }
    (bytes.len(), false)
}
