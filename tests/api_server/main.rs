//! What `wait` asks of the API server, asked of a genuine one: with exactly the Role that `examples/replace.yaml` gives, and
//! with each part of it missing. The injector is a stand-in behind the chart's own webhook configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use linkerd_gate::cluster::{self, Deletion, RequestError};
use linkerd_gate::decide::ProbeResult;
use linkerd_gate_kit::cluster::{Api as Cluster, LoopbackAddress};
use linkerd_gate_kit::object::{namespace, pod, service, webhook_configuration};
use linkerd_gate_kit::standin::{Certificates, Fault, Injector, Namespaces, Sidecar, Standin};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A cluster whose API server calls an injector stand-in.
struct Harness {
    cluster: Cluster,
    injector: Standin,
    _address: LoopbackAddress,
}

#[tokio::test]
async fn replacing_ones_own_pod_on_a_genuine_api_server() -> Result<()> {
    let stage = Harness::set().await?;
    let exercise = async {
        examples_are_valid(&stage).await?;
        a_proof_tells_injection_from_its_absence(&stage).await?;
        a_proof_says_what_becomes_of_the_next_pod(&stage).await?;
        a_refusal_names_the_right_that_is_missing(&stage).await?;
        only_the_pod_of_that_uid_is_deleted(&stage).await
    };
    stage.cluster.reported(&[], exercise).await
}

// === impl Stage ===

impl Harness {
    async fn set() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let address = LoopbackAddress::claim()?;
        let certificates = Certificates::for_injector("linkerd")?;
        let namespaces = Namespaces::any().asking("shop");
        let injector = Injector::new(certificates.clone(), &namespaces, Sidecar::genuine("linkerd"))
            .serving_on((address.ip(), 443).into())
            .start()
            .await?;

        let client = cluster.client().await?;
        cluster.create_namespace(&object(namespace("linkerd").without_admission_webhooks().json())?).await?;
        cluster.create_namespace(&object(namespace("shop").asking().json())?).await?;
        let account = replace_example()?.remove("ServiceAccount").context("no ServiceAccount in the example")?;
        create::<ServiceAccount>(&Api::namespaced(client.clone(), "shop"), account).await?;
        let behind = service("linkerd-proxy-injector").in_namespace("linkerd").external_name(&address.ip().to_string());
        create::<Service>(&Api::namespaced(client.clone(), "linkerd"), behind.json()).await?;
        let configuration = webhook_configuration("linkerd").ca_bundle(certificates.ca_bundle());
        create::<MutatingWebhookConfiguration>(&Api::all(client.clone()), configuration.json()).await?;

        let stage = Self { cluster, injector, _address: address };
        // The API server learns of a new webhook a moment later: ask until it does.
        let pods: Api<Pod> = Api::namespaced(client, "shop");
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let probe: Pod = object(pod("is-it-called").json())?;
        tokio::time::timeout(std::time::Duration::from_mins(1), async {
            while stage.injector.requests() == 0 {
                pods.create(&dry_run, &probe).await?;
            }
            anyhow::Ok(())
        })
        .await??;
        Ok(stage)
    }

    /// A pod of the shop's, as the API server stored it.
    async fn create_pod(&self, name: &str) -> Result<Pod> {
        let pods = Api::namespaced(self.cluster.client().await?, "shop");
        create(&pods, pod(name).with_gate("gate:1").as_service_account("web-replace").json()).await
    }
}

fn object<T: DeserializeOwned>(json: Value) -> Result<T> {
    serde_json::from_value(json).context("a builder made something that is no such object")
}

async fn create<T>(api: &Api<T>, json: Value) -> Result<T>
where
    T: kube::Resource + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    Ok(api.create(&PostParams::default(), &object(json)?).await?)
}

/// The documents of `examples/replace.yaml` by kind.
fn replace_example() -> Result<BTreeMap<String, Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/replace.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path)?)?;
    Ok(documents
        .into_iter()
        .map(|document| (document["kind"].as_str().unwrap_or_default().to_owned(), document))
        .collect())
}

