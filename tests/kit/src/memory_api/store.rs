//! The objects, the log of their changes, and selectors.

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::watch;

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The path of all objects of its kind, in all namespaces: `/api/v1/pods`.
    pub collection: String,
    /// Its namespace; empty where it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// One change, as a watch says it.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where.
    pub key: Key,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: &'static str,
    /// The object after it, or as it was last.
    pub object: Value,
    at: Instant,
}

/// What a request for several objects selects.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The path of all objects of the kind.
    pub collection: String,
    /// One namespace, or all of them.
    pub namespace: Option<String>,
    /// Labels and fields: where a value lies, whether it has to be equal, and the value.
    pub conditions: Vec<(Vec<String>, bool, String)>,
}

/// Objects by their place.
#[derive(Default)]
pub struct Store {
    inner: Mutex<Inner>,
    version: watch::Sender<usize>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Value>,
    /// Its length is the resource version.
    log: Vec<Change>,
}

// === impl Key ===

impl Key {
    /// The place of this object.
    pub fn of(collection: &str, object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self { collection: collection.to_owned(), namespace: text("namespace"), name: text("name") }
    }
}

// === impl Selection ===

impl Selection {
    fn takes(&self, key: &Key, object: &Value) -> bool {
        let matches = |(path, equal, wanted): &(Vec<String>, bool, String)| {
            let found = path.iter().fold(object, |value, step| &value[step.as_str()]);
            (found.as_str().unwrap_or_default() == wanted) == *equal
        };
        key.collection == self.collection
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.conditions.iter().all(matches)
    }
}

// === impl Store ===

impl Store {
    /// Stores an object, new or changed, and returns it with what a server adds.
    pub fn put(&self, key: &Key, object: Value) -> Value {
        Self::put_into(&mut self.lock(), &self.version, key, object)
    }

    /// The same, if what is there now is still what `allowed` accepts.
    pub fn put_if(&self, key: &Key, object: Value, allowed: impl FnOnce(Option<&Value>) -> bool) -> Option<Value> {
        let mut inner = self.lock();
        allowed(inner.objects.get(key)).then(|| Self::put_into(&mut inner, &self.version, key, object))
    }

