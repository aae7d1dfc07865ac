//! Times, durations and counts in words.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

pub use crate::check::phrase::count;

/// How many names of a list are written out.
pub const NAMED: usize = 5;

/// `3 min 10 s`, `2 h 5 min`, `0 s`. What is below nothing is nothing: clocks differ.
pub fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let parts = [(hours, "h"), (minutes, "min"), (rest, "s")];
    let mut parts =
        parts.into_iter().filter(|(count, _)| *count > 0).take(2).map(|(count, unit)| format!("{count} {unit}"));
    match (parts.next(), parts.next()) {
        (Some(one), Some(other)) => format!("{one} {other}"),
        (Some(one), None) => one,
        _ => "0 s".to_owned(),
    }
}

/// Seconds from one instant to another.
pub fn between(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

/// `03:12:05`, with the date before it where that is another day than `day`'s; UTC.
pub fn clock(at: Timestamp, day: Timestamp) -> String {
    let text = at.to_string();
    let time = text.split('T').nth(1).and_then(|time| time.get(..8)).unwrap_or_default();
    if date(at) == date(day) { time.to_owned() } else { format!("{} {time}", date(at)) }
}

/// `2026-11-30`, UTC.
pub fn date(at: Timestamp) -> String {
    at.to_string().split('T').next().unwrap_or_default().to_owned()
}

/// As a person types it: `1h`, `15m`, `1h30m`.
pub fn typed(since: SignedDuration) -> String {
    let seconds = since.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    parts.map(|(count, unit)| format!("{count}{unit}")).collect::<Vec<_>>().concat()
}

/// `a, b, c, d, e and 307 others`.
pub fn names<T: AsRef<str>>(all: &[T], number: usize) -> String {
    let mut shown: Vec<String> = all.iter().take(NAMED).map(|name| name.as_ref().to_owned()).collect();
    match number.saturating_sub(shown.len()) {
        0 => {
            let last = shown.pop().unwrap_or_default();
            if shown.is_empty() { last } else { format!("{} and {last}", shown.join(", ")) }
        }
        1 => format!("{} and 1 other", shown.join(", ")),
        more => format!("{} and {more} others", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, text) in [
            (-5, "0 s"),
            (0, "0 s"),
            (40, "40 s"),
            (190, "3 min 10 s"),
            (3600, "1 h"),
            (7505, "2 h 5 min"),
            (3605, "1 h 5 s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let day = "2026-11-30T03:12:05Z".parse().unwrap();
        assert_eq!(clock(day, day), "03:12:05");
        assert_eq!(clock("2026-11-29T23:59:59Z".parse().unwrap(), day), "2026-11-29 23:59:59");
    }

    #[test]
    fn long_lists_are_cut_and_counted() {
        let all = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(names(&all[..1], 1), "a");
        assert_eq!(names(&all[..3], 3), "a, b and c");
        assert_eq!(names(&all, 6), "a, b, c, d, e and 1 other");
        assert_eq!(names(&all, 312), "a, b, c, d, e and 307 others");
        assert_eq!((count(1, "pod"), count(0, "pod")), ("1 pod".to_owned(), "0 pods".to_owned()));
    }

    #[test]
    fn a_window_is_written_as_it_is_typed() {
        assert_eq!(typed(SignedDuration::from_mins(90)), "1h30m");
        assert_eq!(typed(SignedDuration::from_hours(24)), "24h");
    }
}
