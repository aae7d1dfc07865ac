//! With the injector answering: what is injected is stored as it would be without the policies, byte for byte.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use linkerd_gate::linkerd::meshed;
use linkerd_gate::linkerd::webhook::chart_default;
use linkerd_gate_kit::cluster::LoopbackAddress;
use linkerd_gate_kit::object::{namespace, pod};
use linkerd_gate_kit::standin::{Certificates, Fault, Injector, Namespaces, Sidecar, Standin};
use serde_json::{Value, json};

use crate::answer::{Answer, GATE, create, dry_run, gates};
use crate::harness::{Admission, Harness, Parameters};
use crate::load::load;

/// A cluster with an injector, which is called by every webhook of Linkerd's that is installed through it.
pub struct Linkerd {
    /// The cluster.
    pub harness: Harness,
    /// The injector.
    pub injector: Standin,
    /// What the injector knows of namespaces.
    known: Namespaces,
    certificates: Certificates,
    _address: LoopbackAddress,
}

#[tokio::test]
async fn what_is_injected_is_what_it_is_without_the_policies() -> Result<()> {
    let linkerd = Linkerd::set().await?;
    let corpus = load()?;
    let mut cases = Vec::new();
    for case in corpus.cases.iter().filter(|case| case.token_projection) {
        let name = linkerd.namespace_as(&case.namespace, cases.len()).await?;
        let mut pod = case.pod.clone();
        pod.metadata.namespace = Some(name);
        cases.push((case, pod));
    }
    let mut without: BTreeMap<&str, (Answer, Value)> = BTreeMap::new();
    let (mut injected, mut held, mut wrong) = (0, 0, Vec::new());
    for with_policies in [false, true] {
        if with_policies {
            linkerd.harness.await_admission(Admission::Hold, true, Parameters::Labelled).await?;
        }
        for (webhook, configurations) in &corpus.webhooks {
            let here = cases.iter().filter(|(case, _)| case.webhook == *webhook).collect::<Vec<_>>();
            if here.is_empty() {
                continue;
            }
            linkerd.install(configurations).await?;
            for (case, pod) in here {
                let answer = dry_run(&linkerd.harness.admin, pod).await?;
                let shown = comparable(&answer)?;
                if !with_policies {
                    without.insert(&case.name, (answer, shown));
                    continue;
                }
                let (before, expected) = &without[case.name.as_str()];
                injected += usize::from(shown["status"].is_object() && is_meshed(&answer));
                // What the injector left bare although it asks, as the corpus has it in the API server's way, is caught.
                if answer.is_held() || answer.is_missed() {
                    held += 1;
                    if is_meshed(before) {
                        wrong.push(format!("{}: injected without the policies, {answer:?} with them", case.name));
                    }
                } else if shown != *expected {
                    wrong.push(format!("{}: {expected:#}\nbecame {shown:#}", case.name));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    ensure!(injected > cases.len() / 4 && held < 5, "{injected} of {} injected, {held} held", cases.len());
    eprintln!("injector: {injected} of {} injected as without the policies, {held} held", cases.len());
    Ok(())
}

/// Native and classic, with gates of other programs around, created and not only tried; and as an owner's pods.
#[tokio::test]
async fn a_meshed_pod_keeps_foreign_gates_and_has_none_of_ours() -> Result<()> {
    let linkerd = Linkerd::set().await?;
    let harness = &linkerd.harness;
    harness.await_admission(Admission::Hold, true, Parameters::Labelled).await?;
    linkerd.namespace("shop").await?;
    linkerd.install(&[chart_default()]).await?;
    for (name, others) in [
        ("alone", json!(null)),
        ("beside", json!([{"name": "example.com/quota"}, {"name": "example.com/volume"}])),
        ("pasted", json!([{"name": GATE}])),
        ("between", json!([{"name": "example.com/quota"}, {"name": GATE}, {"name": "example.com/volume"}])),
    ] {
        for classic in [false, true] {
            let asking = pod(&format!("{name}-{classic}")).in_namespace("shop").running("app:test");
            let asking = if classic { asking.with_classic_sidecar() } else { asking };
            let asking = asking.spec_field("schedulingGates", others.clone());
            let sent: Pod = serde_json::from_value(asking.json())?;
            let expected: Vec<&str> = gates(&sent).into_iter().filter(|gate| *gate != GATE).collect();
            let Answer::Admitted(stored, warnings) = create(&harness.admin, &sent).await? else {
                bail!("{name}: held")
            };
            ensure!(meshed(&stored) && warnings.is_empty(), "{name}: {:?}", stored.spec);
            ensure!(gates(&stored) == expected, "{name}: {:?}", gates(&stored));
            // The injector is away: ours comes last, and the others stay.
            linkerd.injector.suffer(Fault::Absent).await?;
            let mut bare = sent.clone();
            bare.metadata.name = Some(format!("{name}-{classic}-bare"));
            let Answer::Held(stored, _) = create(&harness.admin, &bare).await? else { bail!("{name}: not held") };
            let mut expected = gates(&bare);
            if !expected.contains(&GATE) {
                expected.push(GATE);
            }
            ensure!(gates(&stored) == expected, "{name}: {:?}", gates(&stored));
            linkerd.injector.recover().await?;
        }
    }
    Ok(())
}

/// Whoever deletes the binding and applies it again, and whoever changes the webhook's selectors: the policies follow.
#[tokio::test]
async fn the_policies_follow_the_live_webhook_and_their_own_binding() -> Result<()> {
    let linkerd = Linkerd::set().await?;
    let harness = &linkerd.harness;
    linkerd.namespace("shop").await?;
    linkerd.namespace("mesh-only").await?;
    harness.await_admission(Admission::Hold, true, Parameters::Labelled).await?;
    linkerd.injector.suffer(Fault::Absent).await?;
    linkerd.install(&[chart_default()]).await?;
    let asking = |namespace: &str| -> Result<Pod> {
        Ok(serde_json::from_value(pod("web").in_namespace(namespace).running("app:test").json())?)
    };
    let (shop, mesh_only) = (asking("shop")?, asking("mesh-only")?);
    for _ in 0..2 {
        ensure!(
            dry_run(&harness.admin, &shop).await?.is_held() && dry_run(&harness.admin, &mesh_only).await?.is_held()
        );
        // Without hold's binding the guard refuses, and what has become of the selectors meanwhile counts when it is back.
        harness.delete("mutatingadmissionpolicybindings/linkerd-gate-hold").await?;
        harness.until("refused without hold's binding", &shop, Answer::is_missed).await?;
        let mut narrowed = chart_default();
        for webhook in narrowed.webhooks.iter_mut().flatten() {
            webhook.namespace_selector =
                serde_json::from_value(json!({"matchLabels": {"kubernetes.io/metadata.name": "mesh-only"}}))?;
        }
        linkerd.install(&[narrowed]).await?;
        ensure!(dry_run(&harness.admin, &shop).await?.is_admitted(), "the guard looks at what is no longer selected");
        harness.kubectl_apply("60-admission-hold.yaml").await?;
        harness.until("held again", &mesh_only, Answer::is_held).await?;
        ensure!(dry_run(&harness.admin, &shop).await?.is_admitted(), "held, and not selected");
        linkerd.install(&[chart_default()]).await?;
        ensure!(dry_run(&harness.admin, &shop).await?.is_held(), "selected again, and not held");
    }
    Ok(())
}

// === impl Linkerd ===

impl Linkerd {
    /// An injector in its namespace `linkerd`. No webhook configuration is installed yet.
    pub async fn set() -> Result<Self> {
        let harness = Harness::set().await?;
        let address = LoopbackAddress::claim()?;
        let certificates = Certificates::for_injector("linkerd")?;
        let known = Namespaces::any();
        let injector = Injector::new(certificates.clone(), &known, Sidecar::genuine("linkerd"))
            .serving_on((address.ip(), 443).into())
            .start()
            .await?;
        harness.namespace(namespace("linkerd")).await?;
        harness.cluster.expose("linkerd", "linkerd-proxy-injector", address.ip(), &[(443, 443)]).await?;
        Ok(Self { harness, injector, known, certificates, _address: address })
    }

    /// A namespace that asks.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        self.known.annotate(name, "linkerd.io/inject", "enabled");
        self.harness.namespace(namespace(name).asking()).await
    }

    /// A namespace as a case of the corpus has it, under a name of its own unless the name matters.
    async fn namespace_as(&self, wanted: &k8s_openapi::api::core::v1::Namespace, number: usize) -> Result<String> {
        let mut namespace = wanted.clone();
        let name = match wanted.metadata.name.as_deref() {
            Some("corpus") | None => format!("corpus-{number}"),
            Some(other) => other.to_owned(),
        };
        for (key, value) in wanted.metadata.annotations.iter().flatten() {
            self.known.annotate(&name, key, value);
        }
        namespace.metadata.name = Some(name.clone());
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.harness.admin.clone());
        if api.get_opt(&name).await?.is_none() {
            self.harness.cluster.create_namespace(&namespace).await?;
        }
        Ok(name)
    }

    /// Installs these webhook configurations and no others; what is Linkerd's calls the injector.
    pub async fn install(&self, configurations: &[MutatingWebhookConfiguration]) -> Result<()> {
        let mut configurations = configurations.to_vec();
        for webhook in configurations.iter_mut().flat_map(|other| other.webhooks.iter_mut().flatten()) {
            let service = webhook.client_config.service.as_mut().context("a webhook without a service")?;
            if service.name.contains("injector") {
                "linkerd".clone_into(&mut service.namespace);
                "linkerd-proxy-injector".clone_into(&mut service.name);
                service.port = None;
                let bundle = self.certificates.ca_bundle().as_bytes().to_vec();
                webhook.client_config.ca_bundle = Some(k8s_openapi::ByteString(bundle));
            }
        }
        self.harness.install(&configurations).await
    }
}

fn is_meshed(answer: &Answer) -> bool {
    matches!(answer, Answer::Admitted(pod, _) | Answer::Held(pod, _) if meshed(pod))
}

/// The whole pod, but for what is made up for each: its identity, its times, the name of the volume with its token.
fn comparable(answer: &Answer) -> Result<Value> {
    let (Answer::Admitted(pod, warnings) | Answer::Held(pod, warnings)) = answer else {
        return Ok(format!("{answer:?}").into());
    };
    let mut shown = serde_json::to_value(pod)?;
    for field in ["uid", "creationTimestamp", "managedFields"] {
        shown["metadata"].as_object_mut().context("metadata")?.remove(field);
    }
    shown["warnings"] = json!(warnings);
    let text = shown.to_string();
    let text = match text.split_once("kube-api-access-").and_then(|(_, rest)| rest.get(..5)) {
        Some(made_up) => text.replace(&format!("kube-api-access-{made_up}"), "the-token"),
        None => text,
    };
    Ok(serde_json::from_str(&text)?)
}
