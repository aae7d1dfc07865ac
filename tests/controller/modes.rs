//! What is wanted of missed pods, by variable and by annotation, and audit mode.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ResourceQuota};
use kube::api::{Api, ListParams, Patch, PatchParams};
use linkerd_gate::linkerd::meshed;
use linkerd_gate_kit::cluster::{self, AuditedRequest};
use serde_json::{Value, json};

use super::harness::{Agent, Harness, PATIENCE, controller};
use super::workloads::{
    Pods, SHOP, all_meshed, are_meshed, is_running, merge, of, opened, owned_by, pod, recover, removals, set, uids,
    unscheduled, until_event, until_pods,
};

#[tokio::test]
async fn the_repair_mode_applies_unless_an_annotation_overrides_it() -> Result<()> {
    let harness = opened().await?;
    harness.cluster.start_kwok().await?;
    harness.cluster.fake_nodes(1).await?;
    for (name, repair) in [("runs", None), ("may-go", Some("running")), ("may-not", Some("Running"))] {
        harness.create::<ReplicaSet>(SHOP, annotated(set(name, 2), repair)).await?;
    }
    for (name, repair) in [("held", None), ("reported", Some("report")), ("unclear", Some("yes"))] {
        harness.create::<ReplicaSet>(SHOP, annotated(unscheduled(set(name, 2)), repair)).await?;
    }
    for (name, repair) in [("foreign", None), ("foreign-but-may-go", Some("held"))] {
        let mut pod = owned_by("example.com/v1", "Rollout", "foreign", "no-uid", pod(name));
        merge(&mut pod, &json!({"spec": {"nodeSelector": {"nowhere": "true"}}}));
        if let Some(repair) = repair {
            merge(&mut pod, &json!({"metadata": {"annotations": {"linkerd-gate/repair": repair}}}));
        }
        harness.create::<Pod>(SHOP, pod).await?;
    }
    let bare = until_pods(&harness, "bare, and running where they can", |pods| {
        let running = pods.values().filter(|pod| is_running(pod)).count();
        pods.len() == 14 && running == 6 && pods.values().all(|pod| !meshed(pod))
    })
    .await?;
    recover(&harness).await?;
    says_what_it_would_do(&harness, &bare).await?;
    reports(&harness).await?;
    replaces_what_never_ran(&harness, &bare).await
}

/// What is said where the API server could hold pods, and does not.
const UNBOUND: &str = "no pod is held at creation: the binding is missing";

/// `audit`: nothing is written but Events and the Lease.
async fn says_what_it_would_do(harness: &Harness, bare: &Pods) -> Result<()> {
    let settings = controller("audited").with("MODE", "audit").with("REPAIR", "running");
    let mut replica = harness.start_apart(settings, "audited").await?;
    let done = async {
        for would in ["evict pod namespace=shop pod=runs-", "delete pod namespace=shop pod=held-"] {
            replica.until_said(&format!("audit mode: not executed: {would}")).await?;
        }
        until_event(harness, "ReplicaSet", "runs", "PodsOutsideMesh").await?;
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())?;
    ensure!(replica.terminate().await? == 0, "{}", replica.said());
    // It looked at admission, and missed nothing that audit mode does not have.
    let requests = harness.requests_of("audited").await?;
    let looked = |request: &AuditedRequest| request.resource == "mutatingadmissionpolicybindings";
    ensure!(requests.iter().any(looked), "it did not look at hold's binding");
    ensure!(replica.times_said(UNBOUND) == 0, "{}", replica.said());
    let written: BTreeSet<_> = written(&requests).into_iter().collect();
    ensure!(written.iter().all(|what| matches!(what.as_str(), "events" | "leases")), "it wrote {written:?}");
    ensure!(written.len() == 2, "neither Events nor a Lease, but {written:?}");
    untouched(harness, bare).await
}

