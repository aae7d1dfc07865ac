//! The whole corpus: what is missed by Rust's rules and by the corpus is held, or refused by the guard alone, and nothing else.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::Api;
use linkerd_gate::linkerd::{TokenProjection, WebhookView, missed};
use linkerd_gate_kit::object::{namespace, pod};
use serde_json::json;

use crate::answer::{Answer, dry_run};
use crate::harness::{Admission, Expected, Harness, Parameters, view};
use crate::load::{Case, Corpus, Expect, load};

/// A case, and the pod and the namespace that an API server makes of it.
struct Genuine<'a> {
    case: &'a Case,
    namespace: Namespace,
    /// What is sent.
    pod: Pod,
    /// What admission sees, the mutating part of it done; nothing where the pod is refused as it is.
    admitted: Option<Pod>,
}

#[tokio::test]
async fn what_is_missed_by_rust_and_by_the_corpus_is_held_or_refused() -> Result<()> {
    let harness = Harness::set().await?;
    let corpus = load()?;
    let cases = genuine(&harness, &corpus).await?;

    let mut wrong = Vec::new();
    let mut counted: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (admission, token_projection, parameters) in [
        (Admission::Refuse, true, Parameters::Labelled),
        (Admission::Refuse, true, Parameters::All),
        (Admission::Refuse, false, Parameters::Labelled),
        (Admission::Hold, false, Parameters::Labelled),
        (Admission::Hold, true, Parameters::All),
        (Admission::Hold, true, Parameters::Labelled),
    ] {
        harness.await_admission(admission, token_projection, parameters).await?;
        for (webhook, configurations) in &corpus.webhooks {
            let here = |genuine: &&Genuine<'_>| {
                genuine.case.webhook == *webhook && genuine.case.token_projection == token_projection
            };
            let cases: Vec<_> = cases.iter().filter(here).collect();
            if cases.is_empty() {
                continue;
            }
            harness.install(configurations).await?;
            let view = view(configurations, parameters)?;
            // Whatever the files say, what the corpus is about is looked at, but for what has lost its label.
            let whole = view == WebhookView::new(configurations)?;
            ensure!(whole || (webhook == "renamed" && parameters == Parameters::Labelled), "{webhook}: not looked at");
            for genuine in cases {
                let answer = dry_run(&harness.admin, &genuine.pod).await?;
                let (asked, caught) = counted.entry(format!("{admission:?}")).or_default();
                *asked += 1;
                *caught += usize::from(answer.is_held() || answer.is_missed());
                if let Err(difference) = genuine.agrees(admission, &view, whole, &answer) {
                    let Case { file, name, reasons, .. } = genuine.case;
                    wrong.push(format!("{admission:?}: {file}: {name} {reasons:?}: {difference:#}"));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    for (admission, (asked, caught)) in counted {
        ensure!(asked > cases.len() && caught > asked / 4 && caught < asked, "{admission}: {caught} of {asked}");
        eprintln!("corpus: {admission}: {caught} of {asked} pods held or refused, in {} cases", cases.len());
    }
    Ok(())
}

/// An API server mounts a token into all containers or into none: the corpus alone cannot tell the first one from the others.
#[tokio::test]
async fn without_token_projection_the_first_container_needs_a_token() -> Result<()> {
    let harness = Harness::set().await?;
    harness.cluster.create_namespace(&serde_json::from_value(namespace("tokenless").asking().json())?).await?;
    harness.mount_no_tokens("tokenless").await?;
    let asked = Api::<Namespace>::all(harness.admin.clone()).get("tokenless").await?;
    harness.await_admission(Admission::Hold, false, Parameters::Labelled).await?;
    let token = json!([{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
    for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
        let mounts = |mounted: bool| if mounted { token.clone() } else { json!([]) };
        let mut pod = pod("two").in_namespace("tokenless").running("app:test").json();
        pod["spec"]["containers"] = json!([
            {"name": "first", "image": "app:test", "volumeMounts": mounts(first)},
            {"name": "second", "image": "app:test", "volumeMounts": mounts(second)},
        ]);
        pod["spec"]["volumes"] =
            json!([{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]);
        let pod: Pod = serde_json::from_value(pod)?;
        let by_rust = missed(&pod, &asked, &WebhookView::chart_default(), TokenProjection::Disabled);
        let answer = dry_run(&harness.admin, &pod).await?;
        let agrees = match answer {
            Answer::Held(..) => by_rust && first,
            Answer::Admitted(..) => !by_rust && !first,
            _ => false,
        };
        ensure!(agrees, "a token in the first {first}, in the second {second}: missed by Rust {by_rust}, {answer:?}");
    }
    Ok(())
}

/// Makes the namespaces of all cases, and asks for each pod while there is no policy.
async fn genuine<'a>(harness: &Harness, corpus: &'a Corpus) -> Result<Vec<Genuine<'a>>> {
    let mut made: BTreeMap<String, Namespace> = BTreeMap::new();
    let mut cases = Vec::new();
    for case in &corpus.cases {
        let key = serde_json::to_string(&case.namespace)?;
        let namespace = match made.get(&key) {
            Some(namespace) => namespace.clone(),
            None => make(harness, &case.namespace, made.len()).await.with_context(|| case.name.clone())?,
        };
        made.insert(key, namespace.clone());
        let mut pod = case.pod.clone();
        pod.metadata.namespace.clone_from(&namespace.metadata.name);
        let admitted = match (dry_run(&harness.admin, &pod).await?, &case.api_server.refuses) {
            (Answer::Admitted(pod, _), None) => Some(*pod),
            (Answer::Otherwise(_), Some(_)) => None,
            (answer, _) => bail!("{}: without a policy: {answer:?}", case.name),
        };
        cases.push(Genuine { case, namespace, pod, admitted });
    }
    Ok(cases)
}

/// A namespace with these labels and annotations, under its own name where that matters.
async fn make(harness: &Harness, namespace: &Namespace, number: usize) -> Result<Namespace> {
    let api: Api<Namespace> = Api::all(harness.admin.clone());
    let mut namespace = namespace.clone();
    let name = match namespace.metadata.name.as_deref() {
        Some("corpus") | None => format!("corpus-{number}"),
        Some(other) => other.to_owned(),
    };
    if let Some(found) = api.get_opt(&name).await? {
        let annotations = namespace.metadata.annotations.is_none() && namespace.metadata.labels.is_none();
        ensure!(annotations, "{name} is there already, and is not what the case needs");
        return Ok(found);
    }
    namespace.metadata.name = Some(name.clone());
    harness.cluster.create_namespace(&namespace).await?;
    Ok(api.get(&name).await?)
}

// === impl Genuine ===

impl Genuine<'_> {
    /// Holds the API server's answer to the two others'; to the corpus, where the whole of what that is about is looked at.
    fn agrees(&self, admission: Admission, view: &WebhookView, whole: bool, answer: &Answer) -> Result<()> {
        let token_projection = self.case.token_projection;
        let by_corpus = self.case.expect == Expect::Inject && !self.case.meshed;
        let Some(admitted) = &self.admitted else {
            ensure!(!by_corpus && matches!(answer, Answer::Otherwise(_)), "refused for another reason: {answer:?}");
            return Ok(());
        };
        let projection = if token_projection { TokenProjection::Enabled } else { TokenProjection::Disabled };
        let by_rust = missed(admitted, &self.namespace, view, projection);
        // What the API server changed before the injector, or a policy, sees it is no longer what the case was about.
        let changed = self.case.api_server.changes.is_some();
        ensure!(
            !whole || (by_rust == by_corpus) != changed,
            "missed by Rust: {by_rust}, by the corpus: {by_corpus}, {changed}"
        );
        let expected: Expected = admission.expects(admitted, &self.namespace, view, token_projection);
        ensure!(expected.is(answer), "Rust says {expected:?}, the API server {answer:?}");
        Ok(())
    }
}
