//! What an API server was asked, by its own audit log.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

/// A request that an API server was sent, whatever it answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditedRequest {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// The API group, empty for the core's.
    pub group: String,
    /// The resource, `pods` for instance; empty for paths such as `/version`.
    pub resource: String,
    /// What of the object: `status`, `token`, …; empty for the object itself.
    pub subresource: String,
    /// The namespace; empty where there is none.
    pub namespace: String,
    /// The object's name as the path says it; empty for a list, and for a create.
    pub name: String,
    /// The path and the query, as they were sent.
    pub uri: String,
    /// Whether the query asked that nothing be written (`dryRun=All`).
    pub dry_run: bool,
    /// Who asked: `system:serviceaccount:NAMESPACE:NAME` for a service account.
    pub user: String,
    /// The pod that the token was bound to, where it was bound to one.
    pub pod: Option<String>,
    /// The node of that pod, as the token says it.
    pub node: Option<String>,
    /// The answer's HTTP status, as soon as there is one.
    pub code: Option<u16>,
    /// What admission and authorization noted, `validation.policy.admission.k8s.io/validation_failure` for instance.
    pub annotations: BTreeMap<String, String>,
    /// How far it has come.
    pub stage: AuditStage,
    /// When it was received.
    pub received: Timestamp,
    /// When it came to this stage.
    pub reached: Timestamp,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub enum AuditStage {
    /// Received, and not answered yet.
    RequestReceived,
    /// A watch, or something else that takes long, which has begun to be answered.
    ResponseStarted,
    /// Answered to the end.
    ResponseComplete,
    /// The API server broke down over it.
    Panic,
}

/// A line of the log: one stage of one request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: AuditStage,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: User,
    object_ref: Option<ObjectReference>,
    response_status: Option<Status>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: HashMap<String, Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectReference {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    api_group: String,
}

#[derive(Deserialize)]
struct Status {
    code: Option<u16>,
}

/// The arguments of the API server `name` that make it write its log into `directory`, which has to exist.
pub(super) fn arguments(directory: &Path, name: &str) -> Result<Vec<String>> {
    let policy = directory.join("policy.json");
    let rules = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [{"level": "Metadata"}],
    });
    fs::write(&policy, rules.to_string()).with_context(|| format!("cannot write {}", policy.display()))?;
    Ok(vec![
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", directory.join(format!("{name}.log")).display()),
        // A line is there before the answer has ended: who has the whole of an answer finds its request.
        "--audit-log-mode=blocking".to_owned(),
        // In megabytes: never begun anew.
        "--audit-log-maxsize=100000".to_owned(),
    ])
}

/// What `user` asked any of the API servers for and was answered, at least in part, in the order of arrival, each request once.
/// Empty while nothing was asked.
pub(super) fn requests(directory: &Path, user: &str) -> Result<Vec<AuditedRequest>> {
    let mut requests = all_requests(directory, user)?;
    requests.retain(|request| request.stage > AuditStage::RequestReceived);
    Ok(requests)
}

/// The same with those that wait for their answer.
pub(super) fn all_requests(directory: &Path, user: &str) -> Result<Vec<AuditedRequest>> {
    let mut requests = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            requests.extend(parse(&bytes, user).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    // Lines are in the order of answers, and each server has its own.
    requests.sort_by_key(|request| request.received);
    Ok(requests)
}

fn parse(log: &[u8], user: &str) -> Result<Vec<AuditedRequest>> {
    let mut requests: Vec<AuditedRequest> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        // The last one may still be under the API server's pen.
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let event: Event =
            serde_json::from_slice(line).with_context(|| format!("not an event: {}", String::from_utf8_lossy(line)))?;
        if event.user.username != user {
            continue;
        }
        match known.entry(event.audit_id.clone()) {
            Entry::Occupied(place) => requests[*place.get()].advance(event),
            Entry::Vacant(place) => {
                place.insert(requests.len());
                requests.push(event.into());
            }
        }
    }
    Ok(requests)
}

// === impl AuditedRequest ===

impl AuditedRequest {
    /// The request in one line, without what differs from run to run: `patch nodes/status node-0 dry-run`.
    ///
    /// A namespace stands before the resource: `list shop/pods`; what is no resource is shown by its path.
    pub fn short(&self) -> String {
        let mut text = format!("{} ", self.verb);
        if self.resource.is_empty() {
            text += self.uri.split('?').next().unwrap_or_default();
        }
        if !self.namespace.is_empty() && self.resource != "namespaces" {
            text = text + &self.namespace + "/";
        }
        text += &self.resource;
        if !self.subresource.is_empty() {
            text = text + "/" + &self.subresource;
        }
        if !self.name.is_empty() {
            text = text + " " + &self.name;
        }
        if self.dry_run {
            text += " dry-run";
        }
        text
    }

