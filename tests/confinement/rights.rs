//! What RBAC gives the agent and the controller: what each needs, and nothing that it could do harm with.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::controller;
use crate::harness::{AGENT, CONTROLLER, Harness, NAMESPACE, PROBE, documents, optional};
use crate::write::{Write, get, send};

/// A right: the role's namespace, the resource, the name it is limited to, the verb.
type Right = (Option<String>, String, Option<String>, String);

/// Some of them: namespace (none: the whole cluster), resource, name (none: any), verbs.
pub type Rights = (Option<&'static str>, &'static str, Option<&'static str>, &'static [&'static str]);

/// Namespace, resource (with its part), name, verb.
pub type Question = (&'static str, &'static str, Option<&'static str>, &'static str);

/// A service account.
struct Account {
    name: &'static str,
    /// What it needs.
    rights: &'static [Rights],
    /// What an intruder would want first.
    dangerous: &'static [Question],
}

const ACCOUNTS: [Account; 2] = [
    Account { name: AGENT, rights: &RIGHTS, dangerous: &DANGEROUS },
    Account { name: CONTROLLER, rights: &controller::rights::RIGHTS, dangerous: &controller::rights::DANGEROUS },
];

/// What the agent needs.
const RIGHTS: [Rights; 12] = [
    (None, "nodes", None, &["list", "watch", "patch"]),
    (None, "mutatingwebhookconfigurations.admissionregistration.k8s.io", None, &["list", "watch"]),
    (None, "namespaces", None, &["list", "watch"]),
    (None, "pods", None, &["list", "watch", "patch"]),
    (None, "daemonsets.apps", None, &["list", "watch"]),
    (None, "endpointslices.discovery.k8s.io", None, &["list", "watch"]),
    (Some(NAMESPACE), "leases.coordination.k8s.io", None, &["create"]),
    (Some(NAMESPACE), "leases.coordination.k8s.io", Some("linkerd-gate"), &["list", "watch", "patch"]),
    (Some(NAMESPACE), "leases.coordination.k8s.io", Some("linkerd-gate-controller"), &["list", "watch"]),
    (Some(NAMESPACE), "daemonsets.apps", Some("linkerd-gate"), &["get"]),
    (Some(PROBE), "pods", None, &["create"]),
    (Some("default"), "events", None, &["create"]),
];

const DANGEROUS: [Question; 37] = [
    ("", "nodes", None, "delete"),
    ("", "nodes", None, "create"),
    ("", "nodes", None, "update"),
    ("", "nodes", Some("node-a"), "get"),
    ("", "nodes/status", None, "patch"),
    ("", "nodes/proxy", None, "get"),
    ("", "nodes/proxy", None, "create"),
    ("", "namespaces", None, "patch"),
    ("", "namespaces", None, "delete"),
    ("kube-system", "secrets", None, "get"),
    ("kube-system", "secrets", None, "list"),
    (NAMESPACE, "secrets", None, "get"),
    ("kube-system", "configmaps", None, "get"),
    ("kube-system", "pods", None, "create"),
    ("kube-system", "pods", None, "delete"),
    ("kube-system", "pods", None, "update"),
    (NAMESPACE, "pods", None, "create"),
    (NAMESPACE, "pods", None, "delete"),
    ("shop", "pods/exec", None, "create"),
    ("shop", "pods/ephemeralcontainers", None, "patch"),
    ("shop", "pods/binding", None, "create"),
    ("shop", "pods/eviction", None, "create"),
    ("shop", "pods/status", None, "patch"),
    ("shop", "pods/log", None, "get"),
    ("kube-system", "serviceaccounts/token", None, "create"),
    (NAMESPACE, "serviceaccounts/token", None, "create"),
    (NAMESPACE, "daemonsets.apps", Some("linkerd-gate"), "patch"),
    (NAMESPACE, "leases.coordination.k8s.io", Some("another"), "patch"),
    (NAMESPACE, "leases.coordination.k8s.io", Some("linkerd-gate-controller"), "patch"),
    (NAMESPACE, "leases.coordination.k8s.io", Some("linkerd-gate"), "delete"),
    ("kube-system", "leases.coordination.k8s.io", None, "patch"),
    ("default", "events", None, "delete"),
    ("", "clusterroles.rbac.authorization.k8s.io", None, "escalate"),
    ("", "clusterrolebindings.rbac.authorization.k8s.io", None, "create"),
    ("", "mutatingwebhookconfigurations.admissionregistration.k8s.io", None, "patch"),
    ("", "validatingadmissionpolicies.admissionregistration.k8s.io", None, "delete"),
    ("", "users", None, "impersonate"),
];

fn expected(rights: &[Rights]) -> BTreeSet<Right> {
    let owned = |text: &str| text.to_owned();
    rights
        .iter()
        .flat_map(|(namespace, resource, name, verbs)| {
            verbs.iter().map(move |verb| (namespace.map(owned), owned(resource), name.map(owned), owned(verb)))
        })
        .collect()
}

/// The rights in a list of rules, of RBAC or of a review of it.
fn rights(namespace: Option<&str>, rules: &Value) -> BTreeSet<Right> {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let words = rule[field].as_array().into_iter().flatten();
        words.map(|word| word.as_str().unwrap_or_default().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in rules.as_array().into_iter().flatten() {
        let names = words(rule, "resourceNames");
        let names = if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                let resource = if group.is_empty() { resource } else { format!("{resource}.{group}") };
                for name in &names {
                    for verb in words(rule, "verbs") {
                        rights.insert((namespace.map(str::to_owned), resource.clone(), name.clone(), verb));
                    }
                }
            }
        }
    }
    rights
}

/// What the rules in these documents give the account: of its name are its roles, and its bindings are to those and to nobody
/// else.
fn given(account: &str, documents: &[Value]) -> Result<BTreeSet<Right>> {
    let mut found = BTreeSet::new();
    let subjects = json!([{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]);
    for document in documents {
        let kind = document["kind"].as_str().context("a kind")?;
        let name = document["metadata"]["name"].as_str().context("a name")?;
        let of_it =
            name == account || ["eviction", "successors"].iter().any(|right| name == format!("{account}-{right}"));
        if matches!(kind, "Role" | "ClusterRole") && of_it {
            ensure!(document.get("aggregationRule").is_none(), "{document:#}");
            found.append(&mut rights(document["metadata"]["namespace"].as_str(), &document["rules"]));
        }
        if matches!(kind, "RoleBinding" | "ClusterRoleBinding") {
            ensure!(document["roleRef"]["name"] == name, "{document:#}");
            ensure!((document["subjects"] == subjects) == of_it, "{document:#}");
        }
    }
    Ok(found)
}

#[test]
fn the_manifests_give_exactly_the_rights_that_are_written_down() -> Result<()> {
    for Account { name, rights, .. } in ACCOUNTS {
        let (found, expected) = (given(name, &documents()?)?, expected(rights));
        ensure!(found == expected, "{name}: {:#?}", found.symmetric_difference(&expected).collect::<Vec<_>>());
    }
    let roles = documents()?.into_iter().filter(|document| {
        let of_an_account = ACCOUNTS.iter().any(|account| document["metadata"]["name"] == account.name);
        document["kind"].as_str().is_some_and(|kind| kind.ends_with("Role")) && !of_an_account
    });
    let roles: Vec<Value> = roles.collect();
    ensure!(roles.is_empty(), "somebody else's: {roles:#?}");

    let eviction = given(CONTROLLER, &optional("70-controller-eviction-rbac.yaml")?)?;
    let right = (None, "pods/eviction".to_owned(), None, "create".to_owned());
    ensure!(eviction == BTreeSet::from([right]), "{eviction:#?}");
    let successors = given(CONTROLLER, &optional("74-controller-successors-rbac.yaml")?)?;
    let rights = [("pods", "create"), ("resourcequotas", "list")];
    let rights = rights.map(|(resource, verb)| (None, resource.to_owned(), None, verb.to_owned()));
    ensure!(successors == BTreeSet::from(rights), "{successors:#?}");
    Ok(())
}

#[test]
fn what_rights_are_documented_are_those_that_are_given() -> Result<()> {
    let page = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md"))?;
    let part = |title: &str| page.split("\n# ").find(|part| part.contains(title)).context("a part of each");
    let (agent, controller) = (part("What the agent may do")?, part("What the controller may do")?);
    for (Account { name, rights, .. }, part) in ACCOUNTS.into_iter().zip([agent, controller]) {
        for (_, resource, _, verbs) in rights {
            let row = format!("`{}`: {}", resource.split('.').next().unwrap_or_default(), verbs.join(", "));
            ensure!(part.contains(&row), "docs/security.md has no row of {name} that begins with {row}");
        }
    }
    // What can be switched on: each file, and after its name a row of each right that it gives.
    for file in ["70-controller-eviction-rbac.yaml", "74-controller-successors-rbac.yaml"] {
        let (_, section) = controller.split_once(&format!("optional/{file}")).with_context(|| file.to_owned())?;
        for (_, resource, _, verb) in given(CONTROLLER, &optional(file)?)? {
            let row = format!("\n| `{resource}`: {verb}");
            let table = section.split("\n\n").nth(1).context("a table after the file's name")?;
            ensure!(format!("\n{table}").contains(&row), "docs/security.md: {file} has no row that begins with {row}");
        }
    }
    Ok(())
}

/// On one stage, one after the other.
#[tokio::test]
async fn both_may_do_what_they_need_and_nothing_dangerous() -> Result<()> {
    let harness = Harness::as_installed().await?;
    harness.cluster.reported(&[NAMESPACE], Box::pin(exercise(&harness))).await
}

async fn exercise(harness: &Harness) -> Result<()> {
    let pods = [harness.agents_pod("node-a").await?, harness.controllers_pod().await?];
    for (account, pod) in ACCOUNTS.iter().zip(&pods) {
        let client = harness.cluster.client_as_pod(NAMESPACE, pod).await?;
        asked(&client, account).await.with_context(|| account.name)?;
    }
    // By kubectl as a person would ask, with the same tokens.
    for (pod, question, answer) in [
        (&pods[0], ["patch", "nodes"], "yes"),
        (&pods[0], ["delete", "nodes"], "no"),
        (&pods[0], ["get", "secrets"], "no"),
        (&pods[1], ["delete", "pods"], "yes"),
        (&pods[1], ["create", "pods"], "no"),
        (&pods[1], ["create", "pods/eviction"], "no"),
    ] {
        let asked = tokio::process::Command::new(harness.cluster.kubectl())
            .args(["auth", "can-i"])
            .args(question)
            .env("KUBECONFIG", harness.cluster.kubeconfig_as_pod(NAMESPACE, pod).await?)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&asked.stdout);
        ensure!(said.trim() == answer, "can-i {question:?}: {asked:?}");
    }
    agents_day(harness).await?;
    controller::rights::day(harness).await?;
    readme_commands(harness).await?;
    controller::rights::readme_commands(harness).await?;
    Box::pin(controller::asked::exercise(harness)).await?;
    controller::pods::meshed_ones_stay(harness).await?;
    crate::essential::exercise(harness).await
}

/// What the API server says of an account's rights, asked by itself.
async fn asked(client: &kube::Client, account: &Account) -> Result<()> {
    let may = async |namespace: &str, resource: &str, name: Option<&str>, verb: &str| -> Result<bool> {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = json!({
            "namespace": namespace, "group": group, "resource": resource, "subresource": part, "verb": verb,
            "name": name.unwrap_or_default(),
        });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = send(client, &Write::create(path, &review)).await?;
        answer["status"]["allowed"].as_bool().context("an answer")
    };
    for (namespace, resource, name, verbs) in account.rights {
        for verb in *verbs {
            // A right to the whole cluster is one to any namespace.
            let namespace = namespace.unwrap_or_default();
            ensure!(may(namespace, resource, *name, verb).await?, "it may not {verb} {resource} in {namespace:?}");
        }
    }
    for (namespace, resource, name, verb) in account.dangerous {
        ensure!(!may(namespace, resource, *name, verb).await?, "it may {verb} {resource} in {namespace:?}");
    }

    // Nor anything else that nobody thought of: the API server's own list.
    let rights_of_it = expected(account.rights);
    let cluster: BTreeSet<Right> = rights_of_it.iter().filter(|(namespace, ..)| namespace.is_none()).cloned().collect();
    for namespace in [NAMESPACE, PROBE, "default", "kube-system", "shop"] {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
        let answer = send(client, &Write::create(path, &review)).await?;
        let mut found = rights(Some(namespace), &answer["status"]["resourceRules"]);
        // What everybody may: ask about oneself (system:basic-user).
        found.retain(|(_, resource, ..)| !(resource.starts_with("selfsubject") && resource.ends_with(".k8s.io")));
        let mut expected: BTreeSet<Right> =
            rights_of_it.iter().filter(|(of, ..)| of.as_deref() == Some(namespace)).cloned().collect();
        expected.extend(
            cluster.iter().cloned().map(|(_, resource, name, verb)| (Some(namespace.to_owned()), resource, name, verb)),
        );
        let differ: Vec<_> = found.symmetric_difference(&expected).collect();
        ensure!(differ.is_empty(), "in {namespace}: {differ:#?}");
    }
    Ok(())
}

/// Every kind of request that an agent makes, with the rights that the manifests give and no others.
async fn agents_day(harness: &Harness) -> Result<()> {
    let agent = harness.agent("node-a").await?;
    for path in [
        "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-a",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        "/api/v1/namespaces",
        "/api/v1/pods",
        "/api/v1/namespaces/kube-system/pods?fieldSelector=spec.nodeName%3D",
        "/apis/apps/v1/daemonsets",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        "/apis/apps/v1/namespaces/linkerd-gate/daemonsets/linkerd-gate",
        // RBAC knows a list to be of one name by this selector.
        "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases?fieldSelector=metadata.name%3Dlinkerd-gate",
        "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases?fieldSelector=metadata.name%3Dlinkerd-gate-controller",
    ] {
        get(&agent, path).await.with_context(|| format!("GET {path}"))?;
    }
    let closed = json!({"key": "linkerd-gate/closed", "value": "3f2a9c1e5b1d-7", "effect": "NoSchedule"});
    let close = json!([{"op": "add", "path": "/spec/taints/-", "value": closed}]);
    send(&agent, &Write::json_patch("/api/v1/nodes/node-a", &close)).await?;
    let opened = json!({"metadata": {"annotations": {"linkerd-gate/opened-boot": "3f2a9c1e"}}});
    send(&agent, &Write::merge("/api/v1/nodes/node-a", &opened)).await?;
    let waiting = harness.waiting_pod("kube-system", "day").await?;
    let tolerate = json!([{"op": "add", "path": "/spec/tolerations/-", "value": crate::pods::toleration()}]);
    send(&agent, &Write::json_patch(&waiting, &tolerate)).await?;
    let lease = json!({"metadata": {"name": "linkerd-gate"}, "spec": {"holderIdentity": "node-a/pod/boot"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/linkerd-gate/leases";
    send(&agent, &Write::create(leases, &lease)).await?;
    let verdict = json!({"metadata": {"annotations": {"linkerd-gate/verdict": "{}"}}});
    send(&agent, &Write::merge(&format!("{leases}/linkerd-gate"), &verdict)).await?;
    let proof = linkerd_gate_kit::object::pod("proof").running("app:test").json();
    send(&agent, &Write::create(&format!("/api/v1/namespaces/{PROBE}/pods"), &proof).dry_run()).await?;
    let event = json!({
        "metadata": {"generateName": "linkerd-gate-"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": "node-a"},
    });
    send(&agent, &Write::create("/api/v1/namespaces/default/events", &event)).await?;
    Ok(())
}

/// The commands of `deploy/manifests/README.md` for a node whose agent could not free it. One node has something to free;
/// that the others have not stops nothing.
async fn readme_commands(harness: &Harness) -> Result<()> {
    let page = std::fs::read_to_string(crate::harness::manifests().join("README.md"))?;
    let commands: Vec<&str> = page.lines().filter(|line| line.contains(" nodes --all ")).collect();
    ensure!(commands.len() == 2, "{commands:?}");
    for command in commands {
        let arguments = command.strip_prefix("kubectl ").context("a command of kubectl's")?.split(' ');
        tokio::process::Command::new(harness.cluster.kubectl()).args(arguments).output().await?;
    }
    let node = get(&harness.admin().await?, "/api/v1/nodes/node-a").await?;
    let taints = node["spec"]["taints"].as_array().context("taints")?;
    ensure!(!taints.iter().any(|taint| taint["key"] == "linkerd-gate/closed"), "{node:#}");
    ensure!(node["metadata"]["annotations"].get("linkerd-gate/opened-boot").is_none(), "{node:#}");
    ensure!(taints.len() == 2, "somebody else's taints: {node:#}");
    Ok(())
}