/// Each example is taken by a genuine API server, as strictly as it can: unknown fields are errors.
async fn examples_are_valid(stage: &Harness) -> Result<()> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for example in ["deployment.yaml", "statefulset.yaml", "job.yaml", "replace.yaml"] {
        let output = tokio::process::Command::new(stage.cluster.kubectl())
            .args(["apply", "--namespace=shop", "--dry-run=server", "--validate=strict", "--filename"])
            .arg(examples.join(example))
            .arg("--kubeconfig")
            .arg(stage.cluster.kubeconfig())
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

async fn a_proof_tells_injection_from_its_absence(stage: &Harness) -> Result<()> {
    let admin = stage.cluster.client().await?;
    stage.injector.suffer(Fault::Absent).await?;
    let own = stage.create_pod("missed").await?;

    let outcome = cluster::prove(admin.clone(), &own).await?;
    ensure!(matches!(outcome, ProbeResult::NotReady(_)), "with the injector absent: {outcome}");

    stage.injector.suffer(Fault::NotReady).await?;
    let outcome = cluster::prove(admin.clone(), &own).await?;
    ensure!(matches!(outcome, ProbeResult::NotReady(_)), "while the injector denies: {outcome}");
    ensure!(outcome.to_string().contains("not found"), "{outcome}");

    // An API server keeps its connection to a webhook: a new certificate shows only after that connection is cut.
    stage.injector.suffer(Fault::Absent).await?;
    stage.injector.suffer(Fault::Certificate(linkerd_gate_kit::standin::Flaw::Authority)).await?;
    let outcome = cluster::prove(admin.clone(), &own).await?;
    ensure!(matches!(outcome, ProbeResult::NotReady(_)), "with a certificate outside the bundle: {outcome}");

    stage.injector.recover().await?;
    let outcome = cluster::prove(admin.clone(), &own).await?;
    ensure!(outcome.is_ready(), "with the injector back: {outcome}");

    let pods: Api<Pod> = Api::namespaced(admin, "shop");
    let stored: Vec<_> =
        pods.list(&ListParams::default()).await?.items.into_iter().filter_map(|pod| pod.metadata.name).collect();
    ensure!(stored == ["missed"], "a proof stored something: {stored:?}");
    pods.delete("missed", &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}

/// The proof is ready exactly where the pod's real successor would be admitted with a proxy.
async fn a_proof_says_what_becomes_of_the_next_pod(stage: &Harness) -> Result<()> {
    let admin = stage.cluster.client().await?;
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "shop");
    let base = |name: &str| pod(name).with_gate("gate:1").as_service_account("web-replace");
    let beside = |name: &str, container: &str| {
        let mut json = base(name).json();
        let containers = json["spec"]["containers"].as_array_mut().context("no containers")?;
        containers.push(json!({"name": container, "image": "mirror.test/some:1"}));
        anyhow::Ok(json)
    };
    let armour = "container.apparmor.security.beta.kubernetes.io/app";
    let cases = [
        ("plain", base("plain").json(), true),
        ("host", base("host").on_the_hosts_network().json(), false),
        ("another-mesh", beside("another-mesh", "istio-proxy")?, false),
        ("same-name", beside("same-name", "linkerd-init")?, false),
        ("labelled", base("labelled").labelled("linkerd.io/cni-resource", "x").json(), false),
        ("armoured", base("armoured").annotated(armour, "runtime/default").json(), true),
    ];
    for (name, json, expected) in cases {
        same_for_proof_and_successor(stage, name, json, expected).await?;
    }

    let namespaces: Api<Namespace> = Api::all(admin);
    let label =
        |level: Value| Patch::Merge(json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}}));
    namespaces.patch("shop", &PatchParams::default(), &label("baseline".into())).await?;
    same_for_proof_and_successor(stage, "confined", base("confined").json(), false).await?;
    namespaces.patch("shop", &PatchParams::default(), &label(Value::Null)).await?;
    for own in pods.list(&ListParams::default()).await? {
        pods.delete(&own.metadata.name.unwrap_or_default(), &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(())
}

async fn same_for_proof_and_successor(stage: &Harness, name: &str, json: Value, expected: bool) -> Result<()> {
    let admin = stage.cluster.client().await?;
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "shop");
    stage.injector.suffer(Fault::Absent).await?;
    let own: Pod = create(&pods, json.clone()).await?;
    stage.injector.recover().await?;
    let mut successor: Pod = object(json)?;
    successor.metadata.name = Some(format!("{name}-next"));
    let admitted = pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &successor).await;
    let meshed = admitted.as_ref().is_ok_and(linkerd_gate::linkerd::meshed);
    ensure!(meshed == expected, "{name}: the API server says {admitted:?}");
    let proof = cluster::prove(admin, &own).await?;
    ensure!(proof.is_ready() == expected, "{name}: the next pod would be meshed: {expected}; the proof says {proof}");
    Ok(())
}