/// `report`, which the namespace overrides for all that do not say otherwise themselves, and takes back.
async fn reports(harness: &Harness) -> Result<()> {
    let mut replica = harness.start_apart(controller("reporter").with("REPAIR", "report"), "reporter").await?;
    let done = async {
        replica.until_said(UNBOUND).await?;
        ensure!(replica.metric("linkerd_gate_hold_binding_missing", "").await? == 1);
        replica.until_said("proof: open").await?;
        replica
            .until_said("deleted pod namespace=shop pod=foreign-but-may-go owner=example.com/v1 Rollout foreign")
            .await?;
        let line = replica.until_said(" namespace=shop owner=ReplicaSet held ").await?;
        ensure!(line.contains("2 stay: repair is `report` here: the controller only reports"), "{line}");
        annotate_namespace(harness, Some("of course")).await?;
        let line =
            replica.until_said("accepted are report, held and running namespace=shop owner=ReplicaSet held ").await?;
        ensure!(line.contains("is \"of course\": accepted are report, held and running"), "{line}");
        annotate_namespace(harness, None).await?;
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())?;
    ensure!(replica.terminate().await? == 0, "{}", replica.said());
    // Who says so itself goes all the same, but for those that run: nobody may evict here.
    let requests = harness.requests_of("reporter").await?;
    let removed: Vec<_> = removals(&requests).into_iter().map(|request| request.name.as_str()).collect();
    ensure!(removed == ["foreign-but-may-go"], "{removed:?}");
    Ok(())
}

