//! Whether our admission policies are bound, and whether what they take as their parameter is there.
//!
//! By whole objects without a schema: `MutatingAdmissionPolicyBinding` is of Kubernetes 1.36, and this program is built for the
//! earliest API that it runs against.

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, Error};
use serde_json::Value;

use super::error::describe;

/// The binding of the policy that lets missed pods be created with our scheduling gate.
pub const HOLD: &str = "linkerd-gate-hold";

/// The binding of the policy that refuses missed pods.
pub const GUARD: &str = "linkerd-gate-guard";

const GROUP_VERSION: &str = "admissionregistration.k8s.io/v1";

/// The kind of binding that the API server has to offer for [`HOLD`].
const HOLDS: &str = "MutatingAdmissionPolicyBinding";

/// What there is of our admission policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionPolicies {
    /// Whether the API server offers what [`HOLD`] needs, and it is not bound.
    pub hold_binding_missing: bool,
    /// Whether one of the two is bound and finds no webhook configuration: it does nothing then.
    pub parameter_missing: bool,
}

/// Looks at both bindings.
///
/// # Errors
/// One sentence for the log.
pub async fn look(client: &Client) -> Result<AdmissionPolicies, String> {
    let resources = client.list_api_group_resources(GROUP_VERSION).await;
    let resources = resources.map_err(|error| describe(&format!("list the kinds of {GROUP_VERSION}"), &error))?;
    let offered = resources.resources.iter().any(|resource| resource.kind == HOLDS);
    let hold = if offered { binding(client, HOLDS, HOLD).await? } else { None };
    let guard = binding(client, "ValidatingAdmissionPolicyBinding", GUARD).await?;
    let mut parameter_missing = false;
    for binding in [&hold, &guard].into_iter().flatten() {
        parameter_missing = parameter_missing || !has_parameter(client, binding).await?;
    }
    Ok(AdmissionPolicies { hold_binding_missing: offered && hold.is_none(), parameter_missing })
}

/// A binding; nothing where it is absent.
async fn binding(client: &Client, kind: &str, name: &str) -> Result<Option<DynamicObject>, String> {
    let found = api(client, kind).get_opt(name).await;
    found.map_err(|error: Error| describe(&format!("get {} {name}", kind.to_lowercase()), &error))
}

/// Whether a webhook configuration is there that a binding takes as its parameter: by its name, or by its labels.
pub(super) async fn has_parameter(client: &Client, binding: &DynamicObject) -> Result<bool, String> {
    let Some(reference) = binding.data.pointer("/spec/paramRef") else { return Ok(true) };
    let parameters = match reference.get("name").and_then(Value::as_str) {
        Some(name) => ListParams::default().fields(&format!("metadata.name={name}")),
        None => ListParams::default().labels(&selector(reference.get("selector").unwrap_or(&Value::Null))),
    };
    let configurations = api(client, "MutatingWebhookConfiguration").list_metadata(&parameters.limit(1)).await;
    let found = configurations.map_err(|error| describe("list mutatingwebhookconfigurations", &error))?;
    Ok(!found.items.is_empty())
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

/// A label selector as a query has it.
fn selector(selector: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let equal = labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value)));
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    let others = expressions.into_iter().flatten().map(|expression| {
        let key = text(&expression["key"]);
        let values: Vec<_> = expression["values"].as_array().into_iter().flatten().map(text).collect();
        match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key,
        }
    });
    equal.chain(others).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_is_written_as_a_query_has_it() {
        let all = json!({
            "matchLabels": {"a/b": "c"},
            "matchExpressions": [
                {"key": "d", "operator": "In", "values": ["e", "f"]},
                {"key": "g", "operator": "NotIn", "values": ["h"]},
                {"key": "i", "operator": "Exists"},
                {"key": "j", "operator": "DoesNotExist"},
            ],
        });
        assert_eq!(selector(&all), "a/b=c,d in (e,f),g notin (h),i,!j");
        assert_eq!(selector(&json!({})), "");
    }
}