async fn a_refusal_names_the_right_that_is_missing(stage: &Harness) -> Result<()> {
    let admin = stage.cluster.client().await?;
    let mut example = replace_example()?;
    let mut take = |kind: &str| example.remove(kind).with_context(|| format!("no {kind} in the example"));
    let role = take("Role")?;
    let verbs = role["rules"][0]["verbs"].as_array().context("verbs")?.clone();

    stage.injector.suffer(Fault::Absent).await?;
    let own = stage.create_pod("held").await?;
    stage.injector.recover().await?;
    let (name, uid) = (own.metadata.name.as_deref().context("name")?, own.metadata.uid.as_deref().context("uid")?);

    create::<RoleBinding>(&Api::namespaced(admin.clone(), "shop"), take("RoleBinding")?).await?;
    let roles: Api<Role> = Api::namespaced(admin.clone(), "shop");
    for missing in &verbs {
        let mut reduced = role.clone();
        reduced["rules"][0]["verbs"].as_array_mut().context("verbs")?.retain(|verb| verb != missing);
        create(&roles, reduced).await?;
        let client = || stage.cluster.client_as("shop", "web-replace");
        let refused = until_rights_are_known(&verbs, missing, client, &own).await?;
        ensure!(refused.contains(&format!("may not {}", missing.as_str().unwrap_or_default())), "{missing}: {refused}");
        ensure!(refused.contains("--serviceaccount=shop:web-replace"), "{refused}");
        roles.delete("linkerd-gate-replace", &DeleteParams::default()).await?;
    }

    // The whole Role, and every call that `replace` makes with it: nothing is missing, and no verb is idle.
    create(&roles, role).await?;
    let client = stage.cluster.client_as("shop", "web-replace").await?;
    let proven = tokio::time::timeout(std::time::Duration::from_mins(1), async {
        loop {
            match cluster::prove(client.clone(), &own).await {
                Ok(outcome) => return Ok(outcome),
                Err(RequestError::Refused(_)) => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
    })
    .await??;
    ensure!(proven.is_ready(), "{proven}");
    ensure!(cluster::get(client.clone(), "shop", name).await?.is_some(), "the pod can be read");
    ensure!(cluster::delete(client, "shop", name, uid).await? == Deletion::Deleted, "the pod can be deleted");
    Ok(())
}

/// RBAC follows a change a moment later: makes the call whose verb is missing until it is refused.
async fn until_rights_are_known<F: Future<Output = Result<kube::Client>>>(
    verbs: &[Value],
    missing: &Value,
    client: impl Fn() -> F,
    own: &Pod,
) -> Result<String> {
    let client = client().await?;
    let calls = async {
        loop {
            let result = match missing.as_str() {
                Some("get") => cluster::get(client.clone(), "shop", "held").await.map(drop),
                Some("create") => cluster::prove(client.clone(), own).await.map(drop),
                // Another uid, so that nothing is deleted before the right is gone.
                Some("delete") => cluster::delete(client.clone(), "shop", "held", "another").await.map(drop),
                _ => bail!("the example's Role has a verb that no call uses: {missing} in {verbs:?}"),
            };
            match result {
                Err(RequestError::Refused(refusal)) => return Ok(refusal.to_string()),
                Err(error) => return Err(error.into()),
                Ok(()) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), calls).await?
}

async fn only_the_pod_of_that_uid_is_deleted(stage: &Harness) -> Result<()> {
    let admin = stage.cluster.client().await?;
    let own = stage.create_pod("young").await?;
    let uid = own.metadata.uid.context("uid")?;
    let deletion = cluster::delete(admin.clone(), "shop", "young", "the-uid-of-its-predecessor").await?;
    ensure!(deletion == Deletion::AlreadyGone, "{deletion:?}");
    let still = cluster::get(admin.clone(), "shop", "young").await?.context("the younger pod was deleted")?;
    ensure!(
        still.metadata.uid.as_deref() == Some(&*uid) && still.metadata.deletion_timestamp.is_none(),
        "it was touched"
    );
    ensure!(cluster::delete(admin, "shop", "young", &uid).await? == Deletion::Deleted, "the right uid deletes");
    Ok(())
}
