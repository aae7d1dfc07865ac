//! Rights that are what is used: what the manifests give an account beside what it asked for.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::{Api, PostParams};
use linkerd_gate_kit::cluster::AuditedRequest;
use serde_json::{Value, json};
use tokio::process::Command;

use super::harness::{GATE, Harness, PATIENCE, object};

/// One verb on one kind of thing, in one namespace or everywhere.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Right {
    verb: String,
    group: String,
    resource: String,
    namespace: Option<String>,
}

/// All requests were granted, and every right was used.
pub fn used(rights: &BTreeSet<Right>, requests: &[AuditedRequest]) -> Result<()> {
    let mut idle = rights.clone();
    for request in requests {
        ensure!(!matches!(request.code, Some(401 | 403)), "refused: {request:?}");
        // Which kinds there are is for every account to read, and no Role of ours says so.
        if request.resource.is_empty() && request.uri.starts_with("/apis/") && request.verb == "get" {
            continue;
        }
        let by = rights.iter().find(|right| {
            let here = right.namespace.as_ref().is_none_or(|namespace| *namespace == request.namespace);
            let resource = match request.subresource.as_str() {
                "" => request.resource.clone(),
                part => format!("{}/{part}", request.resource),
            };
            (&right.verb, &right.group, &right.resource) == (&request.verb, &request.group, &resource) && here
        });
        let right = by.with_context(|| format!("by what right? {request:?}"))?;
        idle.remove(right);
    }
    ensure!(idle.is_empty(), "rights that nobody uses: {idle:?}");
    Ok(())
}

fn manifests() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests")
}

/// Applies a file below the manifests'.
pub async fn apply(harness: &Harness, path: &str) -> Result<()> {
    let mut apply = Command::new(harness.cluster.kubectl());
    let output = apply.args(["apply", "--filename"]).arg(manifests().join(path)).output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Applies the files of agent and controller, in their order. What stands beyond them is for admission: these stories begin with
/// bare pods.
pub async fn apply_what_runs(harness: &Harness) -> Result<()> {
    let mut files: Vec<String> = std::fs::read_dir(manifests())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    files.retain(|name| name.as_str() < "60");
    files.sort();
    ensure!(files.len() == 8, "{files:?}");
    for file in files {
        apply(harness, &file).await?;
    }
    Ok(())
}

/// What these files give: each is about one account.
pub fn rights(files: &[&str]) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    let mut documents = Vec::new();
    for file in files {
        documents.extend(serde_saphyr::from_multiple::<Value>(&std::fs::read_to_string(manifests().join(file))?)?);
    }
    for document in documents {
        let namespace = match document["kind"].as_str() {
            Some("ClusterRole") => None,
            Some("Role") => {
                Some(document["metadata"]["namespace"].as_str().context("a Role of no namespace")?.to_owned())
            }
            _ => continue,
        };
        let words = |rule: &Value, key: &str| -> Vec<String> {
            rule[key].as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
        };
        for rule in document["rules"].as_array().into_iter().flatten() {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    rights.extend(words(rule, "verbs").into_iter().map(|verb| Right {
                        verb,
                        group: group.clone(),
                        resource: resource.clone(),
                        namespace: namespace.clone(),
                    }));
                }
            }
        }
    }
    ensure!(!rights.is_empty(), "the manifests give no rights");
    Ok(rights)
}

/// RBAC follows a change a moment later.
pub async fn until_rights_count(harness: &Harness, account: &str, rights: &BTreeSet<Right>) -> Result<()> {
    let reviews: Api<SubjectAccessReview> = Api::all(harness.cluster.client().await?);
    for right in rights {
        let (resource, part) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
        // Of an object that a Role names, in our own namespace, and of any elsewhere.
        let controllers = "linkerd-gate-controller";
        let name = match right.resource.as_str() {
            "leases" if account == controllers && right.verb == "patch" => controllers,
            "mutatingadmissionpolicybindings" => "linkerd-gate-hold",
            "validatingadmissionpolicybindings" => "linkerd-gate-guard",
            _ => GATE,
        };
        let review: SubjectAccessReview = object(json!({"spec": {
            "user": format!("system:serviceaccount:{GATE}:{account}"),
            "resourceAttributes": {
                "verb": right.verb, "group": right.group, "resource": resource, "subresource": part,
                "namespace": right.namespace, "name": name,
            },
        }}))?;
        let asking = async {
            while !reviews.create(&PostParams::default(), &review).await?.status.is_some_and(|status| status.allowed) {}
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, asking).await.with_context(|| format!("{right:?} does not count"))??;
    }
    Ok(())
}
