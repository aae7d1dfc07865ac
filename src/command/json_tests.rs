//! `docs/reference.md` names every field of what a command prints as JSON, and no other.

use std::collections::BTreeSet;

use serde_json::Value;

/// The fields of a value, as the page writes them: `nodes.open`, `categories[].checks[].code`.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, below)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            fields(below, &path, found);
            found.insert(path);
        }),
        Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

/// `printed` has every field that there can be.
pub(super) fn the_page_has_the_fields_of(command: &str, printed: &Value) {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md")).unwrap();
    let (_, section) = page.split_once(&format!("### `{command} -o json`\n")).unwrap();
    let section = section.split("\n#").next().unwrap_or_default();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let named: BTreeSet<String> = cells.flat_map(|cell| cell.split("`, `")).map(|it| it.replace('`', "")).collect();
    let mut found = BTreeSet::new();
    fields(printed, "", &mut found);
    assert_eq!(named, found, "{command}");
}