/// `held`, the default, with the right to evict those that ask for it.
async fn replaces_what_never_ran(harness: &Harness, bare: &Pods) -> Result<()> {
    let settings = controller("one").with("EVICTION", "true").with("REPAIR_COOLDOWN", "1s").with("ADMISSION", "refuse");
    let replica = harness.start_apart(settings, "controller").await?;
    let done = async {
        let after = until_pods(harness, "those meshed that may go", |pods| {
            are_meshed(&of(pods, "held"), 2) && are_meshed(&of(pods, "may-go"), 2)
        })
        .await?;
        for left in ["runs", "may-not", "reported", "unclear", "foreign"] {
            ensure!(uids(of(bare, left)) == uids(of(&after, left)), "{left} was touched");
        }
        for (left, why) in [
            ("runs", "repair is `held` here, and this pod has started"),
            ("may-not", "is \"Running\": accepted are report, held and running"),
            ("reported", "repair is `report` here"),
            ("unclear", "is \"yes\": accepted are report, held and running"),
        ] {
            let line = replica.until_said(&format!(" namespace=shop owner=ReplicaSet {left} ")).await?;
            ensure!(line.contains(why), "{line}");
            let of_left = of(bare, left);
            let pod = of_left.first().context("no pod")?;
            let event = until_event(harness, "Pod", super::workloads::name(pod)?, "OutsideMesh").await?;
            ensure!(event.message.is_some(), "{event:?}");
        }
        // Hold was not wanted, and so is not missed.
        let looked = |request: &AuditedRequest| request.resource == "mutatingadmissionpolicybindings";
        ensure!(harness.requests_of("controller").await?.iter().any(looked), "it did not look at hold's binding");
        ensure!(replica.metric("linkerd_gate_hold_binding_missing", "").await? == 0);
        ensure!(replica.times_said(UNBOUND) == 0, "{}", replica.said());
        // Its namespace's word is for those that have none of their own.
        annotate_namespace(harness, Some("running")).await?;
        let after = until_pods(harness, "all meshed that may go now", |pods| are_meshed(&of(pods, "runs"), 2)).await?;
        for left in ["may-not", "reported", "unclear", "foreign"] {
            ensure!(uids(of(bare, left)) == uids(of(&after, left)), "{left} was touched");
        }
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

async fn untouched(harness: &Harness, bare: &Pods) -> Result<()> {
    let now = until_pods(harness, "there", |pods| pods.len() >= bare.len()).await?;
    ensure!(uids(bare.values()) == uids(now.values()), "somebody was touched");
    Ok(())
}

async fn annotate_namespace(harness: &Harness, repair: Option<&str>) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(harness.cluster.client().await?);
    let patch = json!({"metadata": {"annotations": {"linkerd-gate/repair": repair}}});
    namespaces.patch(SHOP, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn annotated(mut owner: Value, repair: Option<&str>) -> Value {
    if let Some(repair) = repair {
        let annotations = json!({"linkerd-gate/repair": repair});
        merge(&mut owner, &json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}));
    }
    owner
}

/// What was written, by resource; dry-run pods are not.
fn written(requests: &[AuditedRequest]) -> Vec<String> {
    let reads = |request: &&AuditedRequest| matches!(request.verb.as_str(), "get" | "list" | "watch");
    let review = |request: &&AuditedRequest| request.group.ends_with("authorization.k8s.io");
    let writes = requests.iter().filter(|request| !reads(request) && !request.dry_run && !review(request));
    writes.map(|request| request.resource.clone()).collect()
}

/// What Linkerd's patch, a text, takes as it is: it is no JSON then.
const BREAKS_THE_PATCH: &str = "warn,\"linkerd\"";

/// Namespaces, and what refuses the successor of the only replica there: the cause in log and Event, in whose words, and the metric's.
const IN_THE_WAY: [(&str, &str, &str, &str); 4] = [
    ("restricted", "Pod Security would refuse", "violates PodSecurity", "pod_security"),
    ("annotated", "Linkerd could not inject", "annotation config.linkerd.io/proxy-log-level", "annotation"),
    ("small", "would not make room", "quota few: pods: 1 used, 0 limited", "quota"),
    ("unclear", "cannot be decided", "quota disk: what the pod", "quota_undecided"),
];

/// Namespaces whose only pod is held, and what refuses the pod that is to come instead: the Event's cause, whose words, the metric's.
const IN_THE_WAY_OF_HELD: [(&str, &str, &str, &str); 2] = [
    ("held-restricted", "Pod Security refused it", "violates PodSecurity", "pod_security"),
    ("held-small", "a quota refused it", "exceeded quota: few", "quota"),
];

/// Where a quota is full, in which the eviction itself makes room.
const FULL: &str = "full";

/// One replica, which is not given up for one that admission would refuse: each cause is found by a dry-run, named, and tried again. A
/// held one has nothing to lose: its cause is found once no other came.
#[tokio::test]
async fn what_runs_stays_where_its_successor_would_be_refused() -> Result<()> {
    let harness = opened().await?;
    harness.cluster.start_kwok().await?;
    harness.cluster.fake_nodes(1).await?;
    let names: Vec<&str> = IN_THE_WAY.iter().map(|(name, ..)| *name).chain([FULL]).collect();
    let held = IN_THE_WAY_OF_HELD.map(|(name, ..)| name);
    for name in names.iter().chain(&held) {
        let namespace = linkerd_gate_kit::object::namespace(name).asking().json();
        harness.cluster.create_namespace(&super::harness::object(namespace)?).await?;
        harness.namespaces.annotate(name, "linkerd.io/inject", "enabled");
        let only = set("only", 1);
        harness.create::<ReplicaSet>(name, if held.contains(name) { unscheduled(only) } else { only }).await?;
    }
    for name in held {
        until_pods_in(&harness, name, "bare", |pods| !pods.values().any(meshed)).await?;
    }
    let mut bare = Pods::new();
    for name in &names {
        bare.extend(until_pods_in(&harness, name, "running bare", |pods| pods.values().all(is_running)).await?);
    }
    let namespaces: Api<Namespace> = Api::all(harness.cluster.client().await?);
    let change = async |name: &str, metadata: Value| {
        namespaces.patch(name, &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata}))).await
    };
    // What the injector adds needs more than this level gives.
    let level = |level: Option<&str>| json!({"labels": {"pod-security.kubernetes.io/enforce": level}});
    for name in ["restricted", "held-restricted"] {
        change(name, level(Some("restricted"))).await?;
    }
    harness.namespaces.annotate("annotated", "config.linkerd.io/proxy-log-level", BREAKS_THE_PATCH);
    change("annotated", json!({"annotations": {"config.linkerd.io/proxy-log-level": BREAKS_THE_PATCH}})).await?;
    for name in ["small", "held-small"] {
        quota(&harness, name, "few", json!({"pods": "0"})).await?;
    }
    quota(&harness, "unclear", "few", json!({"pods": "1"})).await?;
    // How much of that the injected pod asks for, only that pod tells.
    quota(&harness, "unclear", "disk", json!({"requests.ephemeral-storage": "1Gi"})).await?;
    quota(&harness, FULL, "few", json!({"pods": "1"})).await?;
    recover(&harness).await?;
    let settings = controller("one").with("REPAIR", "running").with("EVICTION", "true").with("REPAIR_COOLDOWN", "1s");
    let replica = harness.start_apart(settings, "controller").await?;
    let done = async {
        for (name, cause, words, result) in IN_THE_WAY {
            refused(&harness, &replica, name, cause, words).await?;
            let label = format!("result=\"{result}\"");
            let counted = replica.metric("linkerd_gate_successor_dry_runs_total", &label).await?;
            ensure!(counted > 0, "{result} is not counted");
        }
        for (name, cause, words, label) in IN_THE_WAY_OF_HELD {
            until_event_in(&harness, name, "NotCreatedAgain", cause, words).await?;
            let line = replica.until_said(&format!(" namespace={name} owner=ReplicaSet only cause={label}")).await?;
            ensure!(line.contains("pod not created again: ") && line.contains(words), "{line}");
            let counted = replica.metric("linkerd_gate_late_replacements_total", &format!("cause=\"{label}\"")).await?;
            ensure!(counted == 1, "{label} is counted {counted} times");
        }
        until_pods_in(&harness, FULL, "meshed", |pods| all_meshed(pods, 1)).await?;
        ensure!(replica.metric("linkerd_gate_successor_dry_runs_total", "result=\"quota_freed\"").await? > 0);

        let requests = harness.requests_of("controller").await?;
        let may_lose =
            |request: &&AuditedRequest| request.namespace == FULL || held.contains(&request.namespace.as_str());
        let elsewhere: Vec<_> = removals(&requests).into_iter().filter(|request| !may_lose(request)).collect();
        ensure!(elsewhere.is_empty(), "evicted all the same: {elsewhere:?}");
        for (name, ..) in IN_THE_WAY {
            until_pods_in(&harness, name, "there", |pods| uids(pods.values()).is_subset(&uids(bare.values()))).await?;
            let tried = |request: &&AuditedRequest| request.resource == "pods" && request.verb == "create";
            let tried: Vec<_> = requests.iter().filter(tried).filter(|request| request.namespace == name).collect();
            ensure!(!tried.is_empty() && tried.iter().all(|request| request.dry_run), "{name}: {tried:?}");
        }

        change("restricted", level(None)).await?;
        until_pods_in(&harness, "restricted", "meshed", |pods| all_meshed(pods, 1)).await?;
        anyhow::Ok(())
    };
    done.await.with_context(|| replica.said())
}

