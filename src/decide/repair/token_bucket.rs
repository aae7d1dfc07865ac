//! How many removals at most: a token bucket. Time is an argument.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// So many in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

/// Holds up to `burst` tokens, and gets one more each time the rate allows one.
///
/// Counted in whole tokens and instants, so that no rounding adds up: over any span of time `t`, no more than
/// `burst + t × rate` are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    burst: u32,
    each: Duration,
    tokens: u32,
    /// Since when the next token has been filling.
    since: Duration,
}

/// Lets one after the other through, as far apart as a rate says, however long what comes before each of them takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    each: Duration,
    next: Duration,
}

// === impl Pace ===

impl Pace {
    /// The first one may go at `now`.
    pub fn new(rate: Rate, now: Duration) -> Self {
        Self { each: rate.each(), next: now }
    }

    /// When the next one may go.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Notes that one goes at `now`.
    pub fn goes(&mut self, now: Duration) {
        self.next = now + self.each;
    }
}

// === impl Rate ===

impl Rate {
    /// `count` a second.
    pub const fn per_second(count: NonZeroU32) -> Self {
        Self { count, unit: Unit::Second }
    }

    /// The time in which one is allowed.
    pub fn each(self) -> Duration {
        let unit = match self.unit {
            Unit::Second => Duration::from_secs(1),
            Unit::Minute => Duration::from_mins(1),
            Unit::Hour => Duration::from_hours(1),
        };
        unit / self.count.get()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => 's',
            Unit::Minute => 'm',
            Unit::Hour => 'h',
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const COMPLAINT: &str = "is no rate: a whole number above 0, a slash, and s, m or h";
        let (count, unit) = text.split_once('/').ok_or(COMPLAINT)?;
        // `parse` alone would take `+5`.
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(COMPLAINT);
        }
        let count = count.parse().map_err(|_| COMPLAINT)?;
        let unit = match unit {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(COMPLAINT),
        };
        Ok(Self { count, unit })
    }
}

// === impl TokenBucket ===

impl TokenBucket {
    /// An empty bucket at `now`. A process that begins again and again must not get a burst each time.
    pub fn empty(rate: Rate, burst: NonZeroU32, now: Duration) -> Self {
        // A rate beyond one a nanosecond is no limit, and no division by nothing either.
        Self { burst: burst.get(), each: rate.each().max(Duration::from_nanos(1)), tokens: 0, since: now }
    }

    /// How many can be taken at `now`.
    pub fn available(&self, now: Duration) -> u32 {
        let gained = now.saturating_sub(self.since).as_nanos() / self.each.as_nanos();
        u32::try_from(gained).unwrap_or(u32::MAX).saturating_add(self.tokens).min(self.burst)
    }

    /// How many have to be there before so many can be taken together: more than it holds are taken in advance.
    pub fn needs(&self, count: usize) -> u32 {
        u32::try_from(count).unwrap_or(u32::MAX).min(self.burst)
    }

    /// Takes one at `now`; whether there was one.
    pub fn take(&mut self, now: Duration) -> bool {
        let some = self.available(now) > 0;
        if some {
            self.take_many(1, now);
        }
        some
    }

    /// Takes so many at `now`, whether they are there or not: those that are not are missing later.
    pub fn take_many(&mut self, count: usize, now: Duration) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let available = self.available(now);
        if available == self.burst {
            // Full: what has filled beyond is lost.
            self.since = self.since.max(now);
        } else {
            self.since += self.each * (available - self.tokens);
        }
        self.tokens = available.saturating_sub(count);
        self.since += self.each.saturating_mul(count.saturating_sub(available));
    }

    /// When the next one can be taken, if there is none at `now`.
    pub fn next(&self, now: Duration) -> Duration {
        self.when(1, now)
    }

    /// When there are as many as so many [need](Self::needs), if they are not there at `now`.
    pub fn when(&self, count: usize, now: Duration) -> Duration {
        let missing = self.needs(count).saturating_sub(self.tokens);
        if self.available(now) >= self.needs(count) { now } else { self.since + self.each.saturating_mul(missing) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(rate: &str, burst: u32) -> TokenBucket {
        TokenBucket::empty(rate.parse().unwrap(), NonZeroU32::new(burst).unwrap(), Duration::ZERO)
    }

    #[test]
    fn a_pace_counts_from_when_the_one_before_went() {
        let mut pace = Pace::new("10/m".parse().unwrap(), Duration::from_secs(5));
        assert_eq!(pace.next(), Duration::from_secs(5));
        pace.goes(Duration::from_secs(7));
        assert_eq!(pace.next(), Duration::from_secs(13), "a late one is followed by no two at once");
    }

    #[test]
    fn a_token_bucket_starts_empty_and_fills_up_to_its_burst() {
        let mut bucket = bucket("2/s", 3);
        assert!(!bucket.take(Duration::ZERO));
        assert_eq!(bucket.next(Duration::ZERO), Duration::from_millis(500));
        assert!(bucket.take(Duration::from_millis(500)) && !bucket.take(Duration::from_millis(999)));
        assert_eq!(bucket.available(Duration::from_mins(1)), 3);
    }

    #[test]
    fn a_rate_says_how_long_one_takes() {
        for (rate, millis) in [("2/s", 500), ("30/m", 2_000), ("6/h", 600_000)] {
            assert_eq!(bucket(rate, 1).next(Duration::ZERO), Duration::from_millis(millis), "{rate}");
        }
    }

    #[test]
    fn many_are_there_when_it_says_so_and_not_a_moment_before() {
        let mut bucket = bucket("2/s", 4);
        bucket.take_many(2, Duration::from_millis(1_700));
        let when = Duration::from_millis(2_500);
        assert_eq!(bucket.when(3, Duration::from_millis(1_800)), when);
        assert!(bucket.available(when) == 3 && bucket.available(Duration::from_millis(2_499)) == 2);
        // More than it holds need no more than it holds.
        assert_eq!(bucket.when(100, when), Duration::from_secs(3));
        bucket.take_many(100, Duration::from_secs(3));
        assert_eq!(bucket.when(1, Duration::from_secs(3)), Duration::from_millis(3_000 + 97 * 500));
    }

    #[test]
    fn a_rate_converts_to_text_and_back_and_a_bad_one_is_refused() {
        for text in ["5/s", "30/m", "1/h"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!("30/m".parse::<Rate>().unwrap().each(), Duration::from_secs(2));
        for text in ["", "5", "0/s", "-1/s", "+5/s", "5/d", "5/", "/s", "1.5/s", "5/s/m"] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_span_of_time_sees_more_than_its_share(
            per_minute in 1_u32..500,
            burst in 1_u32..20,
            pauses in proptest::collection::vec(0_u64..5_000, 1..200),
        ) {
            let mut bucket = bucket(&format!("{per_minute}/m"), burst);
            let each = Rate { count: NonZeroU32::new(per_minute).unwrap(), unit: Unit::Minute }.each();
            let mut now = Duration::ZERO;
            let mut taken = Vec::new();
            for pause in pauses {
                now += Duration::from_millis(pause);
                while bucket.take(now) {
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let share = u128::from(burst) + to.saturating_sub(*from).as_nanos() / each.as_nanos() + 1;
                    prop_assert!((last - first + 1) as u128 <= share, "{} from {from:?} to {to:?}", last - first + 1);
                }
            }
        }
    }
}
