//! What to write instead of a value that is refused: one value, which is taken.

use std::fmt::Write as _;

/// A duration that was most likely meant, in h, m and s; nothing where the text is too far from one.
///
/// `10` is ten seconds, as everywhere in Kubernetes; `5min`, `1.5h`, `2d` and `1500ms` are put into the units that are taken.
pub fn duration(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "ms" | "msec" | "millis" | "milliseconds" => 0.001,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    };
    let seconds = (number * unit).round();
    if !(1.0..=1e9).contains(&seconds) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 1e9, and rounded")]
    let seconds = seconds as u64;
    let mut written = String::new();
    for (count, unit) in [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')] {
        if count > 0 {
            let _infallible = write!(written, "{count}{unit}");
        }
    }
    Some(written)
}

/// The word of a list, such as `hold, exit, replace, open`, that was most likely meant; nothing where `accepted` is no such list.
pub(super) fn word(text: &str, accepted: &str) -> Option<String> {
    let words: Vec<&str> = accepted.split(", ").collect();
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    if words.len() < 2 || !words.iter().all(is_word) {
        return None;
    }
    let text = text.trim().to_ascii_lowercase();
    let text = match text.as_str() {
        "on" | "yes" | "1" | "enabled" => "true",
        "off" | "no" | "0" | "disabled" if words.contains(&"false") => "false",
        "false" | "no" | "0" | "disabled" if words.contains(&"off") => "off",
        "warning" => "warn",
        other => other,
    };
    words
        .iter()
        .map(|word| (strsim::normalized_damerau_levenshtein(text, word), *word))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, word)| word.to_owned())
}

/// What to write instead of `value`, where these values are accepted; `example` is taken, whatever was meant.
pub(super) fn of(value: &str, accepted: &str, example: &str) -> String {
    let duration = || accepted.contains("a duration of").then(|| duration(value)).flatten();
    word(value, accepted).or_else(duration).unwrap_or_else(|| example.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_keeps_its_number() {
        for (text, meant) in [
            ("10", Some("10s")),
            ("90", Some("1m30s")),
            ("5min", Some("5m")),
            ("5M", Some("5m")),
            ("1.5h", Some("1h30m")),
            ("1d", Some("24h")),
            ("1500ms", Some("2s")),
            ("soon", None),
            ("0", None),
            ("5months", None),
            ("-5s", None),
            ("", None),
        ] {
            assert_eq!(duration(text).as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn a_suggested_value_is_the_nearest_accepted_one() {
        let list = "hold, exit, replace, open";
        for (text, meant) in [("Hold", Some("hold")), ("replaced", Some("replace")), ("nonsense", None)] {
            assert_eq!(word(text, list).as_deref(), meant, "{text}");
        }
        assert_eq!(word("on", "true, false").as_deref(), Some("true"));
        assert_eq!(word("hold", "a duration of at least 1s, in s, m, h"), None);
    }
}
