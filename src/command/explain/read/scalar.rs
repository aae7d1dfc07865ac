//! What a plain scalar means, by YAML 1.1 as kubectl reads it (go-yaml v2 `resolve.go`, which sigs.k8s.io/yaml holds a copy of).

use super::Value;

/// The meaning of a scalar without quotes and without a tag; nothing where it is text.
pub(super) fn resolve(text: &str) -> Option<Value> {
    // Most scalars are words, and end here.
    let begins = |byte: &u8| matches!(byte, b'~' | b'.' | b'+' | b'-' | b'0'..=b'9') || b"nNyYtToOfF".contains(byte);
    if text.as_bytes().first().is_some_and(|first| !begins(first)) {
        return None;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Some(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Some(Value::Bool(false));
        }
        ".nan" | ".NaN" | ".NAN" => return Some(Value::Float(f64::NAN)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(Value::Float(f64::INFINITY)),
        "-.inf" | "-.Inf" | "-.INF" => return Some(Value::Float(f64::NEG_INFINITY)),
        _ => {}
    }
    match text.as_bytes()[0] {
        b'.' => text.bytes().all(|byte| byte != b'_').then(|| float(text)).flatten(),
        b'+' | b'-' | b'0'..=b'9' => {
            let plain: std::borrow::Cow<'_, str> =
                if text.contains('_') { text.replace('_', "").into() } else { text.into() };
            integer(&plain).or_else(|| float(&plain))
        }
        _ => None,
    }
}

/// Go's `strconv.ParseInt(text, 0, 64)`: a leading 0 makes it octal.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let number = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        i64::try_from(-i128::from(number)).ok().map(Value::Signed)
    } else {
        Some(i64::try_from(number).map_or(Value::Unsigned(number), Value::Signed))
    }
}

/// A float as YAML 1.1 writes one: `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`. `08` is one, being no octal.
fn float(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, part)| (whole, Some(part)));
    let mantissa_fits =
        digits(whole) && fraction.is_none_or(digits) && !(whole.is_empty() && fraction.is_none_or(str::is_empty));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    if !mantissa_fits || !exponent_fits {
        return None;
    }
    text.parse().ok().map(Value::Float)
}

/// A map's key as JSON has it: text, whatever YAML took it for (`convertToJSONableObject` of sigs.k8s.io/yaml).
pub(super) fn key(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Bool(value) => Some(value.to_string()),
        Value::Signed(value) => Some(value.to_string()),
        Value::Unsigned(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_go_yaml_takes_them_for() {
        for (text, value) in [
            ("0400", Value::Signed(256)),
            ("0o400", Value::Signed(256)),
            ("0x1F", Value::Signed(31)),
            ("0b101", Value::Signed(5)),
            ("-0b101", Value::Signed(-5)),
            ("1_000", Value::Signed(1000)),
            ("+7", Value::Signed(7)),
            ("0", Value::Signed(0)),
            ("08", Value::Float(8.0)),
            ("18446744073709551615", Value::Unsigned(u64::MAX)),
            ("-9223372036854775808", Value::Signed(i64::MIN)),
            ("1e3", Value::Float(1000.0)),
            (".5", Value::Float(0.5)),
            ("1.", Value::Float(1.0)),
            ("yes", Value::Bool(true)),
            ("NO", Value::Bool(false)),
            ("~", Value::Null),
        ] {
            assert_eq!(resolve(text), Some(value), "{text}");
        }
        for text in
            ["nO", "oN", "tRUE", "nUll", "1.2.3", "1m", "0x", "-", "+", ".", "1e", "12:30:45", "2026-01-01", "_1"]
        {
            assert_eq!(resolve(text), None, "{text}");
        }
    }
}
