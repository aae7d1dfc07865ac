//! Whether our admission policies are bound, and whether what they take as their parameter is there.
//!
//! By whole objects without a schema: `MutatingAdmissionPolicyBinding` is of Kubernetes 1.36, and this program is built for the
//! earliest API that it runs against.

use k8s_openapi::api::admissionregistration::v1::MatchResources;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, Error};
use serde_json::Value;

use super::error::{describe, unread};
use crate::check::policy::{Admission, Binding, Parameter, Policy, PolicyKind};
use crate::check::{Read, Unread};
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};

/// What the chart notes on the guard: its value `admission`, and what that came to.
const ADMISSION_VALUE: &str = "linkerd-gate/admission-value";
const ADMISSION_CHOSEN: &str = "linkerd-gate/admission-chosen";

const GROUP_VERSION: &str = "admissionregistration.k8s.io/v1";

/// The kind of binding that the API server has to offer for [`HOLD_POLICY`].
const HOLDS: &str = "MutatingAdmissionPolicyBinding";

/// What there is of our admission policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionPolicies {
    /// Whether the API server offers what [`HOLD_POLICY`] needs, and it is not bound.
    pub hold_binding_missing: bool,
    /// Whether one of the two is bound and finds no webhook configuration: it does nothing then.
    pub parameter_missing: bool,
}

/// Looks at both bindings.
///
/// # Errors
/// One sentence for the log.
pub async fn read_status(client: &Client) -> Result<AdmissionPolicies, String> {
    let resources = client.list_api_group_resources(GROUP_VERSION).await;
    let resources = resources.map_err(|error| describe(&format!("list the kinds of {GROUP_VERSION}"), &error))?;
    let offered = resources.resources.iter().any(|resource| resource.kind == HOLDS);
    let hold = if offered { binding(client, HOLDS, HOLD_POLICY).await? } else { None };
    let guard = binding(client, "ValidatingAdmissionPolicyBinding", GUARD_POLICY).await?;
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
async fn has_parameter(client: &Client, binding: &DynamicObject) -> Result<bool, String> {
    let Some(reference) = binding.data.pointer("/spec/paramRef") else { return Ok(true) };
    let parameters = match reference.get("name").and_then(Value::as_str) {
        Some(name) => ListParams::default().fields(&format!("metadata.name={name}")),
        None => ListParams::default().labels(&selector(reference.get("selector").unwrap_or(&Value::Null))),
    };
    let configurations = api(client, "MutatingWebhookConfiguration").list_metadata(&parameters.limit(1)).await;
    let found = configurations.map_err(|error| describe("list mutatingwebhookconfigurations", &error))?;
    Ok(!found.items.is_empty())
}

/// Our policies and their bindings, for `check`.
pub(super) async fn read(client: &Client) -> Read<Admission> {
    let resources = client.list_api_group_resources(GROUP_VERSION).await;
    let resources = resources.map_err(|error| unread(&error, &format!("get /apis/{GROUP_VERSION}")))?;
    let offers_mutating = resources.resources.iter().any(|resource| resource.kind == HOLDS);
    let mut found = Admission { offers_mutating, ..Admission::default() };
    let kinds = [
        (PolicyKind::Mutating, "MutatingAdmissionPolicy", HOLD_POLICY),
        (PolicyKind::Validating, "ValidatingAdmissionPolicy", GUARD_POLICY),
    ];
    for (kind, name_of_kind, name) in kinds {
        if kind == PolicyKind::Mutating && !offers_mutating {
            continue;
        }
        if let Some(object) = get(client, name_of_kind, name).await? {
            found.policies.push(policy(kind, &object).map_err(Unread::Failed)?);
        }
        if let Some(binding) = get(client, &format!("{name_of_kind}Binding"), name).await? {
            found.bindings.push(policy_binding(kind, &binding).map_err(Unread::Failed)?);
        }
    }
    Ok(found)
}

async fn get(client: &Client, kind: &str, name: &str) -> Read<Option<DynamicObject>> {
    let plural = ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind)).plural;
    let found = api(client, kind).get_opt(name).await;
    found.map_err(|error| unread(&error, &format!("get {plural} {name}")))
}

/// A policy of ours as checks read it.
///
/// # Errors
/// One of a form that no API server stores: one sentence.
pub(crate) fn policy(kind: PolicyKind, object: &DynamicObject) -> Result<Policy, String> {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    let each = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
    let plain = ["variables", "matchConditions", "validations"].into_iter().flat_map(&each);
    let plain = plain.flat_map(|it| [text(it, "expression"), text(it, "messageExpression")]);
    let audit = each("auditAnnotations").map(|it| text(it, "valueExpression"));
    let mutations = each("mutations").flat_map(|it| {
        ["jsonPatch", "applyConfiguration"].map(|form| it.get(form).and_then(|form| text(form, "expression")))
    });
    let annotation = |key: &str| object.metadata.annotations.as_ref()?.get(key).cloned();
    Ok(Policy {
        kind,
        name: object.metadata.name.clone().unwrap_or_default(),
        matches: matches(spec, "matchConstraints")?,
        expressions: plain.chain(audit).chain(mutations).flatten().collect(),
        on_failure: text(spec, "failurePolicy").unwrap_or_else(|| "Fail".to_owned()),
        reinvocation: text(spec, "reinvocationPolicy").unwrap_or_default(),
        chosen: annotation(ADMISSION_VALUE).zip(annotation(ADMISSION_CHOSEN)),
    })
}

/// A binding of ours as checks read it.
///
/// # Errors
/// One of a form that no API server stores: one sentence.
pub(super) fn policy_binding(kind: PolicyKind, object: &DynamicObject) -> Result<Binding, String> {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    let text = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).map(ToOwned::to_owned);
    let actions = spec.get("validationActions").and_then(Value::as_array);
    let name = object.metadata.name.clone().unwrap_or_default();
    let parameter = match (text("/paramRef/name"), spec.pointer("/paramRef/selector")) {
        (Some(name), _) => Parameter::Name(name),
        (None, Some(selector)) => Parameter::Labels(
            serde_json::from_value(selector.clone()).map_err(|error| format!("{name}: paramRef: {error}"))?,
        ),
        (None, None) => Parameter::Missing,
    };
    Ok(Binding {
        kind,
        policy: text("/policyName").unwrap_or_default(),
        actions: actions.into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
        parameter,
        refuses_without: text("/paramRef/parameterNotFoundAction").is_some_and(|action| action == "Deny"),
        matches: matches(spec, "matchResources")?,
        name,
    })
}

fn matches(spec: &Value, key: &str) -> Result<MatchResources, String> {
    let Some(found) = spec.get(key) else { return Ok(MatchResources::default()) };
    serde_json::from_value(found.clone()).map_err(|error| format!("{key}: {error}"))
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
