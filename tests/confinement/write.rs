//! Writes as HTTP has them, and attacks in every form that a write can have.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, Request};
use kube::Client;
use serde_json::{Map, Value};

/// One request that writes.
#[derive(Clone, Debug)]
pub struct Write {
    method: Method,
    path: String,
    content_type: &'static str,
    parameters: Vec<&'static str>,
    body: Value,
}

/// How a change can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 6902.
    JsonPatch,
    /// RFC 7396.
    MergePatch,
    /// Kubernetes' own, which merges some lists by key.
    StrategicMergePatch,
    /// Server-side apply.
    Apply,
    /// The whole object.
    Replace,
}

/// Why a write was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// What the API server said.
    pub message: String,
}

// === impl Write ===

impl Write {
    /// A POST.
    pub fn create(path: &str, body: &Value) -> Self {
        Self::new(Method::POST, path, "application/json", body.clone())
    }

    /// A merge patch.
    pub fn merge(path: &str, body: &Value) -> Self {
        Self::new(Method::PATCH, path, "application/merge-patch+json", body.clone())
    }

    /// A strategic merge patch.
    pub fn strategic(path: &str, body: &Value) -> Self {
        Self::new(Method::PATCH, path, "application/strategic-merge-patch+json", body.clone())
    }

    /// A JSON patch.
    pub fn json_patch(path: &str, body: &Value) -> Self {
        Self::new(Method::PATCH, path, "application/json-patch+json", body.clone())
    }

    /// A server-side apply.
    pub fn apply(path: &str, body: &Value) -> Self {
        let mut write = Self::new(Method::PATCH, path, "application/apply-patch+yaml", body.clone());
        write.parameters.extend(["fieldManager=attacker", "force=true"]);
        write
    }

    /// A PUT.
    pub fn replace(path: &str, body: &Value) -> Self {
        Self::new(Method::PUT, path, "application/json", body.clone())
    }

    /// A DELETE.
    pub fn delete(path: &str) -> Self {
        Self::new(Method::DELETE, path, "application/json", Value::Null)
    }

    /// A DELETE with options: of an object, or of a collection.
    pub fn delete_with(path: &str, options: &Value) -> Self {
        Self::new(Method::DELETE, path, "application/json", options.clone())
    }

    /// A request that admission calls a connection.
    pub fn connect(path: &str) -> Self {
        Self::new(Method::GET, path, "application/json", Value::Null)
    }

    /// The same, without effect.
    pub fn dry_run(mut self) -> Self {
        // With a body, a deletion takes its options from there and from nowhere else.
        match &mut self.body {
            Value::Object(options) if self.method == Method::DELETE => {
                options.insert("dryRun".to_owned(), Value::from(vec!["All"]));
            }
            _ => self.parameters.push("dryRun=All"),
        }
        self
    }

    fn new(method: Method, path: &str, content_type: &'static str, body: Value) -> Self {
        Self { method, path: path.to_owned(), content_type, parameters: Vec::new(), body }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}) {}", self.method, self.path, self.content_type, self.body)
    }
}

// === impl Form ===

impl Form {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::JsonPatch, Self::MergePatch, Self::StrategicMergePatch, Self::Apply, Self::Replace];

    /// The write that makes `wanted` of `current`; nothing where this form cannot say it.
    pub fn write(self, path: &str, current: &Value, wanted: &Value) -> Result<Option<Write>> {
        let difference = difference(current, wanted);
        Ok(Some(match self {
            Self::JsonPatch => Write::json_patch(path, &serde_json::to_value(json_patch::diff(current, wanted))?),
            Self::MergePatch => Write::merge(path, &difference),
            Self::StrategicMergePatch => Write::strategic(path, &difference),
            // It takes away only what the same manager put there.
            Self::Apply if holds_null(&difference) => return Ok(None),
            Self::Apply => {
                let mut object = difference;
                for field in ["apiVersion", "kind"] {
                    object[field] = current[field].clone();
                }
                object["metadata"]["name"] = current["metadata"]["name"].clone();
                Write::apply(path, &object)
            }
            Self::Replace => Write::replace(path, wanted),
        }))
    }
}

