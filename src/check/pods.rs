//! Pods: how many are outside the mesh, their owners, why, and the next command.

use super::code::{FORGED, HELD, MESHED, POD_ANNOTATIONS};
use super::{Check, Proof, State, Survey, fix, phrase};
use crate::decide::ProbeResult;
use crate::linkerd::names;

pub(super) fn checks(state: &State) -> Vec<Check> {
    let survey = match &state.pods {
        Ok(survey) => survey,
        Err(unread) => return vec![MESHED.unread(unread)],
    };
    let headline = format!("{}: {} of {}", MESHED.description, survey.meshed, survey.asked());
    // Those that have not started and that nothing holds are about to.
    let running: Vec<_> = survey.rows.iter().filter(|(_, row)| row.missed > row.held).collect();
    let mut checks = vec![if running.is_empty() {
        // A pod that is held does not run outside the mesh, and is no more meshed for it.
        MESHED.passes().described(match survey.held() {
            0 => headline,
            held => {
                format!("{} or held: {} of {} meshed, {held} held", MESHED.description, survey.meshed, survey.asked())
            }
        })
    } else {
        let count: usize = running.iter().map(|(_, row)| row.missed - row.held).sum();
        let mut check = MESHED
            .fails(format!(
                "outside the mesh, running or about to start: {} of {}; nothing holds them{}",
                phrase::count(count, "pod"),
                phrase::count(running.len(), "owner"),
                next(state)
            ))
            .described(headline)
            .with_fix("linkerd-gate explain -A --missed -o commands   # prints what to type, safest first");
        let mut worst = running.clone();
        worst.sort_by_key(|(_, row)| std::cmp::Reverse(row.missed - row.held));
        check
            .listing(worst.iter().map(|(owner, row)| format!("{owner}: {} ({})", row.missed - row.held, row.reason())));
        check.objects = running.iter().map(|(owner, _)| owner.to_string()).collect();
        check
    }];
    let held: Vec<_> = survey.rows.iter().filter(|(_, row)| row.held > 0).collect();
    checks.push(if held.is_empty() {
        HELD.passes()
    } else {
        let gated: usize = held.iter().map(|(_, row)| row.gated).sum();
        let mut check = HELD
            .warns(format!(
                "held without a proxy: {}, {gated} by linkerd-gate's scheduling gate; created again once injection is proven",
                phrase::count(survey.held(), "pod")
            ))
            .with_fix("linkerd-gate explain -A --missed");
        check.listing(held.iter().map(|(owner, row)| format!("{owner}: {} ({})", row.held, row.reason())));
        check.objects = held.iter().map(|(owner, _)| owner.to_string()).collect();
        check
    });
    checks.push(if survey.forged.is_empty() {
        FORGED.passes()
    } else {
        FORGED
            .fails("Linkerd's own tools take these for meshed: the label linkerd.io/control-plane-ns was copied into their template")
            .about(survey.forged.iter().map(|(pod, _)| pod.clone()))
            .with_fix(fix::all(survey.forged.iter().map(|(pod, owner)| match owner.restartable() {
                Some(workload) => fix::out_of_template(&workload, &owner.namespace, "labels", names::label::CONTROL_PLANE_NS),
                None => format!("kubectl label {} {}-", pod.replacen('/', " ", 1), names::label::CONTROL_PLANE_NS),
            })))
    });
    checks.push(match survey.broken.first() {
        None => POD_ANNOTATIONS.passes(),
        Some((_, key, _)) => POD_ANNOTATIONS
            .fails(format!("with this annotation ({key}) the injector's patch cannot be applied, each time"))
            .about(survey.broken.iter().map(|(object, ..)| object.clone()))
            .with_fix(take_annotations_out(survey)),
    });
    checks
}

/// Whether making them again is of any use now.
fn next(state: &State) -> &'static str {
    match &state.proof {
        Proof::Answered { outcome: ProbeResult::Ready, .. } => {
            "; injection works now, so pods that are made again are meshed"
        }
        Proof::Answered { outcome: ProbeResult::NotReady(_), .. } => {
            "; injection does not work now, so mend LG301 first: pods that are made again would be bare, too"
        }
        Proof::Answered { outcome: ProbeResult::Unknown(_), .. } | Proof::Skipped(_) | Proof::Forbidden(_) => "",
    }
}

/// Of workloads by a patch; a pod that no workload is known of is a person's to apply again: its annotations are not its proxy's.
fn take_annotations_out(survey: &Survey) -> String {
    let patches = survey.broken.iter().filter_map(|(_, key, owner)| {
        Some(fix::out_of_template(&owner.restartable()?, &owner.namespace, "annotations", key))
    });
    let patches = fix::all(patches);
    match survey.broken.first() {
        Some((pod, key, _)) if patches.is_empty() => {
            let pod = pod.replacen('/', " ", 1);
            format!("kubectl get {pod} -o yaml > pod.yaml   # take {key} out of it, delete the pod, and apply the file")
        }
        _ => patches,
    }
}
