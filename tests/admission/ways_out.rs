//! The files as a person applies them: what each binding does, the ways out, and the words.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingAdmissionPolicy};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use linkerd_gate::cluster;
use linkerd_gate::decide::ProbeResult;
use linkerd_gate_kit::cluster::{ApiOptions, until};
use linkerd_gate_kit::object::{namespace, pod, webhook_configuration};
use serde_json::{Value, json};

use crate::answer::{Answer, dry_run};
use crate::harness::{Harness, PATIENCE, documents};

const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

#[tokio::test]
async fn each_admission_manifest_and_each_exemption_works() -> Result<()> {
    let harness = Harness::set_with(ApiOptions { audit: true, ..ApiOptions::default() }).await?;
    let long = "n".repeat(63);
    for namespace in [
        namespace("shop").asking(),
        namespace("storm").asking().labelled("linkerd-gate/admission", "enforce"),
        namespace("exempt").asking().labelled("linkerd-gate/admission", "exempt"),
        namespace("another-value").asking().labelled("linkerd-gate/admission", "yes"),
        namespace(&long).asking(),
    ] {
        harness.namespace(namespace).await?;
    }
    // The chart's, uninstalled.
    harness.install(&[]).await?;
    harness.kubectl_apply("61-admission-guard.yaml").await?;
    harness.kubectl_apply("62-admission-release.yaml").await?;
    its_expressions_ask_for_nothing_that_does_not_exist(&harness).await?;
    harness.install(&[chart("linkerd")?]).await?;
    harness.until("the guard", &asking("shop", "web")?, Answer::is_missed).await?;

    the_label_on_a_namespace_or_a_pod_exempts(&harness, Answer::is_missed).await?;
    the_words_say_what_happened_and_what_to_look_at(&harness, &long).await?;
    a_proof_reads_the_refusal(&harness).await?;
    where_linkerd_is_uninstalled_nothing_is_caught(&harness, Answer::is_missed).await?;
    the_warning_binding_admits_warns_and_notes(&harness).await?;
    harness.kubectl_apply("61-admission-guard.yaml").await?;
    harness.until("refusals again", &asking("shop", "web")?, Answer::is_missed).await?;

    harness.kubectl_apply("60-admission-hold.yaml").await?;
    harness.until("hold", &asking("shop", "web")?, Answer::is_held).await?;
    the_label_on_a_namespace_or_a_pod_exempts(&harness, Answer::is_held).await?;
    where_linkerd_is_uninstalled_nothing_is_caught(&harness, Answer::is_held).await?;
    the_labelled_bindings_are_for_labelled_namespaces_only(&harness).await?;
    a_policy_that_fails_leaves_exempt_namespaces_alone(&harness).await?;
    without_a_binding_nothing_is_caught(&harness).await
}

fn asking(namespace: &str, name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(pod(name).in_namespace(namespace).running("app:test").json())?)
}

fn chart(linkerd: &str) -> Result<MutatingWebhookConfiguration> {
    Ok(serde_json::from_value(webhook_configuration(linkerd).json())?)
}

/// How a pod that asks is caught.
type Caught = fn(&Answer) -> bool;

async fn is_caught(harness: &Harness, pod: &Pod, caught: Caught) -> Result<bool> {
    match dry_run(&harness.admin, pod).await? {
        answer if caught(&answer) => Ok(true),
        Answer::Admitted(_, warnings) if warnings.is_empty() => Ok(false),
        other => bail!("{:?}: {other:?}", pod.metadata),
    }
}

/// An API server warns of a field that the types do not have; it is no error to it.
async fn its_expressions_ask_for_nothing_that_does_not_exist(harness: &Harness) -> Result<()> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(harness.admin.clone());
    for name in ["linkerd-gate-guard", "linkerd-gate-release"] {
        let checked = until(&policies, name, "its types checked", PATIENCE, |policy| {
            policy.status.as_ref().is_some_and(|status| status.type_checking.is_some())
        })
        .await?;
        let types = checked.status.and_then(|status| status.type_checking);
        let warnings = types.and_then(|types| types.expression_warnings);
        ensure!(warnings.iter().flatten().next().is_none(), "{warnings:#?}");
    }
    Ok(())
}

