//! Words that the texts of checks and of the boot report share.

/// `1 pod`, `3 pods`.
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}
