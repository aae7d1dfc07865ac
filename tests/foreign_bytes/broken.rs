//! Genuine texts, broken.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// Texts that mean something to one parser or another.
const WORDS: &[&str] = &[
    "",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "---\n",
    "- ",
    "&a ",
    "*a",
    "!!binary ",
    "\u{1b}[31m",
    "\u{0}",
    "\u{202e}",
    "\\u0000",
    "null",
    "true",
    "-1",
    "1e999",
    "18446744073709551616",
    "0.1",
    "\u{e9}",
    "enabled",
    "disabled",
    "open",
    "closed",
    "linkerd-proxy",
    "999999-12-31T23:59:59Z",
    "linkerd-gate/",
    "{{",
    "<<: ",
    "|\n",
    ">-\n",
    "#",
    "\t",
    "\r\n",
];

/// One way to break a text.
#[derive(Clone, Debug)]
enum Edit {
    Insert(Index, &'static str),
    Flip(Index, char),
    Cut(Index, usize),
    Double(Index, usize),
    /// Only where the text is JSON: a value, counted in depth first order, becomes another.
    Value(Index, Value),
    /// Only where the text is JSON: a value becomes null, which readers that have a default for what is missing may not take.
    Null(Index),
    /// Only where the text is JSON: a field of an object, or an element of a list, goes away.
    Remove(Index),
}

/// Texts of these, each broken a few times; some are left as they are.
pub fn broken(genuine: Vec<String>) -> impl Strategy<Value = String> {
    (select(genuine), vec(edit(), 0..6)).prop_map(|(text, edits)| edits.into_iter().fold(text, apply))
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        2 => (at(), select(WORDS)).prop_map(|(at, word)| Edit::Insert(at, word)),
        2 => (at(), any::<char>()).prop_map(|(at, char)| Edit::Flip(at, char)),
        2 => (at(), 1..40_usize).prop_map(|(at, length)| Edit::Cut(at, length)),
        1 => (at(), 1..40_usize).prop_map(|(at, length)| Edit::Double(at, length)),
        3 => (at(), value()).prop_map(|(at, value)| Edit::Value(at, value)),
        1 => at().prop_map(Edit::Null),
        2 => at().prop_map(Edit::Remove),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let words = select(WORDS).prop_map(|word| json!(word));
    let numbers = any::<i64>().prop_map(|number| json!(number));
    let few = select(vec![
        json!(null),
        json!(true),
        json!([]),
        json!({}),
        json!([null]),
        json!({"": ""}),
        json!(0),
        json!(1.5),
    ]);
    prop_oneof![words, numbers, few, "\\PC{0,12}".prop_map(|text| json!(text))]
}

fn apply(text: String, edit: Edit) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: &Index| if chars.is_empty() { 0 } else { index.index(chars.len()) };
    let of = |chars: &[char]| chars.iter().collect::<String>();
    match edit {
        Edit::Insert(index, word) => of(&chars[..at(&index)]) + word + &of(&chars[at(&index)..]),
        Edit::Flip(index, char) => {
            let mut flipped = chars.clone();
            if let Some(place) = flipped.get_mut(at(&index)) {
                *place = char;
            }
            of(&flipped)
        }
        Edit::Cut(index, length) => {
            let from = at(&index);
            of(&chars[..from]) + &of(&chars[chars.len().min(from + length)..])
        }
        Edit::Double(index, length) => {
            let from = at(&index);
            let to = chars.len().min(from + length);
            of(&chars[..to]) + &of(&chars[from..])
        }
        Edit::Value(index, value) => changed(&text, index, |place| *place = value.clone()).unwrap_or(text),
        Edit::Null(index) => changed(&text, index, |place| *place = Value::Null).unwrap_or(text),
        Edit::Remove(index) => without(&text, index).unwrap_or(text),
    }
}

fn changed(text: &str, index: Index, change: impl Fn(&mut Value)) -> Option<String> {
    let mut json: Value = serde_json::from_str(text).ok()?;
    let mut left = index.index(count(&json));
    visit(&mut json, &mut left, &change);
    Some(json.to_string())
}

/// The text without one of its fields or elements; nothing where it has none.
fn without(text: &str, index: Index) -> Option<String> {
    let mut json: Value = serde_json::from_str(text).ok()?;
    // All but the document itself.
    let parts = count(&json) - 1;
    let mut left = (parts > 0).then(|| index.index(parts))?;
    remove(&mut json, &mut left);
    Some(json.to_string())
}

/// Removes the field or element of that number, counted in depth first order. Returns whether it was found.
fn remove(value: &mut Value, left: &mut usize) -> bool {
    match value {
        Value::Array(list) => {
            for at in 0..list.len() {
                if *left == 0 {
                    list.remove(at);
                    return true;
                }
                *left -= 1;
                if remove(&mut list[at], left) {
                    return true;
                }
            }
        }
        Value::Object(fields) => {
            for name in fields.keys().cloned().collect::<Vec<_>>() {
                if *left == 0 {
                    fields.remove(&name);
                    return true;
                }
                *left -= 1;
                if fields.get_mut(&name).is_some_and(|field| remove(field, left)) {
                    return true;
                }
            }
        }
        _ => {}
    }
    false
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Changes the value of that number. Returns whether it was found.
fn visit(value: &mut Value, left: &mut usize, change: &impl Fn(&mut Value)) -> bool {
    if *left == 0 {
        change(value);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| visit(value, left, change)),
        Value::Object(fields) => fields.values_mut().any(|value| visit(value, left, change)),
        _ => false,
    }
}

#[test]
fn each_field_and_each_element_is_removed_in_its_turn() {
    let whole = json!({"a": [1, {"b": 2}], "c": 3});
    let without = |number: usize| {
        let mut json = whole.clone();
        assert!(remove(&mut json, &mut { number }));
        json.to_string()
    };
    let expected = [
        r#"{"c":3}"#,
        r#"{"a":[{"b":2}],"c":3}"#,
        r#"{"a":[1],"c":3}"#,
        r#"{"a":[1,{}],"c":3}"#,
        r#"{"a":[1,{"b":2}]}"#,
    ];
    assert_eq!((0..count(&whole) - 1).map(without).collect::<Vec<_>>(), expected);
}