async fn the_label_on_a_namespace_or_a_pod_exempts(harness: &Harness, caught: Caught) -> Result<()> {
    ensure!(!is_caught(harness, &asking("exempt", "web")?, caught).await?, "an exempt namespace");
    ensure!(is_caught(harness, &asking("another-value", "web")?, caught).await?, "a namespace with another value");
    let labelled = |value: &str| -> Result<Pod> {
        let pod = pod("web").in_namespace("shop").running("app:test").labelled("linkerd-gate/admission", value);
        Ok(serde_json::from_value(pod.json())?)
    };
    ensure!(!is_caught(harness, &labelled("exempt")?, caught).await?, "an exempt pod");
    ensure!(is_caught(harness, &labelled("enforce")?, caught).await?, "a pod with another value");
    Ok(())
}

async fn the_words_say_what_happened_and_what_to_look_at(harness: &Harness, long: &str) -> Result<()> {
    let refused = async |pod: &Pod| match dry_run(&harness.admin, pod).await? {
        Answer::Missed(words) => Ok(words),
        other => bail!("{other:?}"),
    };
    let words = refused(&asking("shop", "web")?).await?;
    let start = "pod shop/web requests injection and has no linkerd-proxy: the proxy injector did not answer, or was not called.";
    ensure!(words.starts_with(start), "{words}");
    for part in [
        "Its owner (ReplicaSet, StatefulSet, DaemonSet, Job) retries after a pause",
        "kubectl -n linkerd get pods",
        "kubectl get mutatingwebhookconfiguration linkerd-proxy-injector-webhook-config",
        "label the namespace or the pod linkerd-gate/admission=exempt",
    ] {
        ensure!(words.contains(part), "no {part:?} in: {words}");
    }

    // As a controller creates it: its name is made up by then.
    let mut nameless = asking("shop", "web")?;
    nameless.metadata.name = None;
    nameless.metadata.generate_name = Some("web-5d9f8-".to_owned());
    let words = refused(&nameless).await?;
    ensure!(words.starts_with("pod shop/web-5d9f8-"), "{words}");

    // The longest that there can be.
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    let mut configuration = chart(&"l".repeat(63))?;
    configuration.metadata.name = Some(name.clone());
    harness.install(&[configuration]).await?;
    let mut longest = asking(long, &name)?;
    longest.metadata.labels = None;
    let words = refused(&longest).await?;
    ensure!(words.contains(&format!("pod {long}/{name} ")) && words.ends_with("=exempt"), "{words}");
    ensure!(words.len() < 1024, "{} bytes: {words}", words.len());
    harness.install(&[chart("linkerd")?]).await
}

async fn where_linkerd_is_uninstalled_nothing_is_caught(harness: &Harness, caught: Caught) -> Result<()> {
    harness.install(&[]).await?;
    ensure!(!is_caught(harness, &asking("shop", "web")?, caught).await?, "without a webhook configuration");
    let mut others = chart("linkerd")?;
    others.metadata.labels = None;
    for webhook in others.webhooks.iter_mut().flatten() {
        "sidecars.example.com".clone_into(&mut webhook.name);
    }
    harness.install(&[others]).await?;
    ensure!(
        !is_caught(harness, &asking("shop", "web")?, caught).await?,
        "with another program's webhook configuration"
    );
    harness.install(&[chart("linkerd")?]).await?;
    ensure!(is_caught(harness, &asking("shop", "web")?, caught).await?, "installed again");
    Ok(())
}

