//! What can be wrong with Linkerd, and with what stands between it and a dry-run pod: one agent goes through all of it, and is
//! never started anew.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use linkerd_gate_kit::cluster;
use linkerd_gate_kit::standin::{Fault, Flaw};
use serde_json::{Value, json};

use super::harness::{Agent, BARE, Harness, PATIENCE, PROBE, agent_of, is_closed, object, opened};

/// The agent, and the cluster that it lives in.
struct Story {
    harness: Harness,
    agent: Agent,
}

#[tokio::test]
async fn one_agent_goes_through_every_fault_and_recovers_by_itself() -> Result<()> {
    let harness = Harness::set().await?;
    harness.node_of_an_earlier_boot("node-0").await?;
    let agent = harness.start(agent_of("node-0", "boot-1"))?;
    let mut story = Story { harness, agent };
    story.play().await.with_context(|| story.agent.said())?;
    println!("{}", story.agent.said());

    // The node was opened once in this boot, and stayed so whatever became of the gate.
    ensure!(story.agent.times_said("}: node ") == 2, "closed once and opened once: {}", story.agent.said());
    let node = story.harness.nodes().await?.get("node-0").await?;
    ensure!(!is_closed(&node) && opened(&node).as_deref() == Some("boot-1"), "{node:?}");
    ensure!(story.agent.terminate().await? == 0);
    let node = story.harness.nodes().await?.get("node-0").await?;
    ensure!(opened(&node).as_deref() == Some("boot-1"), "an end that is no removal leaves the node as it is");
    Ok(())
}

// === impl Story ===

impl Story {
    async fn play(&self) -> Result<()> {
        Box::pin(self.boot()).await.context("at boot")?;
        Box::pin(self.injector()).await.context("the injector")?;
        Box::pin(self.certificates()).await.context("certificates")?;
        Box::pin(self.endpoints()).await.context("endpoints")?;
        Box::pin(self.uninstalled()).await.context("Linkerd uninstalled")?;
        Box::pin(self.pod_security()).await.context("PodSecurity")?;
        Box::pin(self.quota()).await.context("a quota")?;
        Box::pin(self.probe_namespace()).await.context("the probe namespace")?;
        Box::pin(self.foreign_webhook()).await.context("somebody else's webhook")
    }

    /// Closed, for this reason and no other.
    async fn closed(&self, how: &str, probe: &str, outcome: &str, reason: &str) -> Result<String> {
        let line = self.agent.until_says(&format!("gate: {how}: {reason}")).await?;
        let answer = self.agent.answers(503).await?;
        ensure!(answer["reason"].as_str().is_some_and(|text| text.contains(reason)), "{answer}");
        let first = &answer["failedProbes"][0];
        ensure!(first["probe"] == probe && first["result"] == outcome, "{answer}");
        Ok(line)
    }

    async fn not_injected(&self) -> Result<String> {
        self.closed("closed", "injection", "not-ready", BARE).await
    }

    /// Open as before, because nobody could look.
    async fn degraded(&self, reason: &str) -> Result<()> {
        let line = self.agent.until_says("gate: still open, but not confirmed: injection unknown: ").await?;
        ensure!(line.contains(reason), "{line}");
        let answer = self.agent.answers(200).await?;
        ensure!(answer["reason"].as_str().is_some_and(|text| text.contains(reason)), "{answer}");
        Ok(())
    }

    async fn reassured(&self) -> Result<()> {
        self.agent.until_says("gate: still open, confirmed again").await?;
        self.open().await
    }

    async fn opens(&self) -> Result<()> {
        self.agent.until_says("gate: open: proven").await?;
        self.open().await
    }

    async fn open(&self) -> Result<()> {
        let answer = self.agent.answers(200).await?;
        ensure!(
            answer["basis"] == "proven" && answer["reason"] == "open: proven by an injected dry-run pod",
            "{answer}"
        );
        ensure!(answer["node"]["state"] == "open" || answer["node"]["state"] == "closed", "{answer}");
        Ok(())
    }

