//! JSON with a version, as programs of different releases publish it in annotations of a Lease.

use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Why an annotation cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Its format is of a release that this one does not know.
    #[error("it is in format {found}, and this version reads {} to {}", read.start(), read.end())]
    Version {
        /// The format that it is in.
        found: u32,
        /// The formats that this release reads.
        read: RangeInclusive<u32>,
    },
    /// It is no such JSON.
    #[error("it cannot be read: {0}")]
    Content(String),
}

/// Reads an annotation in one of these formats.
///
/// # Errors
/// Another format, or no such JSON.
pub fn read<T: DeserializeOwned>(annotation: &str, read: RangeInclusive<u32>) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Format {
        version: u32,
    }
    let content = |error: serde_json::Error| Unreadable::Content(error.to_string());
    // The version first: another format may have other words for everything else.
    let Format { version: found } = serde_json::from_str(annotation).map_err(content)?;
    if !read.contains(&found) {
        return Err(Unreadable::Version { found, read });
    }
    serde_json::from_str(annotation).map_err(content)
}
