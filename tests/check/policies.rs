//! Admission policies that differ from Linkerd's live webhook, or from this version's.

use anyhow::{Context as _, Result, ensure};
use linkerd_gate_kit::parts::find_helm;
use serde_json::{Value, json};

use crate::harness::{Harness, OURS};

// === impl Stage ===

impl Harness {
    /// What the policies take as their parameter, apply to and decide by, against Linkerd's live webhook and this version.
    pub async fn policies_differ_from_the_webhook(&self, documents: &[Value]) -> Result<()> {
        let of = |kind: &str, name: &str| {
            let found = documents.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
            found.cloned().with_context(|| format!("{kind} {name}"))
        };
        let bindings = [
            of("MutatingAdmissionPolicyBinding", "linkerd-gate-hold")?,
            of("ValidatingAdmissionPolicyBinding", "linkerd-gate-guard")?,
        ];
        // By the name of a configuration that is another program's.
        let mut other = self.webhook();
        other["metadata"] = json!({"name": "a-cache"});
        other["webhooks"][0]["name"] = "cache.example.com".into();
        other["webhooks"][0]["rules"][0]["resources"] = json!(["configmaps"]);
        self.apply(&other).await?;
        for binding in &bindings {
            let mut named = binding.clone();
            named["spec"]["paramRef"] = json!({"name": "a-cache", "parameterNotFoundAction": "Allow"});
            self.apply(&named).await?;
        }
        let report = self.finds("another program's parameter", &[], &["LG203 error", "LG403 warning"]).await?;
        let said = "takes a-cache as its parameter, which is no configuration of Linkerd's webhook";
        ensure!(report.to_string().contains(said), "{report:#}");
        self.page("policies-take-another-parameter", &["-o", "short"]).await?;
        self.paste(&report, "LG203").await?;
        self.finds("Linkerd's configuration by its name", &[], &[]).await?;
        self.kubectl(&["delete", "mutatingwebhookconfiguration", "a-cache"], "").await?;
        for binding in &bindings {
            self.apply(binding).await?;
        }

        self.kubectl(&["label", "namespace", "shop", "linkerd-gate/admission=exempt"], "").await?;
        let report = self.finds("a namespace is exempt", &[], &["LG206 warning"]).await?;
        self.paste(&report, "LG206").await?;
        self.finds("no namespace is exempt", &[], &[]).await?;
        for binding in &bindings {
            let mut labelled = binding.clone();
            labelled["spec"]["matchResources"] =
                json!({"namespaceSelector": {"matchLabels": {"linkerd-gate/admission": "enforce"}}});
            self.apply(&labelled).await?;
        }
        let report = self.finds("only labelled namespaces", &[], &["LG206 warning"]).await?;
        self.paste(&report, "LG206").await?;
        self.finds("the namespace is labelled", &[], &[]).await?;
        self.kubectl(&["label", "namespace", "shop", "linkerd-gate/admission-"], "").await?;
        for binding in &bindings {
            self.apply(binding).await?;
        }

        let mut guard = of("ValidatingAdmissionPolicy", "linkerd-gate-guard")?;
        guard["spec"]["matchConditions"][0]["expression"] = "object.metadata.name != 'x'".into();
        self.apply(&guard).await?;
        let report = self.finds("another version's rules", &[], &["LG207 warning"]).await?;
        ensure!(report.to_string().contains("linkerd-gate-guard: 1 of its"), "{report:#}");
        self.paste(&report, "LG207").await?;

        // The chart's values change no expression that is compared.
        let mut helm = std::process::Command::new(find_helm()?);
        helm.args(["template", "linkerd-gate", "deploy/chart", "--namespace", OURS, "--set"])
            .arg("linkerd.tokenProjection=false,image.repository=registry.example.com/linkerd-gate,probeNamespace=linkerd-gate-probe")
            .args(["--api-versions", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"])
            .args(["--show-only", "templates/admission/hold.yaml", "--show-only", "templates/admission/guard.yaml"]);
        let output = helm.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rendered = String::from_utf8(output.stdout)?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename=-"], &rendered).await?;
        let report = self.finds("another value of the chart", &[], &["LG207 warning"]).await?;
        self.paste(&report, "LG207").await?;
        self.finds("the same value for this check", &["--no-token-projection"], &[]).await?;
        for name in
            [("MutatingAdmissionPolicy", "linkerd-gate-hold"), ("ValidatingAdmissionPolicy", "linkerd-gate-guard")]
        {
            self.apply(&of(name.0, name.1)?).await?;
        }
        Ok(())
    }
}
