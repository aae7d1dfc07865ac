//! The canonical form of a state: two states with the same one go on alike.
//!
//! It is made from what `Debug` prints of the core's values, which shows every private field. Instants count by how far they are from now,
//! and alike once they are further back than anything looks; versions, renewals, proofs and uids count by which of them are equal.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// How far back an instant differs from an earlier one, by the field that it is in: as far as anything looks at it, and a tick more.
fn furthest(field: &str, of_agent: bool) -> Duration {
    Duration::from_secs(match field {
        // When a proof was taken, or seen first: it counts for 45 s.
        "latest" | "incarnation" => 50,
        "closed_since" | "missed_again_at" | "unexplained" => 45,
        // An owner rests for 30 s after a failure. That it is forgotten after ten minutes is not in the search.
        "acted_at" => 35,
        "meshed_at" => 10,
        // A replacement is waited for as long as that; a node waits for the controller for 15 s after its gate has opened.
        "since" if !of_agent => 65,
        // Leases: they last for 15 s.
        _ => 20,
    })
}

/// Fields that decide nothing here: constants, counters for messages, and instants of the loop around the core that are due at each tick.
const IGNORED: [&str; 17] = [
    "policy",
    "wake",
    "alarm",
    "inbox",
    "identity_due",
    "undisturbed",
    "dry_runs",
    "pause",
    "proven_again",
    "booted",
    "made",
    "created",
    "failure",
    "webhooks",
    "evictions",
    "node_view_seen",
    "format",
];

/// Instants that matter only while they are to come.
const DEADLINES: [&str; 8] = [
    "not_before",
    "look_at",
    "retry_at",
    "take_at",
    "stands_back_until",
    "again_at",
    "evict_again_at",
    "breaker_open_until",
];

/// How the reader writes the number of a node, wherever one is.
const NODES: [&str; 2] = ["<0>", "<1>"];

/// What equal values of a class have in common is only that they are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Version,
    Renewal,
    Transitions,
    Proof,
    Uid,
}

#[derive(Clone, Copy, Debug)]
enum Token {
    /// In microseconds, and how far back it counts.
    Instant(i64, i64),
    Deadline(i64),
    /// Of what is known only how it stands to the power cuts.
    Evidence(i64),
    Name(Class, u64),
}

/// The form of one part of a state, at any instant.
#[derive(Clone, Debug)]
pub struct Form {
    /// As it is, and with the two nodes exchanged.
    texts: [u128; 2],
    tokens: Box<[Token]>,
}

/// What forms are written into: to ask for the memory each time would take half of the search.
#[derive(Default)]
struct Buffers {
    text: String,
    out: String,
    exchanged: String,
    tokens: Vec<Token>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// A hash of 128 bits: two of 64 that begin differently.
pub struct Fingerprint([DefaultHasher; 2]);

/// Names values by the order in which they come up.
#[derive(Default)]
pub struct Names(Vec<(Class, u64)>);

struct Reader<'a> {
    text: &'a str,
    at: usize,
    field: &'a str,
    of_agent: bool,
    /// How many writes an elector has asked for: their numbers count from there.
    writes: u64,
    out: &'a mut String,
    tokens: &'a mut Vec<Token>,
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}

// === impl Fingerprint ===

impl Default for Fingerprint {
    fn default() -> Self {
        let mut other = DefaultHasher::new();
        other.write_u8(1);
        Self([DefaultHasher::new(), other])
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.iter_mut().for_each(|hasher| hasher.write(bytes));
    }

    fn finish(&self) -> u64 {
        self.0[0].finish()
    }
}

impl Fingerprint {
    /// All of it.
    pub fn wide(&self) -> u128 {
        u128::from(self.0[0].finish()) << 64 | u128::from(self.0[1].finish())
    }
}

// === impl Form ===

impl Form {
    pub fn of(part: &impl Debug) -> Self {
        Self::read(part, false)
    }

    /// The form of an agent: what it takes its node for follows from the rest.
    pub fn of_agent(agent: &impl Debug) -> Self {
        Self::read(agent, true)
    }

    fn read(part: &impl Debug, of_agent: bool) -> Self {
        BUFFERS.with_borrow_mut(|Buffers { text, out, exchanged, tokens }| {
            text.clear();
            out.clear();
            tokens.clear();
            let _ = write!(text, "{part:?}");
            let writes = text.find(", writes: ").map_or(0, |at| number(&text[at + 10..]).0);
            Reader { text, at: 0, field: "", of_agent, writes, out, tokens }.read();
            exchange(out, exchanged);
            let texts = [out, exchanged].map(|text| {
                let mut hasher = Fingerprint::default();
                text.hash(&mut hasher);
                hasher.wide()
            });
            Self { texts, tokens: tokens.as_slice().into() }
        })
    }

    /// Feeds what tells the part from others, with the nodes as they are or exchanged.
    pub fn hash(
        &self,
        exchanged: bool,
        now: Duration,
        cuts: [Duration; 2],
        names: &mut Names,
        hasher: &mut impl Hasher,
    ) {
        let now = micros(now);
        self.texts[usize::from(exchanged)].hash(hasher);
        for token in &self.tokens[..] {
            match *token {
                Token::Instant(at, furthest) => (at - now).max(-furthest).hash(hasher),
                Token::Deadline(at) => (at - now).max(0).hash(hasher),
                Token::Evidence(at) => cuts.iter().for_each(|cut| (at >= micros(*cut)).hash(hasher)),
                Token::Name(class, value) => names.of(class, value).hash(hasher),
            }
        }
    }
}

// === impl Names ===

impl Names {
    fn of(&mut self, class: Class, value: u64) -> usize {
        let known = self.0.iter().position(|known| *known == (class, value));
        known.unwrap_or_else(|| {
            self.0.push((class, value));
            self.0.len() - 1
        })
    }
}

