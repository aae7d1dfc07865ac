//! Commands that mend, with the names of what they are about filled in.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::clean::is_name;
use super::state::container;
use super::{State, Unread};

/// How many objects one command is about at most: what is left shows in the next run.
const AT_ONCE: usize = 10;

/// The chart, as it is in this program's repository.
const CHART: &str = "deploy/chart";

/// Installs what is missing, with the image that is there already.
pub(super) fn install(state: &State) -> String {
    format!("linkerd-gate install --image {} | kubectl apply --server-side --force-conflicts -f -", image(state))
}

/// Sets one of the chart's values, by Helm where Helm installed it.
pub(super) fn set_value(state: &State, value: &str) -> String {
    let metadata = ours(state);
    let namespace = namespace(state);
    let note =
        |key: &str| metadata.and_then(|metadata| metadata.annotations.as_ref()?.get(key)).filter(|name| is_name(name));
    match note("meta.helm.sh/release-name") {
        Some(release) => format!("helm upgrade {release} {CHART} -n {namespace} --reuse-values --set {value}"),
        None => format!(
            "helm template linkerd-gate {CHART} -n {namespace} --set image.repository={},{value} | \
             kubectl apply --server-side --force-conflicts -f -",
            image(state).rsplit_once(':').map_or_else(|| image(state), |(repository, _)| repository.to_owned())
        ),
    }
}

/// The mode of what is installed.
pub(super) fn enforce(state: &State) -> String {
    if ours(state).is_some_and(|it| it.annotations.iter().flatten().any(|(key, _)| key == "meta.helm.sh/release-name"))
    {
        set_value(state, "mode=enforce")
    } else {
        install(state)
    }
}

/// The logs of a part.
pub(super) fn logs(state: &State, component: &str) -> String {
    format!(
        "kubectl logs -n {} -l app.kubernetes.io/name=linkerd-gate,app.kubernetes.io/component={component} --tail=100",
        namespace(state)
    )
}

/// Where our parts are.
pub(super) fn namespace(state: &State) -> String {
    ours(state).and_then(|metadata| metadata.namespace.clone()).unwrap_or_else(|| "linkerd-gate".to_owned())
}

fn ours(state: &State) -> Option<&ObjectMeta> {
    let agents = state.agents().ok().flatten().map(|agents| &agents.metadata);
    agents.or_else(|| state.controller().ok().flatten().map(|controller| &controller.metadata))
}

fn image(state: &State) -> String {
    let of = |spec: Option<&k8s_openapi::api::core::v1::PodSpec>, role| container(spec?, role)?.image.clone();
    let agents = state.agents().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
    let controller = state.controller().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
    of(agents, "agent").or_else(|| of(controller, "controller")).unwrap_or_else(|| "IMAGE".to_owned())
}

/// Gives a DaemonSet's pods a toleration of the taint of closed nodes.
pub(super) fn tolerate(sets: &[DaemonSet], namespace: &str, name: &str, key: &str) -> Option<String> {
    let is_it = |set: &&DaemonSet| {
        set.metadata.name.as_deref() == Some(name) && set.metadata.namespace.as_deref() == Some(namespace)
    };
    let spec = sets.iter().find(is_it)?.spec.as_ref()?.template.spec.as_ref();
    let toleration = format!("{{\"key\":\"{key}\",\"operator\":\"Exists\",\"effect\":\"NoSchedule\"}}");
    let has_some = spec.and_then(|spec| spec.tolerations.as_ref()).is_some_and(|all| !all.is_empty());
    let (path, value) = if has_some { ("/-", toleration) } else { ("", format!("[{toleration}]")) };
    Some(format!(
        "kubectl patch daemonset {name} -n {namespace} --type=json \
         -p='[{{\"op\":\"add\",\"path\":\"/spec/template/spec/tolerations{path}\",\"value\":{value}}}]'"
    ))
}

/// Takes a label or an annotation out of a workload's pod template; `field` is `labels` or `annotations`.
pub(super) fn out_of_template(restartable: &str, namespace: &str, field: &str, key: &str) -> String {
    let key = key.replace('~', "~0").replace('/', "~1");
    format!(
        "kubectl patch {restartable} -n {namespace} --type=json \
         -p='[{{\"op\":\"remove\",\"path\":\"/spec/template/metadata/{field}/{key}\"}}]'"
    )
}

/// One after the other, and not more of them than a person reads.
pub(super) fn all(commands: impl IntoIterator<Item = String>) -> String {
    let commands: BTreeSet<String> = commands.into_iter().collect();
    commands.into_iter().take(AT_ONCE).collect::<Vec<_>>().join(" && ")
}

/// Grants what could not be read, which an administrator types.
pub(super) fn grant(missing: &[String]) -> String {
    let mut verbs = BTreeSet::new();
    let mut resources = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for right in missing {
        let mut words = right.split_whitespace();
        let (Some(verb), Some(what)) = (words.next(), words.next()) else { continue };
        if what.starts_with('/') {
            paths.insert(what);
        } else {
            verbs.insert(verb);
            resources.insert(what);
        }
    }
    // Each is a separate role: one that is there already is not made twice.
    let name = match resources.iter().next() {
        Some(one) if resources.len() == 1 => format!("linkerd-gate-check-{}", one.replace('.', "-")),
        _ => "linkerd-gate-check-reader".to_owned(),
    };
    let join = |words: BTreeSet<&str>| words.into_iter().collect::<Vec<_>>().join(",");
    let paths: Vec<String> = paths.iter().map(|path| format!(" --non-resource-url={path}")).collect();
    let paths = paths.concat();
    format!(
        "kubectl create clusterrole {name} --verb={} --resource={}{paths} && kubectl create clusterrolebinding {name} \
         --clusterrole={name} --user=USER   # `kubectl auth whoami` says who USER is",
        join(verbs),
        join(resources)
    )
}

/// What a person types where something could not be read.
pub(super) fn read(unread: &Unread) -> String {
    match unread {
        Unread::Forbidden(right) => grant(std::slice::from_ref(right)),
        Unread::Failed(_) => "kubectl get --raw '/readyz?verbose'".to_owned(),
        Unread::Needs(_) => "linkerd-gate check -o short   # names the right that is missing".to_owned(),
    }
}
