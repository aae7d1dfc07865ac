//! What an installation may change, and what the policy finds out by itself.

use anyhow::{Result, ensure};
use http::Method;
use linkerd_gate_kit::object::{namespace, pod, webhook_configuration};
use serde_json::{Value, json};

use crate::stage::{SHOP, Stage, WEBHOOKS, entry, in_shop, names, variable};

const DETAILS: &str = "example.com/mirror/gate@sha256:0000000000000000000000000000000000000000000000000000000000000000";

pub async fn every_value_is_followed(stage: &Stage) -> Result<()> {
    let quoted = format!("'{DETAILS}'");
    stage
        .set_values(&[
            ("image", &quoted),
            ("imagePullPolicy", "'Always'"),
            ("imagePullSecret", "'mirror'"),
            ("settings", "['LINKERD_GATE_TIMEOUT=10m', 'LINKERD_GATE_ON_TIMEOUT=open', 'LINKERD_GATE_REQUIRE=a=b']"),
            ("requests", "{'cpu': '20m'}"),
            ("limits", "{'cpu': '50m', 'memory': '32Mi'}"),
        ])
        .await?;
    let changed = |pod: &Value| entry(pod).is_some_and(|entry| entry["image"] == DETAILS);
    let admitted = stage.until("the values count", &in_shop("web"), changed).await?;
    let found = entry(&admitted).cloned().unwrap_or_default();
    ensure!(found["imagePullPolicy"] == "Always", "{found:#}");
    ensure!(
        found["resources"] == json!({"requests": {"cpu": "20m"}, "limits": {"cpu": "50m", "memory": "32Mi"}})
            // The API server fills in a request from a limit.
            || found["resources"]["requests"] == json!({"cpu": "20m", "memory": "32Mi"}),
        "{found:#}"
    );
    for (name, value) in [("TIMEOUT", "10m"), ("ON_TIMEOUT", "open"), ("REQUIRE", "a=b")] {
        ensure!(variable(&admitted, &format!("LINKERD_GATE_{name}")) == Some(value), "{name}: {found:#}");
    }
    ensure!(found["env"].as_array().map(Vec::len) == Some(9), "{found:#}");

    // The secret once, after those that are there.
    for (there, expected) in
        [(json!([]), json!(["mirror"])), (json!(["a"]), json!(["a", "mirror"])), (json!(["mirror"]), json!(["mirror"]))]
    {
        let secrets = |names: &Value| -> Value {
            names.as_array().into_iter().flatten().map(|name| json!({"name": name})).collect()
        };
        let sent = pod("web").in_namespace(SHOP).spec_field("imagePullSecrets", secrets(&there)).json();
        let admitted = stage.admit(&sent).await?;
        ensure!(admitted["spec"]["imagePullSecrets"] == secrets(&expected), "{there}: {:#}", admitted["spec"]);
        let declines =
            pod("web").in_namespace(SHOP).not_asking().spec_field("imagePullSecrets", secrets(&there)).json();
        let left = stage.admit(&declines).await?["spec"]["imagePullSecrets"].take();
        ensure!(left == secrets(&there) || left.is_null(), "a pod that does not ask got a secret: {left}");
    }

    stage.set_values(&[]).await?;
    stage.until("the values are the old ones", &in_shop("web"), |pod| entry(pod).is_some() && !changed(pod)).await?;
    Ok(())
}

/// Fail closed: nobody who asks starts without the entry because of a typo. Nobody else is touched by it.
pub async fn a_value_that_cannot_be_read_refuses_those_who_ask_and_nobody_else(stage: &Stage) -> Result<()> {
    stage.set_values(&[("settings", "['LINKERD_GATE_TIMEOUT']")]).await?;
    stage.until_refused(&in_shop("web"), "policy 'linkerd-gate-init'").await?;
    stage.admit(&pod("web").in_namespace(SHOP).not_asking().json()).await?;
    stage.admit(&pod("web").in_namespace(SHOP).labelled("linkerd-gate/init", "disabled").json()).await?;
    stage.admit(&pod("web").in_namespace("linkerd").asking().json()).await?;
    stage.set_values(&[]).await?;
    stage.until("the values are the old ones", &in_shop("web"), |pod| entry(pod).is_some()).await?;
    Ok(())
}

/// `wait` looks for Linkerd in `linkerd` unless it is told otherwise, and the webhook tells where it is.
pub async fn a_linkerd_elsewhere_is_named_and_two_of_them_add_one_entry(stage: &Stage) -> Result<()> {
    let linkerds = "LINKERD_GATE_LINKERD_NAMESPACE";
    // Selected by the second configuration alone, and by both.
    stage.make(namespace("second").asking().labelled("also", "mesh").without_admission_webhooks()).await?;
    stage.make(namespace("both").asking().labelled("also", "mesh")).await?;
    let mut configuration = webhook_configuration("mesh").named("second").json();
    configuration["webhooks"][0]["namespaceSelector"] = json!({"matchLabels": {"also": "mesh"}});
    stage.send(Method::POST, WEBHOOKS, &configuration).await?;

    let second = pod("web").in_namespace("second").json();
    let admitted = stage.until("the second configuration counts", &second, |pod| entry(pod).is_some()).await?;
    ensure!(variable(&admitted, linkerds) == Some("mesh"), "{:#}", admitted["spec"]["initContainers"]);
    ensure!(variable(&stage.admit(&in_shop("web")).await?, linkerds).is_none(), "linkerd is where `wait` looks anyway");

    let both = stage.admit(&pod("web").in_namespace("both").json()).await?;
    let entries = names(&both, "initContainers").into_iter().filter(|name| *name == "linkerd-gate").count();
    ensure!(entries == 1, "{:#}", both["spec"]["initContainers"]);

    // A setting counts before what the policy finds out.
    stage.set_values(&[("settings", "['LINKERD_GATE_LINKERD_NAMESPACE=elsewhere']")]).await?;
    let told = |pod: &Value| variable(pod, linkerds) == Some("elsewhere");
    let admitted = stage.until("the setting counts", &second, told).await?;
    let variables = entry(&admitted).and_then(|entry| entry["env"].as_array().cloned()).unwrap_or_default();
    ensure!(variables.iter().filter(|variable| variable["name"] == linkerds).count() == 1, "{variables:?}");

    stage.set_values(&[]).await?;
    stage.until("the values are the old ones", &in_shop("web"), |pod| entry(pod).is_some() && !told(pod)).await?;
    stage.send(Method::DELETE, &format!("{WEBHOOKS}/second"), &Value::Null).await?;
    Ok(())
}
