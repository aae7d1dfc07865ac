//! Pods: missed ones that never ran, as they were looked at, and no others.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate::decide::repair::object::REPAIR;
use linkerd_gate_kit::object::pod;
use serde_json::{Value, json};

use super::{deletion, missed, owned, preconditions};
use crate::harness::{Harness, PATIENCE, PROBE, with_every_right};
use crate::write::{Attack, Change, Write, get, send};

const POLICY: &str = "linkerd-gate-controller-pods";
const ASKED: &str = "linkerd-gate-controller-asked";
const PODS: &str = "/api/v1/namespaces/shop/pods";

/// A pod that a ReplicaSet made, which says nothing itself of what may become of it.
async fn of_a_replica_set(harness: &Harness, name: &str) -> Result<String> {
    let admin = harness.admin().await?;
    let labels = json!({"app": name});
    let set = json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {"linkerd.io/inject": "enabled"}},
                "spec": missed(name)["spec"],
            },
        },
    });
    send(&admin, &Write::create("/apis/apps/v1/namespaces/shop/replicasets", &set)).await?;
    let made = async {
        loop {
            let pods = get(&admin, &format!("{PODS}?labelSelector=app%3D{name}")).await?;
            if let Some(name) = pods["items"][0]["metadata"]["name"].as_str() {
                return anyhow::Ok(format!("{PODS}/{name}"));
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, made).await.with_context(|| format!("a pod of {name}"))?
}

#[tokio::test]
async fn the_controller_deletes_a_missed_pod_that_never_ran() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let path = of_a_replica_set(harness, "web").await?;
    send(&controller, &deletion(harness, &path).await?).await?;
    let gone = get(&admin, &path).await;
    ensure!(gone.is_err(), "{gone:?}");

    // One that has a node, and a grace period of its own.
    let mut bound = missed("bound-held");
    bound["spec"]["nodeName"] = "node-b".into();
    bound["spec"]["terminationGracePeriodSeconds"] = 7.into();
    let path = owned(harness, "shop", bound).await?;
    send(&controller, &deletion(harness, &path).await?).await?;
    let going = get(&admin, &path).await?;
    ensure!(going["metadata"]["deletionGracePeriodSeconds"] == 7, "{going:#}");
    Ok(())
}

#[tokio::test]
async fn a_deletion_needs_exact_preconditions_and_keeps_the_grace() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let mut target = missed("aimed-at");
    target["spec"]["nodeName"] = "node-b".into();
    let path = owned(harness, "shop", target).await?;
    let exact = preconditions(harness, &path).await?;
    let (precondition, grace, dependents) =
        ("by its uid and its resourceVersion", "does not change a pod's grace period", "no propagation policy");
    attack.write_is_refused("no options", &Write::delete(&path), precondition).await?;
    for (what, options, words) in [
        ("no preconditions", json!({"gracePeriodSeconds": 30}), precondition),
        ("no uid", json!({"preconditions": {"resourceVersion": exact["resourceVersion"]}}), precondition),
        ("no version", json!({"preconditions": {"uid": exact["uid"]}}), precondition),
        ("at once", json!({"preconditions": exact, "gracePeriodSeconds": 0}), grace),
        ("sooner", json!({"preconditions": exact, "gracePeriodSeconds": 1}), grace),
        ("a propagation", json!({"preconditions": exact, "propagationPolicy": "Orphan"}), dependents),
        ("another one", json!({"preconditions": exact, "propagationPolicy": "Foreground"}), dependents),
        ("an old word for it", json!({"preconditions": exact, "orphanDependents": true}), dependents),
    ] {
        attack.write_is_refused(what, &Write::delete_with(&path, &options), words).await?;
    }
    // By the URL instead of a body.
    attack.write_is_refused("at once", &Write::delete(&format!("{path}?gracePeriodSeconds=0")), precondition).await?;
    // Of somebody else's uid, or an older version: what the preconditions are for.
    for other in [
        json!({"uid": "00000000-0000-0000-0000-000000000000", "resourceVersion": exact["resourceVersion"]}),
        json!({"uid": exact["uid"], "resourceVersion": "1"}),
    ] {
        let refused = send(&controller, &Write::delete_with(&path, &json!({"preconditions": other}))).await;
        ensure!(refused.as_ref().is_err_and(|refusal| refusal.code == 409), "{refused:?}");
    }
    // All pods at once; the one whose uid is named is the only one that could go.
    let all = format!("{PODS}?fieldSelector=metadata.name%3Daimed-at");
    attack.write_is_refused("a collection", &Write::delete(&all), precondition).await?;
    let at_once = json!({"preconditions": exact, "gracePeriodSeconds": 0});
    attack.write_is_refused("a collection at once", &Write::delete_with(&all, &at_once), grace).await?;

    let nowhere = harness.controller_without_a_pod().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    let delete = deletion(harness, &path).await?;
    without_node.write_is_refused("a token of no pod", &delete, "by the token of its pod").await?;
    send(&controller, &delete.dry_run()).await?;
    Ok(())
}

