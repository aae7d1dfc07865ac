//! Text of objects, which whoever may write an object chose, made fit for a terminal, a shell's comment and a list of lines.

/// How many characters of one text are kept.
pub const LONGEST: usize = 1000;

/// Without what would move a cursor, end a line or turn the direction of writing, and cut after a thousand characters.
pub fn clean(text: &str) -> String {
    let mut cleaned: String = harmless(text).take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        cleaned.push('…');
    }
    cleaned
}

/// The same, never cut: half a command is another one.
pub fn clean_whole(text: &str) -> String {
    harmless(text).collect()
}

fn harmless(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter_map(|character| match character {
        '\n' | '\r' | '\t' => Some(' '),
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => None,
        _ if character.is_control() => None,
        _ => Some(character),
    })
}

/// Whether it is a name that a shell takes as it stands: of lower case letters, digits, `-` and `.`, with a letter or digit at
/// both ends (DNS-1123, which objects' names keep, and references to them need not). So `..` is none, which would lead a path
/// upwards.
pub fn is_name(text: &str) -> bool {
    let usual =
        |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || "-.".contains(character);
    let ends = [text.chars().next(), text.chars().last()];
    ends.iter().all(|end| end.is_some_and(|end| end.is_ascii_alphanumeric()))
        && text.len() <= 253
        && text.chars().all(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_a_terminal_and_nothing_is_endless() {
        assert_eq!(clean("a\u{1b}]0;owned\u{7}b\u{9b}c\u{202e}d\ne"), "a]0;ownedbcd e");
        assert_eq!(clean(&"x".repeat(5000)), format!("{}…", "x".repeat(LONGEST)));
        assert_eq!(clean_whole(&"x".repeat(5000)).len(), 5000);
        assert_eq!(clean("web-0"), "web-0");
    }

    #[test]
    fn a_shell_takes_a_name_as_it_stands() {
        for name in ["web", "web-7d4b9c", "a.b", "0"] {
            assert!(is_name(name), "{name}");
        }
        for other in ["", "x; touch /tmp/pwned #", "$(x)", "-o", "Web", "a b", "a\nb", "a/b", "ä"] {
            assert!(!is_name(other), "{other}");
        }
    }
}
