//! What comes and goes: Linkerd, somebody else's webhooks, the API server itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use http::Method;
use linkerd_gate_kit::object::{namespace, pod};
use linkerd_gate_kit::standin::Fault;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::stage::{PATIENCE, POLICIES, Stage, WEBHOOKS, admit, entry, in_shop};

const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";

/// Before Linkerd is installed, and after it was removed. Leaves it installed.
pub async fn without_linkerd_nothing_is_added_and_nothing_refused(stage: &Stage) -> Result<()> {
    ensure!(entry(&stage.admit(&in_shop("web")).await?).is_none(), "added before Linkerd was installed");
    stage.install_linkerd().await?;
    let configuration = format!("{WEBHOOKS}/linkerd-proxy-injector-webhook-config");
    stage.send(Method::DELETE, &configuration, &Value::Null).await?;
    stage.until("nothing is added any more", &in_shop("web"), |pod| entry(pod).is_none()).await?;
    stage.install_linkerd().await
}

/// A policy that comes after ours, as somebody's webhook would, writes the annotation. Ours is asked again.
pub async fn a_pod_that_somebody_else_makes_ask_gets_it(stage: &Stage) -> Result<()> {
    stage.make(namespace("late")).await?;
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "somebody-elses"},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "late"}},
                "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            },
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{annotations: {'linkerd.io/inject': 'enabled'}}}"
            }}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "somebody-elses"},
        "spec": {"policyName": "somebody-elses"},
    });
    stage.injector.suffer(Fault::Absent).await?;
    stage.send(Method::POST, POLICIES, &policy).await?;
    stage.send(Method::POST, BINDINGS, &binding).await?;
    let late = pod("web").in_namespace("late").json();
    let asks = |pod: &Value| pod["metadata"]["annotations"]["linkerd.io/inject"] == "enabled";
    let admitted = stage.until("somebody else's policy counts", &late, asks).await?;
    ensure!(entry(&admitted).is_some(), "it asks, and has no entry: {:#}", admitted["spec"]);
    Ok(stage.injector.recover().await?)
}

/// Eight writers never stop creating pods that ask, the injector is away, and the API server goes and comes back: whatever it
/// admits has the entry, from the first pod on.
pub async fn through_three_starts_of_the_api_server() -> Result<()> {
    let stage = Stage::set().await?;
    stage.cluster.reported(&[], stormed(&stage)).await
}

async fn stormed(stage: &Stage) -> Result<()> {
    stage.install_linkerd().await?;
    stage.injector.suffer(Fault::Absent).await?;
    let (tell, mut told) = watch::channel(0_u64);
    let tell = Arc::new(tell);
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let client = stage.cluster.client().await?;
        let (tell, over) = (Arc::clone(&tell), Arc::clone(&over));
        writers.spawn(async move {
            let sent = in_shop(&format!("web-{writer}"));
            let mut bare = Vec::new();
            while !over.load(Ordering::Relaxed) {
                match admit(&client, &sent).await {
                    Ok(admitted) => {
                        if entry(&admitted).is_none() {
                            bare.push(admitted);
                        }
                        tell.send_modify(|count| *count += 1);
                    }
                    // Refused connections and refused pods: nobody was admitted.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
            bare
        });
    }
    let mut admitted = |more: u64| {
        let target = *told.borrow_and_update() + more;
        let mut told = told.clone();
        async move {
            let reached = tokio::time::timeout(PATIENCE, told.wait_for(|count| *count >= target)).await;
            reached.context("the writers get nowhere")??;
            anyhow::Ok(())
        }
    };
    admitted(100).await?;
    for _ in 0..3 {
        stage.cluster.stop_api_server().await?;
        // Counted from before the start, so that the first pods of it are among these.
        let first = admitted(200);
        stage.cluster.start_api_server().await?;
        first.await?;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(bare) = writers.join_next().await {
        let bare = bare?;
        ensure!(bare.is_empty(), "{} pods slipped past, one of them {:#}", bare.len(), bare[0]["spec"]);
    }
    Ok(())
}
