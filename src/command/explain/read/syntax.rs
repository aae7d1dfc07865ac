//! Why a text is no YAML, or no JSON, in words for its author: the parsers' own are about tokens.

use granit_parser::ErrorKind;

/// What is wrong with the YAML, and what to write instead.
pub(super) fn of_yaml(kind: &ErrorKind) -> String {
    use ErrorKind as Is;
    let words = match kind {
        Is::TabNotAllowed
        | Is::TabInBlockIndentation
        | Is::TabInIndentation
        | Is::TabAtBlockScalarStart
        | Is::TabInPlainScalar
        | Is::InvalidBlockEntryWhitespace
        | Is::InvalidMappingValueWhitespace => "a tab stands where YAML takes spaces only",
        Is::UnclosedQuotedScalar | Is::DocumentIndicatorInQuotedScalar | Is::InvalidQuotedScalarIndent => {
            "a quote is not closed on its line, or on lines indented below it"
        }
        Is::UnclosedFlowCollection { open } => return format!("`{open}` is not closed"),
        Is::MismatchedFlowCollectionEnd { open, close } => return format!("`{open}` is closed by `{close}`"),
        Is::MisplacedFlowCollectionEnd => "a bracket is closed that was not opened",
        Is::ExpectedFlowMappingSeparator | Is::ExpectedFlowSequenceSeparator => {
            "between brackets, a comma is missing or a bracket is not closed"
        }
        Is::UnexpectedEofFlowMapping | Is::UnexpectedEofFlowSequence | Is::UnexpectedEofImplicitFlowMapping => {
            "it ends before its last bracket is closed"
        }
        Is::MappingValueNotAllowed | Is::InvalidColonPlacement => {
            "a second `: ` belongs to the same value: the line is indented more than its neighbours, text with `: ` needs \
             quotes, or a bracket before it is not closed"
        }
        Is::ExpectedBlockMappingKey
        | Is::ExpectedBlockSequenceEntry
        | Is::MappingKeyNotAllowed
        | Is::InvalidIndentation
        | Is::InvalidBlockScalarIndent
        | Is::InvalidFlowScalarIndent => "the line is not indented as the lines that it belongs to",
        Is::BlockSequenceEntryNotAllowed => {
            "`- ` is not indented as the other items of its list, or stands on the line of a name"
        }
        Is::SimpleKeyExpected | Is::InvalidSimpleKey => "`: ` is missing behind a name, here or on the line before",
        Is::InvalidTrailingSingleQuotedScalar => {
            "text follows a closing quote: a quote within single quotes is written twice"
        }
        Is::InvalidTrailingDoubleQuotedScalar => {
            "text follows a closing quote: a quote within double quotes is written with `\\` before it"
        }
        Is::UnknownQuotedScalarEscape | Is::InvalidQuotedScalarHexEscape | Is::InvalidUnicodeEscape => {
            "`\\` within double quotes begins what YAML does not know: write `\\\\`, or single quotes"
        }
        Is::UnexpectedCharacter { character: '`' } => "text that begins with a backquote needs quotes",
        Is::UnexpectedCharacter { character } => {
            return format!("text that begins with `{}` needs quotes", character.escape_default());
        }
        Is::UnknownAnchor => {
            "an alias `*NAME` stands before its anchor `&NAME`, or has none; text that begins with `*` needs quotes"
        }
        Is::MissingAnchorOrAliasName => "text that begins with `*` or `&` needs quotes",
        Is::UndeclaredTagHandle => "text that begins with `!` needs quotes",
        Is::ExpectedDocumentStart | Is::InvalidDocumentEnd => {
            "the line does not belong to what stands before it: it is indented differently, or `---` is missing"
        }
        Is::UnexpectedEof | Is::UnexpectedEofBlockMapping | Is::UnexpectedEofBlockSequence => "it ends too early",
        other => return other.to_string(),
    };
    words.to_owned()
}

/// The same of JSON.
pub(super) fn of_json(error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "it ends before its last bracket is closed: it may have been cut off, so print it again".to_owned();
    }
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if let Some(missing) = text.strip_prefix("expected ").filter(|missing| missing.starts_with('`')) {
        return format!("{missing} is missing, here or on the line before");
    }
    let words = match text {
        "trailing comma" => "a comma stands before a closing bracket",
        "expected value" => "a value is missing, or text stands without quotes",
        "key must be a string" => NAME_WITHOUT_QUOTES,
        "control character (\\u0000-\\u001F) found while parsing a string" => {
            "a line ends, or a tab stands, within quotes"
        }
        "invalid escape" => "`\\` begins what JSON does not know: write `\\\\`",
        other => other,
    };
    words.to_owned()
}

/// Said of what is YAML rather than JSON.
pub(super) const NAME_WITHOUT_QUOTES: &str = "a name stands without quotes";

/// The command that prints the lines around a fault.
pub(super) fn lines(file: &str, line: usize) -> String {
    let (first, last) = (line.saturating_sub(2).max(1), line + 1);
    let is_plain = |char: char| char.is_alphanumeric() || "-_./".contains(char);
    if !file.starts_with('-') && file.chars().all(is_plain) {
        format!("its lines: sed -n {first},{last}p {file}")
    } else {
        format!("with the input in a file, its lines: sed -n {first},{last}p FILE")
    }
}