#[tokio::test]
async fn the_controller_must_not_delete_started_or_ownerless_pods() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let (ran, owner) =
        ("other than the init container linkerd-gate has ever started", "without an owner that creates it again");
    let (mirror, word) = ("no mirror pod", "on the pod or its namespace, excludes");
    let status = |state: Value| {
        json!({"containerStatuses": [{
            "name": "app", "image": "app:test", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        }]})
    };
    let started = status(json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
    let ended = status(json!({"terminated": {"exitCode": 0}}));
    let mut again = status(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    again["containerStatuses"][0]["restartCount"] = 1.into();
    let mut before = status(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    before["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 1}});
    let mut probed = status(json!({"waiting": {}}));
    probed["containerStatuses"][0]["started"] = true.into();
    let waiting = status(json!({"waiting": {"reason": "PodInitializing"}}));
    let annotate = |key: &str, value: &str| json!({"metadata": {"annotations": {key: value}}});
    let of_init = |name: &str| {
        json!({"initContainerStatuses": [{
            "name": name, "image": "app:test", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }]})
    };
    let inits = json!({"spec": {"initContainers": [
        {"name": "linkerd-gate", "image": "gate:1"}, {"name": "migrate", "image": "app:test"},
    ]}});
    let cases: [(&str, Value, Value, Option<&str>); 15] = [
        ("waits-in-ours", inits.clone(), of_init("linkerd-gate"), None),
        ("migrates", inits, of_init("migrate"), Some(ran)),
        ("waits", json!({}), waiting, None),
        ("runs", json!({}), json!({"phase": "Running"}), Some(ran)),
        ("over", json!({}), json!({"phase": "Succeeded"}), Some(ran)),
        ("failed", json!({}), json!({"phase": "Failed"}), Some(ran)),
        ("started", json!({}), started, Some(ran)),
        ("ended", json!({}), ended, Some(ran)),
        ("again", json!({}), again, Some(ran)),
        ("before", json!({}), before, Some(ran)),
        ("probed", json!({}), probed, Some(ran)),
        ("of-a-stranger", annotate(REPAIR, ""), json!({}), Some(owner)),
        ("mirror", annotate("kubernetes.io/config.mirror", "a"), json!({}), Some(mirror)),
        ("left-alone", annotate(REPAIR, "report"), json!({}), Some(owner)),
        ("misspelt", annotate(REPAIR, "Held"), json!({}), Some(owner)),
    ];
    for (name, over, status, words) in cases {
        let mut pod = missed(name);
        json_patch::merge(&mut pod, &over);
        pod["spec"]["nodeName"] = "node-b".into();
        let path = owned(harness, "shop", pod).await?;
        if status != json!({}) {
            send(&admin, &Write::strategic(&format!("{path}/status"), &json!({"status": status}))).await?;
        }
        let delete = deletion(harness, &path).await?;
        match words {
            None => drop(send(&controller, &delete.dry_run()).await.context(name)?),
            Some(words) => attack.write_is_refused(name, &delete, words).await?,
        }
    }

    let ownerless = harness.create_pod("shop", &missed("ownerless")).await?;
    attack.write_is_refused("ownerless", &deletion(harness, &ownerless).await?, owner).await?;
    // Whoever owns a pod without being its controller only waits for its end.
    let mut kept = missed("kept");
    let mut keeper = super::owner(harness, "shop").await?;
    keeper["controller"] = false.into();
    kept["metadata"]["ownerReferences"] = json!([keeper]);
    let kept = harness.create_pod("shop", &kept).await?;
    attack.write_is_refused("kept by somebody", &deletion(harness, &kept).await?, owner).await?;
    // What a person says on the pod, or on its namespace where the pod says nothing.
    let path = of_a_replica_set(harness, "reported").await?;
    for (annotation, words) in [(json!("report"), Some(word)), (json!("Held"), Some(word)), (json!(""), None)] {
        send(&admin, &Write::merge(&path, &json!({"metadata": {"annotations": {REPAIR: annotation}}}))).await?;
        let delete = deletion(harness, &path).await?;
        match words {
            None => drop(send(&controller, &delete.dry_run()).await?),
            Some(words) => attack.write_is_refused("a person's word", &delete, words).await?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_namespace_says_what_may_become_of_its_pods() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let namespace = linkerd_gate_kit::object::namespace("reported").annotated(REPAIR, "report").json();
    harness.cluster.create_namespace(&serde_json::from_value(namespace)?).await?;
    // Its own word goes before its namespace's.
    let own = owned(harness, "reported", missed("own-word")).await?;
    send(&controller, &deletion(harness, &own).await?.dry_run()).await?;
    // One of a known kind, so that nothing else is in the way. Nobody collects what an owner of today owns.
    let mut silent = missed("silent");
    silent["metadata"]["annotations"].as_object_mut().context("annotations")?.remove(REPAIR);
    let job = json!({
        "metadata": {"name": "owner"},
        "spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [
            {"name": "app", "image": "app:test"},
        ]}}},
    });
    let made = send(&admin, &Write::create("/apis/batch/v1/namespaces/reported/jobs", &job)).await?;
    silent["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "batch/v1", "kind": "Job", "name": "owner", "uid": made["metadata"]["uid"], "controller": true,
    }]);
    silent["metadata"]["finalizers"] = json!(["example.com/stays"]);
    let silent = harness.create_pod("reported", &silent).await?;
    attack
        .write_is_refused(
            "the namespace's word",
            &deletion(harness, &silent).await?,
            "on the pod or its namespace, excludes",
        )
        .await
}