    fn put_into(inner: &mut Inner, latest: &watch::Sender<usize>, key: &Key, mut object: Value) -> Value {
        let version = inner.log.len() + 1;
        let known = inner.objects.get(key).map(|known| known["metadata"].clone());
        let metadata = &mut object["metadata"];
        let before = known.clone().unwrap_or_else(
            || json!({"uid": format!("00000000-0000-4000-8000-{version:012x}"), "creationTimestamp": now()}),
        );
        for field in ["uid", "creationTimestamp"] {
            metadata[field] = before[field].clone();
        }
        if let Some(stored) = inner.objects.get(key) {
            metadata["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
            // A write that changes nothing is none, and no watch hears of it.
            if *stored == object {
                return object;
            }
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        inner.objects.insert(key.clone(), object.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        inner.log.push(Change { key: key.clone(), kind, object: object.clone(), at: Instant::now() });
        latest.send_replace(version);
        object
    }

    /// The object there.
    pub fn get(&self, key: &Key) -> Option<Value> {
        self.lock().objects.get(key).cloned()
    }

    /// Deletes the object there if it is still the one that `allowed` accepts, and returns it.
    pub fn delete(&self, key: &Key, allowed: impl FnOnce(&Value) -> bool) -> Option<Value> {
        let mut inner = self.lock();
        if !inner.objects.get(key).is_some_and(allowed) {
            return None;
        }
        let object = inner.objects.remove(key)?;
        let version = inner.log.len() + 1;
        let mut object = object;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        inner.log.push(Change { key: key.clone(), kind: "DELETED", object: object.clone(), at: Instant::now() });
        self.version.send_replace(inner.log.len());
        Some(object)
    }

    /// The selected objects, and the version at which they were so.
    pub fn list(&self, selection: &Selection) -> (Vec<Value>, usize) {
        let inner = self.lock();
        let selected = inner.objects.iter().filter(|(key, object)| selection.takes(key, object));
        (selected.map(|(_, object)| object.clone()).collect(), inner.log.len())
    }

    /// The selected objects as they were so long ago, and the version of that instant.
    pub fn list_as_of(&self, selection: &Selection, ago: Duration) -> (Vec<Value>, usize) {
        if ago.is_zero() {
            return self.list(selection);
        }
        let inner = self.lock();
        let Some(then) = Instant::now().checked_sub(ago) else { return (Vec::new(), 0) };
        let known = inner.log.partition_point(|change| change.at <= then);
        let mut objects = BTreeMap::new();
        for change in &inner.log[..known] {
            match change.kind {
                "DELETED" => objects.remove(&change.key),
                _ => objects.insert(&change.key, &change.object),
            };
        }
        let selected = objects.into_iter().filter(|(key, object)| selection.takes(key, object));
        (selected.map(|(_, object)| object.clone()).collect(), known)
    }

    /// The changes of selected objects after that version, once there is one, and the version up to which they go.
    pub async fn changes(&self, selection: &Selection, mut after: usize) -> (Vec<Change>, usize) {
        let mut version = self.version.subscribe();
        loop {
            {
                let inner = self.lock();
                let new = inner.log.get(after..).unwrap_or_default();
                let selected: Vec<_> =
                    new.iter().filter(|change| selection.takes(&change.key, &change.object)).cloned().collect();
                after = inner.log.len();
                if !selected.is_empty() {
                    return (selected, after);
                }
            }
            if version.wait_for(|version| *version > after).await.is_err() {
                std::future::pending::<()>().await; // The store is gone, and with it whoever awaits this.
            }
        }
    }

    /// Waits until the object there is another, or none, than the one of this uid; or until `is` holds of it.
    pub async fn until(&self, key: &Key, is: impl Fn(Option<&Value>) -> bool) {
        let mut version = self.version.subscribe();
        while !is(self.lock().objects.get(key)) {
            if version.changed().await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Now, as an API server writes it: without fractions of a second.
fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Selection {
        Selection { collection: "/api/v1/pods".to_owned(), ..Selection::default() }
    }

    fn pod(name: &str, phase: &str) -> (Key, Value) {
        let pod = json!({"metadata": {"namespace": "shop", "name": name}, "status": {"phase": phase}});
        (Key::of("/api/v1/pods", &pod), pod)
    }

    #[test]
    fn a_pod_keeps_its_uid_until_it_is_deleted() {
        let store = Store::default();
        let (key, object) = pod("web", "Pending");
        let first = store.put(&key, object.clone());
        assert_eq!(store.put(&key, object.clone()), first, "a write that changes nothing");
        let second = store.put(&key, pod("web", "Running").1);
        assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
        assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
        assert!(store.delete(&key, |_| false).is_none() && store.get(&key).is_some());
        assert!(store.delete(&key, |_| true).is_some() && store.get(&key).is_none());
        assert_ne!(store.put(&key, object)["metadata"]["uid"], first["metadata"]["uid"]);
    }

    #[tokio::test]
    async fn a_watch_gets_what_it_selects_from_its_version_on() {
        let store = Store::default();
        let (web, object) = pod("web", "Pending");
        store.put(&web, object);
        let (listed, version) = store.list(&pods());
        assert_eq!((listed.len(), version), (1, 1));
        let (db, object) = pod("db", "Running");
        store.put(&db, object);
        store.delete(&web, |_| true);
        let running = (vec!["status".to_owned(), "phase".to_owned()], true, "Running".to_owned());
        let all: Vec<_> = store.changes(&pods(), version).await.0.into_iter().map(|change| change.kind).collect();
        assert_eq!(all, ["ADDED", "DELETED"]);
        let narrow = Selection { conditions: vec![running], ..pods() };
        let (some, after) = store.changes(&narrow, version).await;
        assert_eq!((some.len(), &some[0].key, after), (1, &db, 3));
    }
}
