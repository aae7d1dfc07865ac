//! What is likely to surprise.

use super::{Facts, Warning, is_unrendered};
use crate::command::explain::read::Repeated;
use crate::linkerd::annotation::meant_by;
use crate::linkerd::{Injection, names};

/// How many keys that stand twice are named one by one.
const LISTED: usize = 10;

impl Facts<'_> {
    pub(in super::super) fn warnings(&self, decision: &Injection) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |key, text| warnings.push(Warning { key, text });
        let key = names::annotation::INJECT;
        let kind = &self.subject.kind;
        if let Some(removed) = &self.subject.removed {
            let since = removed.since.map_or_else(
                || format!("no Kubernetes serves {kind} in {}", removed.version),
                |since| format!("no Kubernetes since {since} serves {kind} in {}", removed.version),
            );
            warn("removed_api", format!("{since}: the API server refuses it; {} is what it takes", removed.instead));
        }
        if let Some(value) = &self.subject.unread_annotation {
            let annotations = format!("{}.annotations", self.pods_metadata());
            warn(
                "unread_annotation",
                format!(
                    "{key} says {value} on the {kind} itself, where nothing reads it: it belongs into {annotations}"
                ),
            );
        }
        for field in &self.subject.unknown_fields {
            warn("unknown_field", format!("Kubernetes knows no field {field}: it is not read"));
        }
        let repeated = &self.subject.repeated;
        for Repeated { key, line } in repeated.iter().take(LISTED) {
            warn("repeated_key", format!("{key} stands twice in one map (line {line}): the last one counts"));
        }
        if repeated.len() > LISTED {
            let more = repeated.len() - LISTED;
            warn("repeated_key", format!("{more} more keys stand twice in one map: the last of each counts"));
        }
        for (whose, metadata) in [("pod", &self.pod.metadata), ("namespace", &self.namespace.metadata)] {
            if metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(key)) {
                warn("label", format!("{key} is a label of the {whose}: only as an annotation it is read"));
            }
            for written in metadata.annotations.iter().flatten().map(|(key, _)| key) {
                if let Some(meant) = meant_by(written) {
                    warn(
                        "unknown_annotation",
                        format!(
                            "the {whose}'s annotation {written} is none of Linkerd's, and nothing reads it: is {meant} meant?"
                        ),
                    );
                }
            }
        }
        for (what, value) in [("name", Some(&self.subject.name)), ("namespace", self.subject.namespace.as_ref())] {
            if let Some(value) = value.filter(|value| is_unrendered(value)) {
                warn("unrendered", format!("the {what} {value} is one of a template that was not rendered"));
            }
        }
        match decision {
            Injection::Inject(_) if self.problems.is_empty() => {
                for refusal in &self.refusals {
                    warn(refusal.key(), refusal.to_string());
                }
            }
            Injection::Conditional(_) => {
                for problem in &self.problems {
                    warn(problem.reason(), format!("where the injector is called: {problem}"));
                }
                for refusal in &self.refusals {
                    warn(refusal.key(), format!("where the injector is called: {refusal}"));
                }
            }
            Injection::Inject(_) | Injection::Skip(_) | Injection::NotCalled(_) => {}
        }
        warnings
    }
}