    fn advance(&mut self, event: Event) {
        if event.stage > self.stage {
            let before = std::mem::replace(self, event.into());
            self.code = self.code.or(before.code);
            self.pod = self.pod.take().or(before.pod);
            self.node = self.node.take().or(before.node);
            for (key, value) in before.annotations {
                self.annotations.entry(key).or_insert(value);
            }
        }
    }
}

impl From<Event> for AuditedRequest {
    fn from(event: Event) -> Self {
        let object = event.object_ref.unwrap_or_default();
        let extra = |key: &str| {
            event.user.extra.get(&format!("authentication.kubernetes.io/{key}")).and_then(|values| values.first())
        };
        let query = event.request_uri.split_once('?').map_or("", |(_, query)| query);
        Self {
            dry_run: query.split('&').any(|pair| pair == "dryRun=All"),
            pod: extra("pod-name").cloned(),
            node: extra("node-name").cloned(),
            verb: event.verb,
            group: object.api_group,
            resource: object.resource,
            subresource: object.subresource,
            namespace: object.namespace,
            name: object.name,
            uri: event.request_uri,
            user: event.user.username,
            code: event.response_status.and_then(|status| status.code),
            annotations: event.annotations,
            stage: event.stage,
            received: event.request_received_timestamp,
            reached: event.stage_timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"auditID":"a","stage":"ResponseStarted","requestURI":"/api/v1/pods?watch=true","verb":"watch","user":{"username":"it","extra":{"authentication.kubernetes.io/pod-name":["it-0"]}},"objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-24T07:00:00.000001Z","stageTimestamp":"2026-11-24T07:00:00.000002Z"}
{"auditID":"c","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/shop/pods/web?dryRun=All","verb":"patch","user":{"username":"it"},"objectRef":{"resource":"pods","namespace":"shop","name":"web"},"responseStatus":{"code":403},"requestReceivedTimestamp":"2026-11-24T07:00:02.000000Z","stageTimestamp":"2026-11-24T07:00:03.000000Z"}
{"auditID":"b","stage":"ResponseComplete","requestURI":"/version?timeout=32s","verb":"get","user":{"username":"it"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-11-24T07:00:01.000000Z","stageTimestamp":"2026-11-24T07:00:04.000000Z"}
{"auditID":"d","stage":"ResponseComplete","requestURI":"/version","verb":"get","user":{"username":"other"},"requestReceivedTimestamp":"2026-11-24T07:00:01.000000Z","stageTimestamp":"2026-11-24T07:00:04.000000Z"}
{"auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/pods?watch=true","verb":"watch","user":{"username":"it"},"objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"code":200},"requestReceivedTimestamp":"2026-11-24T07:00:00.000001Z","stageTimestamp":"2026-11-24T07:05:00.000000Z"}
"#;

    #[test]
    fn an_audited_request_counts_once_whatever_else_is_logged() -> Result<()> {
        let requests = parse(LOG.as_bytes(), "it")?;
        let short: Vec<_> = requests.iter().map(AuditedRequest::short).collect();
        assert_eq!(short, ["watch pods", "patch shop/pods web dry-run", "get /version"]);
        assert_eq!(requests[0].stage, AuditStage::ResponseComplete);
        assert_eq!(requests[0].pod.as_deref(), Some("it-0"));
        assert_eq!(requests[1].code, Some(403));
        Ok(())
    }

    #[test]
    fn a_request_that_waits_for_its_answer_is_known() -> Result<()> {
        let (received, answered) = LOG.lines().map(|line| line.to_owned() + "\n").fold(
            (String::new(), String::new()),
            |(received, answered), line| {
                let first =
                    line.replace("ResponseStarted", "RequestReceived").replace("ResponseComplete", "RequestReceived");
                (received + &first, answered + &line)
            },
        );
        let waiting = parse(received.as_bytes(), "it")?;
        assert_eq!(waiting.len(), 3);
        assert!(waiting.iter().all(|request| request.stage == AuditStage::RequestReceived));
        assert_eq!(parse((received + &answered).as_bytes(), "it")?, parse(LOG.as_bytes(), "it")?);
        Ok(())
    }

    #[test]
    fn a_line_that_is_half_written_is_none_yet() -> Result<()> {
        for length in 0..LOG.len() {
            let whole = LOG[..length].matches('\n').count();
            assert!(parse(&LOG.as_bytes()[..length], "it")?.len() <= whole, "after {length} bytes");
        }
        Ok(())
    }
}
