//! Objects as the API server writes them, for whoever reads manifests: `explain`.

use http::Request;
use kube::Client;
use kube::api::ListParams;
use serde::Deserialize;

use super::refused::Refused;

/// How many objects are asked for at once.
const PAGE: u32 = 500;

/// The head of a list: what follows it, if anything.
#[derive(Deserialize)]
struct List {
    metadata: Option<Head>,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// One object, as JSON.
///
/// # Errors
/// An object that is missing, or may not be read; `right` says which right that takes.
pub async fn object(client: &Client, path: &str, right: &str) -> Result<String, Refused> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| Refused::Unreachable(error.to_string()))?;
    client.request_text(request).await.map_err(|error| Refused::of(&error, right))
}

/// A list, page by page, each of them as JSON.
///
/// # Errors
/// As [`object`].
pub async fn list(
    client: &Client,
    path: &str,
    selector: Option<&str>,
    right: &str,
    mut take: impl FnMut(&str),
) -> Result<(), Refused> {
    let first = ListParams { label_selector: selector.map(ToOwned::to_owned), ..ListParams::default().limit(PAGE) };
    let mut parameters = first.clone();
    loop {
        let request = kube::core::Request::new(path).list(&parameters);
        let request = request.map_err(|error| Refused::Unreachable(error.to_string()))?;
        let page = client.request_text(request).await.map_err(|error| Refused::of(&error, right))?;
        take(&page);
        let list: List = serde_json::from_str(&page).map_err(|error| Refused::Unreachable(error.to_string()))?;
        match list.metadata.and_then(|head| head.next).filter(|token| !token.is_empty()) {
            Some(token) => parameters = first.clone().continue_token(&token),
            None => return Ok(()),
        }
    }
}