#[tokio::test]
async fn the_controller_must_not_change_bind_resize_or_exec_pods() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let words = "neither binds, resizes nor execs into pods, nor writes their status";
    let mut target = missed("whole");
    target["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    let path = owned(harness, "shop", target).await?;
    let of = |part: &str| format!("{path}/{part}");
    let changes: [(&str, Change); 4] = [
        ("a label", |pod| pod["metadata"]["labels"]["a"] = "b".into()),
        ("its word", |pod| pod["metadata"]["annotations"][REPAIR] = "running".into()),
        ("an image", |pod| pod["spec"]["containers"][0]["image"] = "evil:1".into()),
        ("a finalizer", |pod| pod["metadata"]["finalizers"] = json!(["example.com/never"])),
    ];
    let held = Attack { policy: "linkerd-gate-controller-ungate", ..attack };
    for (what, change) in changes {
        held.is_refused(what, &path, change, "that the scheduling gate linkerd-gate/injected holds").await?;
    }
    let binding = json!({"metadata": {"name": "whole"}, "target": {"kind": "Node", "name": "node-b"}});
    attack.write_is_refused("a node", &Write::create(&of("binding"), &binding), words).await?;
    let status = |pod: &mut Value| pod["status"]["phase"] = "Failed".into();
    attack.is_refused("its status", &of("status"), status, words).await?;
    let resize = json!({"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "2"}}}]}});
    attack.write_is_refused("its size", &Write::strategic(&of("resize"), &resize), words).await?;
    let ephemeral = json!({"spec": {"ephemeralContainers": [{"name": "in", "image": "evil:1"}]}});
    attack.write_is_refused("a container", &Write::strategic(&of("ephemeralcontainers"), &ephemeral), words).await?;
    attack.is_refused_alone("a proxy", &Write::connect(&of("proxy/")), words).await?;
    let shell = Write::connect(&of("exec?command=sh&container=app"));
    attack.is_refused_alone("a shell", &shell, words).await
}

#[tokio::test]
async fn an_eviction_says_exactly_which_pod_is_meant() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let path = owned(harness, "shop", missed("evicted")).await?;
    let exact = preconditions(harness, &path).await?;
    let evict = |options: Value| {
        let mut eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"}});
        if options != json!({}) {
            eviction["deleteOptions"] = options;
        }
        Write::create(&format!("{path}/eviction"), &eviction)
    };
    let (precondition, grace, dependents) =
        ("by its uid and its resourceVersion", "does not change a pod's grace period", "no propagation policy");
    for (what, options, words) in [
        ("no options", json!({}), precondition),
        ("no uid", json!({"preconditions": {"resourceVersion": exact["resourceVersion"]}}), precondition),
        ("no version", json!({"preconditions": {"uid": exact["uid"]}}), precondition),
        ("at once", json!({"preconditions": exact, "gracePeriodSeconds": 0}), grace),
        ("a propagation", json!({"preconditions": exact, "propagationPolicy": "Orphan"}), dependents),
    ] {
        attack.write_is_refused(what, &evict(options), words).await?;
    }
    let nowhere = harness.controller_without_a_pod().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    let whole = evict(json!({"preconditions": exact}));
    without_node.write_is_refused("a token of no pod", &whole, "by the token of its pod").await?;
    send(&controller, &whole).await?;
    ensure!(get(&admin, &path).await.is_err(), "it is still there");
    Ok(())
}

#[tokio::test]
async fn the_controller_creates_pods_by_dry_run_only() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    let probe = pod("linkerd-gate-probe").running("app:test").json();
    let of = |namespace: &str| format!("/api/v1/namespaces/{namespace}/pods");
    send(&controller, &Write::create(&of(PROBE), &probe).dry_run()).await?;
    let stays = send(&controller, &Write::create(&of(PROBE), &probe)).await;
    let refused = stays.as_ref().is_err_and(|refusal| refusal.by(POLICY) || refusal.by("linkerd-gate-probe"));
    ensure!(refused, "a pod that stays: {stays:?}");
    let dry = "by dry-run only";
    for elsewhere in ["shop", "linkerd-gate", "kube-system"] {
        attack.write_is_refused(elsewhere, &Write::create(&of(elsewhere), &probe), dry).await?;
        // What an owner's template has is nobody's to refuse here; nothing of it is stored.
        let mut daring = probe.clone();
        daring["spec"]["hostNetwork"] = true.into();
        daring["spec"]["volumes"] = json!([{"name": "root", "hostPath": {"path": "/"}}]);
        attack.write_is_refused(elsewhere, &Write::create(&of(elsewhere), &daring), dry).await?;
        send(&controller, &Write::create(&of(elsewhere), &daring).dry_run()).await?;
        let stored = get(&admin, &format!("{}/linkerd-gate-probe", of(elsewhere))).await;
        ensure!(stored.is_err(), "a dry-run in {elsewhere} was stored: {stored:?}");
    }
    let nowhere = harness.controller_without_a_pod().await?;
    let without_node = Attack { attacker: &nowhere, ..attack };
    without_node
        .write_is_refused("a token of no pod", &Write::create(&of("shop"), &probe).dry_run(), "by the token of its pod")
        .await?;
    let path = format!("{}/linkerd-gate-probe", of("shop"));
    attack.write_is_refused("by apply", &Write::apply(&path, &probe), dry).await?;
    let shares: [(&str, Change); 6] = [
        ("hostNetwork", |pod| pod["spec"]["hostNetwork"] = true.into()),
        ("hostPID", |pod| pod["spec"]["hostPID"] = true.into()),
        ("hostIPC", |pod| pod["spec"]["hostIPC"] = true.into()),
        ("hostPath", |pod| pod["spec"]["volumes"] = json!([{"name": "root", "hostPath": {"path": "/"}}])),
        ("privileged", |pod| pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true})),
        ("a privileged init container", |pod| {
            pod["spec"]["initContainers"] =
                json!([{"name": "init", "image": "init:1", "securityContext": {"privileged": true}}]);
        }),
    ];
    for (what, share) in shares {
        let mut pod = probe.clone();
        share(&mut pod);
        attack.write_is_refused(what, &Write::create(&of(PROBE), &pod).dry_run(), "no access to the host").await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_asking_for_linkerd_no_pod_is_deleted() -> Result<()> {
    let harness = with_every_right().await?;
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let attack = Attack { anybody: &admin, attacker: &controller, policy: ASKED };
    let says = |value: &str| json!({"metadata": {"annotations": {"linkerd.io/inject": value}}});
    let (called, leaves) = ("the API server calls Linkerd's injector", "injector would inject");
    for (name, namespace, over, words) in [
        ("says-disabled", "shop", says("disabled"), leaves),
        ("says-nothing", "shop", says(""), leaves),
        ("says-enabled-wrongly", "shop", says("Enabled"), leaves),
        ("on-the-host", "shop", json!({"spec": {"hostNetwork": true}}), leaves),
        ("with-istio", "shop", json!({"spec": {"initContainers": [{"name": "istio-init", "image": "a:1"}]}}), leaves),
        ("of-the-system", "kube-system", json!({}), called),
        ("of-linkerd", "shop", json!({"metadata": {"labels": {"linkerd.io/control-plane-component": "a"}}}), called),
    ] {
        let mut pod = missed(name);
        json_patch::merge(&mut pod, &over);
        let path = owned(harness, namespace, pod).await?;
        attack.write_is_refused(name, &deletion(harness, &path).await?, words).await?;
    }
    Ok(())
}

/// A pod with a proxy is left alone by two policies; the API server may name either. On a stage of its own: it takes
/// one of them away, so that the other is seen to be enough.
pub async fn meshed_ones_stay(harness: &Harness) -> Result<()> {
    let (admin, controller) = (harness.admin().await?, harness.controller().await?);
    let container = json!({"name": "linkerd-proxy", "image": "proxy:1"});
    let mut paths = Vec::new();
    for (name, part) in [("classic", "containers"), ("native", "initContainers")] {
        let mut pod = missed(name);
        json_patch::merge(&mut pod, &json!({"spec": {part: [container]}}));
        let path = owned(harness, "shop", pod).await?;
        let refused = send(&controller, &deletion(harness, &path).await?).await;
        ensure!(refused.as_ref().is_err_and(|refusal| refusal.by(POLICY) || refusal.by(ASKED)), "{name}: {refused:?}");
        paths.push(path);
    }
    let mut skipped = missed("skipped");
    skipped["metadata"]["annotations"]["linkerd.io/inject"] = "disabled".into();
    let skipped = deletion(harness, &owned(harness, "shop", skipped).await?).await?.dry_run();
    let bindings = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
    send(&admin, &Write::delete(&format!("{bindings}/{ASKED}"))).await?;
    let gone = async {
        while send(&controller, &skipped).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.with_context(|| format!("{ASKED} is still in force"))?;
    let attack = Attack { anybody: &admin, attacker: &controller, policy: POLICY };
    for path in paths {
        let delete = deletion(harness, &path).await?;
        attack.write_is_refused(&path, &delete, "that has a container linkerd-proxy").await?;
    }
    Ok(())
}
