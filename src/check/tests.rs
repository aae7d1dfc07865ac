use super::*;

#[test]
fn every_code_stands_once_and_is_explained() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/check.md")).unwrap();
    let mut ids: Vec<_> = code::ALL.iter().map(|code| code.id).collect();
    for code in code::ALL {
        let heading = format!("### {}\n", code.id);
        let (_, text) = page.split_once(&heading).unwrap_or_else(|| panic!("docs/check.md has no heading {}", code.id));
        let text = text.split("\n#").next().unwrap_or_default();
        for part in ["**Cause.**", "**Fix.**"] {
            assert!(text.contains(part), "{}: {part}", code.id);
        }
        assert!(text.contains(code.description), "{}: {}", code.id, code.description);
        assert!(code.url().ends_with(&format!("#{}", code.id.to_lowercase())));
    }
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert_eq!(page.matches("\n### LG").count(), count, "docs/check.md explains a code that is none");
}
