//! The page of figures: `docs/figures.md`, whose table one run writes, with the pictures beside it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::growth;
use crate::table::Table;

/// What stands before and after the table in the page.
const BEGIN: &str = "<!-- measured by make bench -->\n";
const END: &str = "<!-- end of what make bench measured -->\n";

/// Writes the table into `page`, and a picture for each of what a cluster has more and more of: `pictures/growth-pods.svg`, say.
///
/// # Errors
/// A page without the two marks, or a file that cannot be read or written.
pub fn write(page: &Path, table: &Table) -> Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = with_table(&text, &table.to_string())
        .with_context(|| format!("{} lacks the line {BEGIN:?} or {END:?} after it", page.display()))?;
    fs::write(page, text).with_context(|| format!("cannot write {}", page.display()))?;
    for of in ["pods", "nodes"] {
        let growths: Vec<_> = table.growths.iter().filter(|growth| growth.of == of).collect();
        if !growths.is_empty() {
            let file = page.with_file_name("pictures").join(format!("growth-{of}.svg"));
            fs::write(&file, growth::picture(&growths)).with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}

/// The page with this table between its marks; nothing where it has none.
fn with_table(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_one_before() {
        let page = format!("# Figures\n{BEGIN}old\n{END}more\n");
        let first = with_table(&page, "| new |").unwrap();
        assert_eq!(first, format!("# Figures\n{BEGIN}\n| new |\n{END}more\n"));
        assert_eq!(with_table(&first, "| new |").unwrap(), first);
        assert_eq!(with_table("no marks\n", "| new |"), None);
    }

    #[test]
    fn the_page_of_the_repository_has_the_marks() {
        let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/figures.md")).unwrap();
        assert!(with_table(&page, "").is_some());
    }
}
