//! Amounts as Kubernetes writes them (k8s.io/apimachinery `pkg/api/resource`): `500m`, `1.5`, `64Mi`, `2e3`.

/// The amount in billionths, the finest that Kubernetes keeps, rounded up. Nothing where this is no amount.
pub fn billionths(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end =
        unsigned.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() + fraction.len() > 24 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (base, power): (i128, i32) = match suffix {
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "" => (10, 0),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (2, 10),
        "Mi" => (2, 20),
        "Gi" => (2, 30),
        "Ti" => (2, 40),
        "Pi" => (2, 50),
        "Ei" => (2, 60),
        _ => (10, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let mut scaled = digits;
    let mut divide = 0_u32;
    let tens = 9 - i32::try_from(fraction.len()).ok()? + if base == 10 { power } else { 0 };
    if base == 2 {
        scaled = scaled.checked_mul(2_i128.checked_pow(power.unsigned_abs())?)?;
    }
    if tens >= 0 {
        scaled = scaled.checked_mul(10_i128.checked_pow(tens.unsigned_abs())?)?;
    } else {
        divide = tens.unsigned_abs();
    }
    let divisor = 10_i128.checked_pow(divide)?;
    let scaled = scaled / divisor + i128::from(scaled % divisor > 0);
    Some(if negative { -scaled } else { scaled })
}

#[cfg(test)]
mod tests {
    use super::billionths;

    #[test]
    fn amounts_compare_whatever_they_are_written_in() {
        for (one, other) in [
            ("500m", "0.5"),
            ("1", "1000m"),
            ("1Ki", "1024"),
            ("1.5Gi", "1536Mi"),
            ("2e3", "2k"),
            ("1E", "1e18"),
            ("+3", "3"),
            (".5", "500m"),
            // Finer than Kubernetes keeps: rounded up.
            ("0.1n", "1n"),
            ("1.5n", "2n"),
        ] {
            assert_eq!(billionths(one), billionths(other), "{one} {other}");
            assert!(billionths(one).is_some(), "{one}");
        }
        assert!(billionths("1Mi") > billionths("1M"));
        assert!(billionths("-1") < billionths("0"));
        for wrong in ["", "-", "m", "1 ", "1.2.3", "1mm", "1Kib", "one", ".", "1e", "0x1"] {
            assert_eq!(billionths(wrong), None, "{wrong}");
        }
    }
}
