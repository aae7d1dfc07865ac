//! By which rules our admission policies decide, against those that this version installs.

use super::code::RULES;
use super::policy::{Admission, PolicyKind};
use super::{Check, State, fix};
use crate::decide::hold::{GUARD_POLICY, HOLD_POLICY};
use crate::linkerd::TokenProjection;

/// What this program installs. A test holds that the chart's values change no expression of it.
const MANIFESTS: [(&str, &str); 2] = [
    (HOLD_POLICY, include_str!("../../deploy/manifests/60-admission-hold.yaml")),
    (GUARD_POLICY, include_str!("../../deploy/manifests/61-admission-guard.yaml")),
];

/// Whether the expressions are those that this program installs, and the policies fail closed.
pub(super) fn check(state: &State, admission: &Admission) -> Option<Check> {
    let mut wrong = Vec::new();
    for policy in &admission.policies {
        let name = &policy.name;
        let manifest = MANIFESTS.iter().find(|(of, _)| of == name).map_or("", |(_, manifest)| manifest);
        let manifest = without_comments(manifest);
        let wanted = manifest.matches("expression:").count() + manifest.matches("messageExpression:").count();
        let manifest = squeezed(&manifest);
        // A value of the chart (linkerd.tokenProjection) is one of these.
        let is_value = |expression: &str| ["true", "false"].contains(&expression);
        let others = policy.expressions.iter().filter(|it| !is_value(it) && !manifest.contains(&squeezed(it))).count();
        if others > 0 || policy.expressions.len() != wanted {
            wrong.push(format!(
                "{name}: {others} of its {} expressions are not those of this version",
                policy.expressions.len()
            ));
        }
        if policy.on_failure != "Fail" {
            wrong.push(format!(
                "{name}: failurePolicy is {}, and pods pass while it cannot be evaluated",
                policy.on_failure
            ));
        }
        if policy.kind == PolicyKind::Mutating && policy.reinvocation != "IfNeeded" {
            wrong.push(format!("{name}: reinvocationPolicy is {}, and injected pods stay held", policy.reinvocation));
        }
    }
    // The only literal among the expressions.
    let says = |literal: &str| admission.policies.iter().find(|it| it.expressions.iter().any(|it| it == literal));
    let (other, command) = match state.projection {
        TokenProjection::Enabled => (says("false"), "linkerd-gate check --no-token-projection"),
        TokenProjection::Disabled => (says("true"), "linkerd-gate check"),
    };
    if admission.policies.is_empty() {
        None
    } else if wrong.is_empty() {
        let Some(policy) = other else { return Some(RULES.passes()) };
        Some(
            RULES
                .warns(format!(
                    "{} judges for another value of Linkerd's identity.serviceAccountTokenProjection than this check",
                    policy.name
                ))
                .with_fix(format!(
                    "{command}   # or, if Linkerd has the other value, set linkerd.tokenProjection in the chart"
                )),
        )
    } else {
        let mut check = RULES
            .warns("the policies may hold, refuse or admit other pods than the controller and `explain` say")
            .with_fix(fix::install(state));
        check.listing(wrong);
        Some(check)
    }
}

fn without_comments(manifest: &str) -> String {
    manifest.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// YAML and the API server keep other white space of an expression than the manifest has.
fn squeezed(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}