async fn the_warning_binding_admits_warns_and_notes(harness: &Harness) -> Result<()> {
    harness.kubectl_apply("optional/71-admission-warn.yaml").await?;
    let warned = |answer: &Answer| {
        match answer {
        Answer::Admitted(_, warnings) => warnings.iter().any(|warning| {
            warning.contains(
                "ValidatingAdmissionPolicy 'linkerd-gate-guard' with binding 'linkerd-gate-guard': pod shop/warned requests injection",
            )
        }),
        _ => false,
    }
    };
    harness.until("a warning", &asking("shop", "warned")?, warned).await?;

    // As a person sees it.
    let output = harness.kubectl(&["run", "seen", "--namespace=shop", "--image=app:test", "--dry-run=server"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success() && said.contains("Warning: ") && said.contains("pod shop/seen requests injection"),
        "{output:?}"
    );

    let noted = harness.cluster.requests_of("admin")?.into_iter().rev().find_map(|mut request| {
        let admitted = request.code == Some(201) && request.resource == "pods" && request.namespace == "shop";
        if admitted { request.annotations.remove(FAILURE) } else { None }
    });
    let noted: Value = serde_json::from_str(&noted.context("nothing in the audit log")?)?;
    ensure!(noted[0]["validationActions"] == json!(["Warn", "Audit"]), "{noted:#}");
    ensure!(noted[0]["message"].as_str().is_some_and(|words| words.contains("has no linkerd-proxy")), "{noted:#}");
    Ok(())
}

async fn the_labelled_bindings_are_for_labelled_namespaces_only(harness: &Harness) -> Result<()> {
    harness.kubectl_apply("optional/72-admission-labelled.yaml").await?;
    harness.until("no longer everywhere", &asking("shop", "web")?, Answer::is_admitted).await?;
    ensure!(is_caught(harness, &asking("storm", "web")?, Answer::is_held).await?, "a namespace with the label");
    for namespace in ["another-value", "exempt"] {
        ensure!(!is_caught(harness, &asking(namespace, "web")?, Answer::is_held).await?, "{namespace} is looked at");
    }
    // Without hold's binding, the guard's is seen.
    harness.delete("mutatingadmissionpolicybindings/linkerd-gate-hold").await?;
    harness.until("refused where labelled", &asking("storm", "web")?, Answer::is_missed).await?;
    ensure!(!is_caught(harness, &asking("shop", "web")?, Answer::is_missed).await?, "shop is guarded");
    // Back to the first ones, of which nothing of the others is left.
    harness.kubectl_apply("61-admission-guard.yaml").await?;
    harness.until("refusals everywhere", &asking("shop", "web")?, Answer::is_missed).await?;
    harness.kubectl_apply("60-admission-hold.yaml").await?;
    harness.until("held everywhere", &asking("shop", "web")?, Answer::is_held).await
}

/// Whatever is wrong with its expressions one day: what is exempt is sorted out before they are looked at.
async fn a_policy_that_fails_leaves_exempt_namespaces_alone(harness: &Harness) -> Result<()> {
    for (file, field) in [
        ("61-admission-guard.yaml", "/spec/validations/0/expression"),
        ("60-admission-hold.yaml", "/spec/variables/0/expression"),
    ] {
        let mut policy = documents(file)?.into_iter().next().context("a policy")?;
        *policy.pointer_mut(field).context("an expression")? = "dyn(object).spec.nothing == 1 ? [] : []".into();
        if file.contains("guard") {
            *policy.pointer_mut(field).context("an expression")? = "dyn(object).spec.nothing == 1".into();
            // Only then is the guard asked.
            harness.delete("mutatingadmissionpolicybindings/linkerd-gate-hold").await?;
        }
        harness.apply(&policy).await?;
        let failing =
            |answer: &Answer| matches!(answer, Answer::Otherwise(words) if words.contains("no such key: nothing"));
        harness.until("an expression that fails", &asking("shop", "web")?, failing).await?;
        ensure!(!is_caught(harness, &asking("exempt", "web")?, Answer::is_held).await?, "an exempt namespace");
        harness.apply(&documents(file)?[0]).await?;
        harness.kubectl_apply("60-admission-hold.yaml").await?;
        harness.until("whole again", &asking("shop", "web")?, Answer::is_held).await?;
    }
    Ok(())
}

/// Where the guard refuses, a proof of injection fails for want of injection, and not for want of a pod.
async fn a_proof_reads_the_refusal(harness: &Harness) -> Result<()> {
    let outcome = cluster::prove(harness.admin.clone(), &asking("shop", "web")?).await?;
    ensure!(
        matches!(outcome, ProbeResult::NotReady(_)) && outcome.to_string().contains("was not injected"),
        "{outcome}"
    );
    Ok(())
}

/// A person's last way out.
async fn without_a_binding_nothing_is_caught(harness: &Harness) -> Result<()> {
    let bindings =
        ["mutatingadmissionpolicybinding/linkerd-gate-hold", "validatingadmissionpolicybinding/linkerd-gate-guard"];
    let output = harness.kubectl(&["delete", bindings[0], bindings[1]]).await?;
    ensure!(output.status.success(), "{output:?}");
    harness.until("both are gone", &asking("shop", "web")?, Answer::is_admitted).await
}
