//! What a person would ask for after a failure.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Event, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};

use super::process::tail;

/// How long the cluster may take to answer each of our questions: it may be the very thing that is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many lines of each log, and how many events, are shown.
const LINES: usize = 15;

/// The report on these namespaces (all, where empty), with the last errors of the programs that log in `logs`.
pub(super) async fn of(client: Result<kube::Client>, namespaces: &[&str], logs: PathBuf) -> String {
    let mut text = "=== report ===\n".to_owned();
    match client {
        Ok(client) => {
            let scopes =
                if namespaces.is_empty() { vec![None] } else { namespaces.iter().copied().map(Some).collect() };
            for namespace in scopes {
                pods(&client, namespace, &mut text).await;
                events(&client, namespace, &mut text).await;
            }
        }
        Err(error) => {
            let _ = writeln!(text, "no client for the API server: {error:#}");
        }
    }
    for log in log_files(&logs) {
        errors(&log, &mut text);
    }
    text += "=== end of report ===";
    text
}

/// The part of one API server alone.
pub(super) fn api_server(log: &Path) -> String {
    let mut text = String::new();
    errors(log, &mut text);
    text
}

async fn pods(client: &kube::Client, namespace: Option<&str>, text: &mut String) {
    let pods = match list::<Pod>(scoped(client, namespace)).await {
        Ok(pods) => pods,
        Err(reason) => {
            let _ = writeln!(text, "pods: {reason}");
            return;
        }
    };
    let _ = writeln!(text, "{} pods in {}", pods.len(), namespace.unwrap_or("all namespaces"));
    for pod in &pods {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("no phase");
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let reason =
            status.and_then(|status| status.reason.as_deref().or(status.message.as_deref())).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {}/{}: {phase} on {} {reason}",
            pod.namespace().unwrap_or_default(),
            pod.name_any(),
            node.unwrap_or("no node")
        );
        for condition in status.and_then(|status| status.conditions.as_deref()).unwrap_or_default() {
            if condition.status != "True" && condition.message.is_some() {
                let _ =
                    writeln!(text, "    not {}: {}", condition.type_, condition.message.as_deref().unwrap_or_default());
            }
        }
        let initial = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
        let others = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        for (kind, container) in initial.iter().map(|c| ("init", c)).chain(others.iter().map(|c| ("app", c))) {
            let _ = writeln!(text, "    {kind} {}: {}", container.name, state(container));
            let started = container.container_id.as_deref().is_some_and(|id| !id.is_empty());
            if node.is_some() && started && (kind == "init" || !container.ready) {
                logs(client, pod, &container.name, text).await;
            }
        }
    }
}

async fn logs(client: &kube::Client, pod: &Pod, container: &str, text: &mut String) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let lines = i64::try_from(LINES).ok();
    let parameters = LogParams { container: Some(container.to_owned()), tail_lines: lines, ..LogParams::default() };
    let name = pod.name_any();
    match tokio::time::timeout(PATIENCE, pods.logs(&name, &parameters)).await {
        Ok(Ok(log)) => log.lines().for_each(|line| {
            let _ = writeln!(text, "      | {line}");
        }),
        Ok(Err(error)) => {
            let _ = writeln!(text, "      (no log: {error})");
        }
        Err(_) => {
            let _ = writeln!(text, "      (no log within {} s)", PATIENCE.as_secs());
        }
    }
}

async fn events(client: &kube::Client, namespace: Option<&str>, text: &mut String) {
    let mut events = match list::<Event>(scoped(client, namespace)).await {
        Ok(events) => events,
        Err(reason) => {
            let _ = writeln!(text, "events: {reason}");
            return;
        }
    };
    // By the order in which they were written: their own times have seconds, or are absent, according to who wrote them.
    events.sort_by_key(|event| event.resource_version().and_then(|version| version.parse::<u64>().ok()));
    let _ = writeln!(text, "last events in {}", namespace.unwrap_or("all namespaces"));
    for event in events.iter().skip(events.len().saturating_sub(2 * LINES)) {
        let object = &event.involved_object;
        let _ = writeln!(
            text,
            "  {} {} {}/{}: {}",
            event.type_.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            object.kind.as_deref().unwrap_or_default(),
            object.name.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default().trim()
        );
    }
}

/// klog begins the lines of errors with an E and those of fatal ones with an F; others write the word.
fn errors(log: &Path, text: &mut String) {
    let wanted = |line: &str| {
        line.starts_with(['E', 'F'])
            || line.contains("level=error")
            || line.contains("level=fatal")
            || line.contains("panic")
    };
    let last = tail(log, LINES, wanted);
    if !last.is_empty() {
        let _ = writeln!(text, "last errors of {}", log.file_stem().unwrap_or_default().to_string_lossy());
        last.lines().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
}

fn log_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn scoped<K>(client: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::core::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn list<K>(api: Api<K>) -> Result<Vec<K>, String>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match tokio::time::timeout(PATIENCE, api.list(&ListParams::default())).await {
        Ok(Ok(list)) => Ok(list.items),
        Ok(Err(error)) => Err(format!("the API server does not say: {error}")),
        Err(_) => Err(format!("no answer from the API server within {} s", PATIENCE.as_secs())),
    }
}

/// One container's state, as `kubectl describe` tells it, in one line.
fn state(status: &ContainerStatus) -> String {
    let mut text = match &status.state {
        Some(ContainerState { running: Some(_), .. }) => "running".to_owned(),
        Some(ContainerState { waiting: Some(waiting), .. }) => {
            let reason = waiting.reason.as_deref().unwrap_or("no reason");
            format!("waiting ({reason}) {}", waiting.message.as_deref().unwrap_or_default())
        }
        Some(ContainerState { terminated: Some(end), .. }) => {
            let reason = end.reason.as_deref().unwrap_or("no reason");
            format!("ended with {} ({reason}) {}", end.exit_code, end.message.as_deref().unwrap_or_default().trim())
        }
        _ => "not started".to_owned(),
    };
    if status.ready {
        text += ", ready";
    }
    if status.restart_count > 0 {
        let _ = write!(text, ", restarted {} times", status.restart_count);
    }
    text
}