    /// A fault of the injector's, seen at once because its endpoint changes with it.
    async fn injector_suffers(&self, fault: Fault) -> Result<()> {
        self.harness.injector.suffer(fault).await?;
        self.harness.move_injector(true).await
    }

    async fn recovers(&self) -> Result<()> {
        self.harness.injector.recover().await?;
        self.opens().await
    }

    /// The injector is absent at first, then its handler denies, then it hangs, then it is there.
    async fn boot(&self) -> Result<()> {
        let (harness, agent) = (&self.harness, &self.agent);
        harness.until_node("node-0", "closed", is_closed).await?;
        self.closed("waiting", "injection", "not-ready", BARE).await?;
        ensure!(agent.answers(503).await?["node"]["state"] == "closed");

        harness.injector.suffer(Fault::NotReady).await?;
        let denied = "injection not ready: the injector did not inject a dry-run pod";
        let line = self.closed("waiting", "injection", "not-ready", denied).await?;
        ensure!(line.contains("namespaces \"linkerd-gate-probe\" not found") && !line.contains("forbid"), "{line}");

        // The API server waits for 10 s and lets the pod pass.
        harness.injector.suffer(Fault::Hang).await?;
        self.closed("waiting", "injection", "not-ready", BARE).await?;

        self.recovers().await?;
        let node = harness.until_node("node-0", "open", |node| !is_closed(node)).await?;
        ensure!(opened(&node).as_deref() == Some("boot-1"), "{node:?}");
        Ok(())
    }

    async fn injector(&self) -> Result<()> {
        self.injector_suffers(Fault::Absent).await?;
        self.not_injected().await?;
        self.recovers().await?;

        self.injector_suffers(Fault::Deny).await?;
        let denied = "injection not ready: the injector did not inject a dry-run pod: admission webhook";
        self.closed("closed", "injection", "not-ready", denied).await?;
        self.recovers().await
    }

    async fn certificates(&self) -> Result<()> {
        let webhooks = self.harness.webhooks().await?;
        let name = "linkerd-proxy-injector-webhook-config";
        let good = webhooks.get(name).await?.webhooks.unwrap_or_default()[0].client_config.ca_bundle.clone();
        let bundle = |value: Value| {
            Patch::<()>::Json(
                serde_json::from_value(json!([
                    {"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": value},
                ]))
                .unwrap_or_else(|error| panic!("no patch: {error}")),
            )
        };
        webhooks.patch(name, &PatchParams::default(), &bundle("Cg==".into())).await?;
        let reason = "webhook not ready: caBundle of webhook linkerd-proxy-injector.linkerd.io";
        self.closed("closed", "webhook", "not-ready", reason).await?;
        webhooks.patch(name, &PatchParams::default(), &bundle(serde_json::to_value(good)?)).await?;
        self.opens().await?;

        // An API server keeps its connection to a webhook: a new certificate shows only after that connection is cut.
        self.harness.injector.suffer(Fault::Absent).await?;
        self.injector_suffers(Fault::Certificate(Flaw::Authority)).await?;
        self.not_injected().await?;
        self.recovers().await
    }

    async fn endpoints(&self) -> Result<()> {
        self.harness.move_injector(false).await?;
        let reason = "injector not ready: Service linkerd/linkerd-proxy-injector has no endpoint that is ready";
        self.closed("closed", "injector", "not-ready", reason).await?;
        self.harness.move_injector(true).await?;
        self.opens().await
    }

    async fn uninstalled(&self) -> Result<()> {
        let webhooks = self.harness.webhooks().await?;
        webhooks.delete("linkerd-proxy-injector-webhook-config", &DeleteParams::default()).await?;
        self.agent.until_says("gate: still open, by other evidence: Linkerd is not installed").await?;
        ensure!(self.agent.answers(200).await?["basis"] == "not-installed");

        // Installed again, it has to be proven.
        self.harness.injector.suffer(Fault::Absent).await?;
        self.harness.create_webhook().await?;
        self.agent.until_says("gate: closed: ").await?;
        self.agent.answers(503).await?;
        self.recovers().await
    }