/// Waits until a namespace's pods, of which there is at least one, are like that.
async fn until_pods_in(harness: &Harness, name: &str, what: &str, condition: impl Fn(&Pods) -> bool) -> Result<Pods> {
    let pods: Api<Pod> = Api::namespaced(harness.cluster.client().await?, name);
    let found = |pods: &Pods| (!pods.is_empty() && condition(pods)).then(|| pods.clone());
    cluster::until_any(&pods, &ListParams::default(), &format!("{name}: {what}"), PATIENCE, found).await
}

/// Waits until log and Event say of the namespace's ReplicaSet that its pod is not evicted, and why.
async fn refused(harness: &Harness, replica: &Agent, name: &str, cause: &str, words: &str) -> Result<()> {
    until_event_in(harness, name, "ReplacementRefused", cause, words).await?;
    let line = replica.until_said(cause).await?;
    ensure!(line.contains(words) && line.contains("evict pod: refused for now; retrying"), "{line}");
    ensure!(line.contains(&format!("namespace={name}")), "{line}");
    Ok(())
}

/// Waits until an Event on the namespace's ReplicaSet says this.
async fn until_event_in(harness: &Harness, name: &str, reason: &str, cause: &str, words: &str) -> Result<()> {
    let says = |text: &str| text.contains(cause) && text.contains(words);
    let events: Api<Event> = Api::namespaced(harness.cluster.client().await?, name);
    let only = ListParams::default().fields(&format!("involvedObject.name=only,reason={reason}"));
    let found = |all: &BTreeMap<String, Event>| {
        all.values().any(|event| event.message.as_deref().is_some_and(says)).then_some(())
    };
    cluster::until_any(&events, &only, &format!("{name}: event {cause}"), PATIENCE, found).await
}

/// A quota in this namespace; waits until it is in force.
async fn quota(harness: &Harness, namespace: &str, name: &str, hard: Value) -> Result<()> {
    let quotas: Api<ResourceQuota> = Api::namespaced(harness.cluster.client().await?, namespace);
    harness.create::<ResourceQuota>(namespace, json!({"metadata": {"name": name}, "spec": {"hard": hard}})).await?;
    cluster::until(&quotas, name, "in force", PATIENCE, |quota| {
        let (spec, status) = (quota.spec.as_ref(), quota.status.as_ref());
        let counted = status.is_some_and(|status| status.used.is_some());
        counted && spec.and_then(|spec| spec.hard.as_ref()) == status.and_then(|status| status.hard.as_ref())
    })
    .await?;
    Ok(())
}
