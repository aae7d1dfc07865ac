//! Chance, by a seed: the same seed tells the same story on every machine.

use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to pick events.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// How a program of another version writes what leaders publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Ours,
    /// With a field that we do not know.
    More,
    /// In a format that we cannot read.
    Other,
}

// === impl Format ===

impl Format {
    pub fn apply(self, text: String) -> String {
        match self {
            Self::Ours => text,
            Self::More => text.replacen('{', r#"{"news":[1],"#, 1),
            Self::Other => text.replacen(r#""version":1"#, r#""version":9"#, 1),
        }
    }
}

// === impl Random ===

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..bound`. The bias of the remainder is far below what a story could show.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// Whether something happens that happens in `percent` of all cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A while, in whole microseconds.
    pub fn between(&mut self, shortest_millis: u64, longest_millis: u64) -> Duration {
        let span = (longest_millis - shortest_millis) * 1000 + 1;
        Duration::from_micros(shortest_millis * 1000 + self.next() % span)
    }
}