/// Writes a text with the two nodes exchanged.
fn exchange(text: &str, exchanged: &mut String) {
    exchanged.clear();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        exchanged.push_str(&rest[..at]);
        let node = NODES.iter().position(|node| rest[at..].starts_with(node));
        exchanged.push_str(node.map_or("<", |node| NODES[1 - node]));
        rest = &rest[at + node.map_or(1, |node| NODES[node].len())..];
    }
    exchanged.push_str(rest);
}

/// The number that a text begins with, and its length.
fn number(text: &str) -> (u64, usize) {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].parse().unwrap_or_default(), end)
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn read(&mut self) {
        while let Some(next) = self.text.as_bytes().get(self.at) {
            match next {
                b'"' => self.quoted(),
                b'0'..=b'9' => self.digits(),
                b'_' | b'a'..=b'z' | b'A'..=b'Z' => self.identifier(),
                _ => {
                    let rest = &self.text.as_bytes()[self.at..];
                    let end = rest.iter().position(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'"'));
                    let end = self.at + end.unwrap_or(rest.len());
                    self.out.push_str(&self.text[self.at..end]);
                    self.at = end;
                }
            }
        }
    }

    fn identifier(&mut self) {
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| !byte.is_ascii_alphanumeric() && byte != b'_').unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        if rest[end..].starts_with(": ") {
            self.field = word;
            if IGNORED.contains(&word) || self.of_agent && word == "state" {
                self.at += 2;
                self.skip();
                return;
            }
        }
        self.out.push_str(word);
    }

    /// Leaves out one value.
    fn skip(&mut self) {
        let bytes = self.text.as_bytes();
        let mut depth = 0;
        while let Some(next) = bytes.get(self.at) {
            match next {
                b'"' => {
                    self.at = self.end_of_string();
                    continue;
                }
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' | b',' if depth == 0 => return,
                b')' | b']' | b'}' => depth -= 1,
                b' ' if depth == 0 && bytes.get(self.at + 1) == Some(&b'}') => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Where the string ends that begins here.
    fn end_of_string(&self) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        while bytes[at] != b'"' {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        at + 1
    }

    fn quoted(&mut self) {
        let end = self.end_of_string();
        let text = &self.text[self.at + 1..end - 1];
        self.at = end;
        self.out.push('"');
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits {
            let renewal = matches!(self.field, "renewed" | "renew_time");
            self.token(Token::Name(if renewal { Class::Renewal } else { Class::Version }, number(text).0));
        } else if let Some((before, after)) = text.split_once("pod-") {
            self.out.push_str(before);
            self.token(Token::Name(Class::Uid, number(after).0));
        } else if let Some((before, after)) = text.split_once(r#"\"proof\":"#) {
            let (proof, length) = number(after);
            self.out.push_str(before);
            self.token(Token::Name(Class::Proof, proof));
            self.out.push_str(&after[length..]);
        } else if let Some((boot, second)) = text.split_once('-').filter(|(boot, _)| boot.starts_with("boot")) {
            self.named(boot);
            self.token(Token::Instant(
                micros(Duration::from_secs(number(second).0)),
                micros(furthest("closed_since", true)),
            ));
        } else {
            self.named(text);
        }
        self.out.push('"');
    }

    /// A text in which a node may be named: `node-1`, `agent-1`, `boot1x3`.
    fn named(&mut self, text: &str) {
        let number = ["node-", "agent-", "boot"].into_iter().find_map(|word| Some(text.find(word)? + word.len()));
        match number.and_then(|at| Some((at, text.get(at..=at)?.parse::<usize>().ok()?))) {
            Some((at, node)) => {
                self.out.push_str(&text[..at]);
                self.out.push_str(NODES[node]);
                self.out.push_str(&text[at + 1..]);
            }
            None => self.out.push_str(text),
        }
    }

    fn digits(&mut self) {
        let rest: &'a str = &self.text[self.at..];
        let end = rest.bytes().position(|byte| !byte.is_ascii_digit() && byte != b'.').unwrap_or(rest.len());
        let unit = ["ns", "µs", "ms", "s"].into_iter().find(|unit| {
            rest[end..]
                .strip_prefix(unit)
                .is_some_and(|after| !after.starts_with(|letter: char| letter.is_alphanumeric()))
        });
        if let Some(unit) = unit {
            self.at += end + unit.len();
            let each = match unit {
                "ns" => 0.001,
                "µs" => 1.0,
                "ms" => 1e3,
                _ => 1e6,
            };
            #[expect(clippy::cast_possible_truncation, reason = "an instant of a world of minutes")]
            let at = (rest[..end].parse::<f64>().unwrap() * each).round() as i64;
            let token = match self.field {
                "evidence" => Token::Evidence(at),
                field if DEADLINES.contains(&field) => Token::Deadline(at),
                field => Token::Instant(at, micros(furthest(field, self.of_agent))),
            };
            return self.token(token);
        }
        let (value, length) = number(rest);
        self.at += length;
        match self.field {
            "node" if value < 2 => self.out.push_str(NODES[usize::try_from(value).unwrap()]),
            "version" => self.token(Token::Name(Class::Version, value)),
            "transitions" => self.token(Token::Name(Class::Transitions, value)),
            // The second of a pair: a proof's maker and its number.
            "proof" | "incarnation" => self.token(Token::Name(Class::Proof, value)),
            "number" | "accepted" | "writes" | "writing" => {
                let _ = write!(self.out, "{}", self.writes.saturating_sub(value).min(9));
            }
            _ => self.out.push_str(&rest[..length]),
        }
    }

    fn token(&mut self, token: Token) {
        self.out.push('@');
        self.tokens.push(token);
    }
}
