//! A pod that our scheduling gate holds: what it waits for, and what to type.

use super::subject::{Maker, Subject};
use crate::{
    decide::hold,
    linkerd::{Injection, NotCalled},
};
use k8s_openapi::api::core::v1::Pod;

/// What to do about `subject` where our gate holds it; nothing where it does not.
pub(super) fn next(subject: &Subject, pod: &Pod, namespace: &str, decision: &Injection) -> Option<Vec<String>> {
    if !subject.exists(pod) || !hold::is_gated(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let pod = format!("pod/{} -n {namespace}", subject.name);
    let held = format!(
        "it is held: the scheduling gate {} keeps it from a node, and nothing of it has started (kubectl shows SchedulingGated)",
        hold::GATE
    );
    let repaired = match (decision, &subject.maker) {
        (Injection::Inject(_) | Injection::Conditional(_), Maker::NoOwner) => format!(
            "no controller owns it: once the injector answers, `linkerd-gate recreate {pod}` creates it again, in the mesh"
        ),
        (Injection::Inject(_) | Injection::Conditional(_), maker) => format!(
            "wait: once injection is proven, linkerd-gate's controller has its {} create it again, in the mesh",
            kind(maker)
        ),
        (Injection::NotCalled(NotCalled::NotInstalled), _) => {
            "wait: where no injector configuration is left, linkerd-gate's controller takes the gate off after ten minutes"
                .to_owned()
        }
        (Injection::Skip(_) | Injection::NotCalled(_), _) => {
            "wait: Linkerd would leave it alone now, so linkerd-gate's controller takes the gate off".to_owned()
        }
    };
    let released =
        format!("to let it start outside the mesh, with or without a controller: linkerd-gate release {pod}");
    Some(vec![held, repaired, released])
}

fn kind(maker: &Maker) -> &str {
    match maker {
        Maker::NoOwner => "owner",
        Maker::Job(_) | Maker::JobElsewhere => "Job",
        Maker::Other(kind) => kind,
    }
}

#[cfg(test)]
mod tests {
    use crate::command::explain::{Explain, explain};

    /// What is said of one pod of namespace `shop` with our gate.
    fn explained(inject: &str, owners: &str) -> String {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, uid: u-1, annotations: {{linkerd.io/inject: \
             {inject}}}, ownerReferences: [{owners}]}}, spec: {{schedulingGates: [{{name: linkerd-gate/injected}}], containers: \
             [{{name: app, image: 'app:1'}}]}}, status: {{phase: Pending}}}}"
        );
        let arguments = Explain { files: vec!["-".to_owned()], ..Explain::default() };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        explain(&arguments, &mut pod.as_bytes(), &mut out, &mut notes).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_gated_pod_without_an_owner_is_held_until_it_is_recreated() {
        let said = explained("enabled", "");
        assert!(said.contains("it is held: the scheduling gate linkerd-gate/injected"), "{said}");
        assert!(said.contains("`linkerd-gate recreate pod/web -n shop` creates it again"), "{said}");
        assert!(said.contains("linkerd-gate release pod/web -n shop"), "{said}");
    }

    #[test]
    fn a_gated_pod_with_an_owner_waits_for_the_controller() {
        let said =
            explained("enabled", "{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: o-1, controller: true}");
        assert!(said.contains("controller has its ReplicaSet create it again, in the mesh"), "{said}");
        assert!(!said.contains("recreate"), "{said}");
    }

    #[test]
    fn a_gated_pod_that_asks_no_more_loses_the_gate() {
        let said = explained("disabled", "");
        assert!(said.contains("takes the gate off") && said.contains("linkerd-gate release pod/web"), "{said}");
    }
}