    /// A refusal that names `linkerd-init` is as good as an injected pod: only an injected pod has one.
    async fn pod_security(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.harness.cluster.client().await?);
        let level =
            |level: &str| Patch::Merge(json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}}));
        namespaces.patch(PROBE, &PatchParams::default(), &level("restricted")).await?;
        let refused = |answer: &kube::Result<_>| {
            answer.as_ref().err().is_some_and(|error| error.to_string().contains("linkerd-init"))
        };
        self.harness.until_dry_run("refused by PodSecurity", refused).await?;
        self.injector_suffers(Fault::Absent).await?;
        self.not_injected().await?;
        self.recovers().await?;
        namespaces.patch(PROBE, &PatchParams::default(), &level("privileged")).await?;
        self.harness.until_dry_run("taken again", kube::Result::is_ok).await
    }

    /// What refuses a pod after the injector has seen it says nothing of injection: it opens nothing and closes nothing.
    async fn quota(&self) -> Result<()> {
        let quotas: Api<ResourceQuota> = Api::namespaced(self.harness.cluster.client().await?, PROBE);
        let quota: ResourceQuota =
            object(json!({"metadata": {"name": "nothing-runs-here"}, "spec": {"hard": {"pods": "0"}}}))?;
        let refused = |answer: &kube::Result<_>| {
            answer.as_ref().err().is_some_and(|error| error.to_string().contains("exceeded quota"))
        };
        let reason = "exceeded quota: nothing-runs-here";

        quotas.create(&PostParams::default(), &quota).await?;
        self.harness.until_dry_run("refused by the quota", refused).await?;
        self.harness.move_injector(true).await?;
        self.degraded(reason).await?;
        quotas.delete("nothing-runs-here", &DeleteParams::default()).await?;
        self.reassured().await?;

        self.injector_suffers(Fault::Absent).await?;
        self.not_injected().await?;
        quotas.create(&PostParams::default(), &quota).await?;
        let line =
            self.closed("waiting", "injection", "unknown", "injection unknown: a dry-run pod was refused").await?;
        ensure!(line.contains(reason), "{line}");
        self.harness.injector.recover().await?;
        quotas.delete("nothing-runs-here", &DeleteParams::default()).await?;
        self.opens().await
    }

    async fn probe_namespace(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.harness.cluster.client().await?);
        let uid = namespaces.get(PROBE).await?.metadata.uid.unwrap_or_default();
        namespaces.delete(PROBE, &DeleteParams::default()).await?;
        cluster::until_gone(&namespaces, PROBE, &uid, PATIENCE).await?;
        self.harness.move_injector(true).await?;
        let reason = "there is no namespace linkerd-gate-probe to send a dry-run pod to: apply deploy/manifests again";
        self.degraded(reason).await?;
        self.harness.create_probe_namespace().await?;
        self.reassured().await
    }

    /// Somebody else's webhook that fails closed, and is dead.
    async fn foreign_webhook(&self) -> Result<()> {
        let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(self.harness.cluster.client().await?);
        let configuration = object(json!({
            "metadata": {"name": "somebody-elses"},
            "webhooks": [{
                "name": "policy.example.com",
                // Nobody listens there.
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
                "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
            }],
        }))?;
        webhooks.create(&PostParams::default(), &configuration).await?;
        self.harness.until_dry_run("refused by the stranger", kube::Result::is_err).await?;
        self.harness.move_injector(true).await?;
        self.degraded("failed calling webhook \"policy.example.com\"").await?;
        webhooks.delete("somebody-elses", &DeleteParams::default()).await?;
        self.reassured().await
    }
}
