//! The expressions say what the types allow: a field that does not exist is a warning of the API server's, not an error.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::api::{Api, PostParams};
use linkerd_gate_kit::cluster::until;

use crate::harness::{PATIENCE, documents, with_every_right};

/// The warnings about a policy, once somebody has looked at it.
async fn warnings(api: &Api<ValidatingAdmissionPolicy>, name: &str) -> Result<Vec<String>> {
    let policy = until(api, name, "its types checked", PATIENCE, |policy| {
        let status = policy.status.as_ref();
        status.is_some_and(|status| {
            status.type_checking.is_some() && status.observed_generation == policy.metadata.generation
        })
    })
    .await?;
    let checked = policy.status.and_then(|status| status.type_checking).context("checked")?;
    Ok(checked.expression_warnings.into_iter().flatten().map(|warning| warning.warning).collect())
}

#[tokio::test]
async fn no_expression_asks_for_what_does_not_exist() -> Result<()> {
    let harness = with_every_right().await?;
    let api: Api<ValidatingAdmissionPolicy> = Api::all(harness.admin().await?);
    let policies: Vec<_> =
        documents()?.into_iter().filter(|document| document["kind"] == "ValidatingAdmissionPolicy").collect();
    ensure!(policies.len() == 13, "{}", policies.len());
    for mut policy in policies {
        let name = policy["metadata"]["name"].as_str().context("a name")?.to_owned();
        let found = warnings(&api, &name).await?;
        ensure!(found.is_empty(), "{name}: {found:#?}");

        // The check is real: the same policy with a slip of the pen is warned of. It is bound to nothing.
        policy["metadata"]["name"] = format!("{name}-misspelt").into();
        policy["spec"]["validations"][0]["expression"] = "object.metadata.lables == oldObject.metadata.labels".into();
        policy["spec"].as_object_mut().context("a spec")?.remove("matchConditions");
        api.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
        let found = warnings(&api, &format!("{name}-misspelt")).await?;
        ensure!(found.iter().any(|warning| warning.contains("lables")), "{name}: {found:#?}");
    }
    Ok(())
}