/// The merge patch from one object to another.
fn difference(current: &Value, wanted: &Value) -> Value {
    let (Value::Object(current), Value::Object(wanted)) = (current, wanted) else { return wanted.clone() };
    let gone = current.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = wanted.iter().filter(|(key, value)| current.get(*key) != Some(value));
    let changed =
        changed.map(|(key, value)| (key.clone(), current.get(key).map_or(value.clone(), |old| difference(old, value))));
    Value::Object(gone.chain(changed).collect::<Map<_, _>>())
}

fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(holds_null),
        _ => false,
    }
}

// === impl Refusal ===

impl Refusal {
    /// Whether this policy refused it.
    pub fn by(&self, policy: &str) -> bool {
        self.message.contains(&format!("ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Sends it, and returns the object in the answer.
pub async fn send(client: &Client, write: &Write) -> Result<Value, Refusal> {
    let separator = if write.path.contains('?') { '&' } else { '?' };
    let uri = format!("{}{separator}{}", write.path, write.parameters.join("&"));
    let body = if write.body.is_null() { Vec::new() } else { write.body.to_string().into_bytes() };
    let request = Request::builder()
        .method(write.method.clone())
        .uri(uri)
        .header("content-type", write.content_type)
        .body(body)
        .map_err(|error| Refusal { code: 0, message: error.to_string() })?;
    client.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => Refusal { code: status.code, message: status.message },
        other => Refusal { code: 0, message: other.to_string() },
    })
}

/// Reads an object.
pub async fn get(client: &Client, path: &str) -> Result<Value> {
    Ok(client.request(Request::get(path).body(Vec::new())?).await?)
}

/// Makes a change in one form as `client`, anew for as long as somebody else is faster. Nothing where the form cannot say it.
pub async fn change(
    client: &Client,
    form: Form,
    path: &str,
    dry_run: bool,
    change: impl Fn(&mut Value),
) -> Result<Option<Result<Value, Refusal>>> {
    loop {
        let current = get(client, path).await?;
        let mut wanted = current.clone();
        change(&mut wanted);
        ensure!(wanted != current, "{path}: a change that changes nothing of {current:#}");
        let Some(write) = form.write(path, &current, &wanted)? else { return Ok(None) };
        match send(client, &if dry_run { write.dry_run() } else { write }).await {
            Err(Refusal { code: 409, .. }) => {}
            outcome => return Ok(Some(outcome)),
        }
    }
}

/// What becomes of an object.
pub type Change = fn(&mut Value);

/// Somebody who may make a change, and somebody who may not.
#[derive(Clone, Copy)]
pub struct Attack<'a> {
    /// Whose dry-run shows that the change itself is valid.
    pub anybody: &'a Client,
    /// Whose write is to be refused.
    pub attacker: &'a Client,
    /// By which policy.
    pub policy: &'a str,
}

// === impl Attack ===

impl Attack<'_> {
    /// A change in every form is refused with these words.
    pub async fn is_refused(self, what: &str, path: &str, wanted: impl Fn(&mut Value), words: &str) -> Result<()> {
        let mut forms = 0;
        for form in Form::ALL {
            let Some(valid) = change(self.anybody, form, path, true, &wanted).await? else { continue };
            valid.with_context(|| format!("{what}, {form:?}: nobody could do that"))?;
            let outcome = change(self.attacker, form, path, false, &wanted).await?;
            self.check(&format!("{what}, {form:?}"), &outcome.context("said in this form a moment ago")?, words)?;
            forms += 1;
        }
        ensure!(forms >= 4, "{what}: tried in {forms} forms only");
        Ok(())
    }

    /// One write is refused with these words.
    pub async fn write_is_refused(self, what: &str, write: &Write, words: &str) -> Result<()> {
        let valid = send(self.anybody, &write.clone().dry_run()).await;
        valid.with_context(|| format!("{what}: nobody could do that: {write}"))?;
        self.is_refused_alone(what, write, words).await
    }

    /// One write is refused with these words, whether or not somebody else could do it.
    pub async fn is_refused_alone(self, what: &str, write: &Write, words: &str) -> Result<()> {
        self.check(what, &send(self.attacker, write).await, words)
    }

    fn check(self, what: &str, outcome: &Result<Value, Refusal>, words: &str) -> Result<()> {
        match outcome {
            Ok(written) => bail!("{what}: it was not refused: {written:#}"),
            Err(refusal) => {
                ensure!(refusal.by(self.policy) && refusal.message.contains(words), "{what}: {refusal}");
                Ok(())
            }
        }
    }
}
