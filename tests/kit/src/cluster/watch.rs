//! Waiting for what the API server says, without asking again and again.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write as _},
    time::Duration,
};

use anyhow::{Result, anyhow};
use futures::TryStreamExt as _;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
    core::Resource,
};
use serde::{Serialize, de::DeserializeOwned};

/// After a failed list or watch, the API server being away for instance.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Waits until there is an object called `name` for which `condition` holds, and returns it.
///
/// Every change is looked at as the API server tells of it. An API server that is away for a while is waited for.
/// After `patience` it fails, saying `what` was awaited and what the object was last seen as.
pub async fn until<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    patience: Duration,
    mut condition: impl FnMut(&K) -> bool,
) -> Result<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let found = |objects: &BTreeMap<String, K>| objects.values().find(|object| condition(object)).cloned();
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    until_any(api, &only, &format!("{name}: {what}"), patience, found).await
}

/// Waits until there is no object called `name`, or another one of that name whose uid is not `uid`.
pub async fn until_gone<K>(api: &Api<K>, name: &str, uid: &str, patience: Duration) -> Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let gone = |objects: &BTreeMap<String, K>| {
        let still_there = objects.values().any(|object| object.meta().uid.as_deref() == Some(uid));
        (!still_there).then_some(())
    };
    let only = ListParams::default().fields(&format!("metadata.name={name}"));
    until_any(api, &only, &format!("{name}: gone"), patience, gone).await
}

/// Waits until `found` returns something for the objects of this kind that `parameters` select, and returns that.
///
/// The objects are keyed `namespace/name`. Otherwise like [`until`].
pub async fn until_any<K, T>(
    api: &Api<K>,
    parameters: &ListParams,
    what: &str,
    patience: Duration,
    mut found: impl FnMut(&BTreeMap<String, K>) -> Option<T>,
) -> Result<T>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let mut objects = BTreeMap::new();
    let mut trouble = None;
    let follow = async {
        loop {
            match follow(api, parameters, &mut objects, &mut found).await {
                Ok(Some(value)) => return value,
                // The API server ends every watch after some minutes.
                Ok(None) => {}
                Err(error) => {
                    trouble = Some(error);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    };
    match tokio::time::timeout(patience, follow).await {
        Ok(value) => Ok(value),
        Err(_) => Err(last_seen(&objects, trouble.as_ref(), what, patience)),
    }
}

/// Lists, then watches from there. `None`: the watch ended.
async fn follow<K, T>(
    api: &Api<K>,
    parameters: &ListParams,
    objects: &mut BTreeMap<String, K>,
    found: &mut impl FnMut(&BTreeMap<String, K>) -> Option<T>,
) -> kube::Result<Option<T>>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let list = api.list(parameters).await?;
    *objects = list.items.into_iter().map(|object| (key(&object), object)).collect();
    if let Some(value) = found(objects) {
        return Ok(Some(value));
    }
    let version = list.metadata.resource_version.unwrap_or_default();
    let watch = WatchParams {
        label_selector: parameters.label_selector.clone(),
        field_selector: parameters.field_selector.clone(),
        ..WatchParams::default()
    };
    let mut events = std::pin::pin!(api.watch(&watch, &version).await?);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => objects.insert(key(&object), object),
            WatchEvent::Deleted(object) => objects.remove(&key(&object)),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        };
        if let Some(value) = found(objects) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn key<K: Resource>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn last_seen<K: Serialize>(
    objects: &BTreeMap<String, K>,
    trouble: Option<&kube::Error>,
    what: &str,
    patience: Duration,
) -> anyhow::Error {
    let mut words = format!("{what}: not within {} s", patience.as_secs());
    if let Some(trouble) = trouble {
        let _ = write!(words, "; the last trouble with the API server: {trouble}");
    }
    if objects.is_empty() {
        words += "; there was no such object";
    }
    for (key, object) in objects {
        // The status is what was waited for, nearly always; all of an object fills a screen.
        let value = serde_json::to_value(object).unwrap_or_default();
        let status = value.get("status").unwrap_or(&value);
        let _ = write!(words, "; last seen of {key}: {status}");
    }
    anyhow!(words)
}
