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

/// Where the chart is, which no repository of charts has.
const CHECKOUT: &str = "in a checkout of linkerd-gate's repository";

/// Installs what is missing, with the image that is there already.
pub(super) fn install(state: &State) -> String {
    let command = |image: &str| {
        format!("linkerd-gate install --image {image} | kubectl apply --server-side --force-conflicts -f -")
    };
    match image(state) {
        Some(image) => command(&image),
        None => noted(&command("IMAGE"), NO_IMAGE),
    }
}

/// Why no command can have the name of an image where nothing is installed.
const NO_IMAGE: &str = "IMAGE is the name under which you pushed this version's image: none is published";

/// Sets one of the chart's values, by Helm where Helm installed it.
pub(super) fn set_value(state: &State, value: &str) -> String {
    let metadata = ours(state);
    let namespace = namespace(state);
    let note =
        |key: &str| metadata.and_then(|metadata| metadata.annotations.as_ref()?.get(key)).filter(|name| is_name(name));
    if let Some(release) = note("meta.helm.sh/release-name") {
        let command = format!("helm upgrade {release} {CHART} -n {namespace} --reuse-values --set {value}");
        return noted(&command, CHECKOUT);
    }
    let image = image(state);
    // Without a cluster Helm does not know that pods can be held.
    let offers_mutating = state.admission.as_ref().is_ok_and(|admission| admission.offers_mutating);
    let capability =
        if offers_mutating { " --api-versions admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" } else { "" };
    let command = format!(
        "helm template linkerd-gate {CHART} -n {namespace} --set image.repository={},{value}{capability} | \
         kubectl apply --server-side --force-conflicts -f -",
        image.as_deref().map_or("IMAGE", repository)
    );
    let unknown = if image.is_none() { format!("; {NO_IMAGE}") } else { String::new() };
    noted(&command, &format!("{CHECKOUT}{unknown}"))
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

/// An image without its tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        // Before a slash it is the port of a registry.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

fn image(state: &State) -> Option<String> {
    let of = |spec: Option<&k8s_openapi::api::core::v1::PodSpec>, role| container(spec?, role)?.image.clone();
    let agents = state.agents().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
    let controller = state.controller().ok().flatten().and_then(|it| it.spec.as_ref()?.template.spec.as_ref());
    of(agents, "agent").or_else(|| of(controller, "controller"))
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

/// What stands between a command and what there is to say about it: a comment of the shell.
pub const NOTE: &str = "   # ";

/// One after the other, and not more of them than a person reads; what is said about any of them stands at the end.
pub(super) fn all(commands: impl IntoIterator<Item = String>) -> String {
    let commands: BTreeSet<String> = commands.into_iter().collect();
    let mut notes: Vec<String> = Vec::new();
    let mut found: Vec<String> = Vec::new();
    for command in commands.into_iter().take(AT_ONCE) {
        let (command, note) = match command.split_once(NOTE) {
            Some((command, note)) => (command.to_owned(), Some(note.to_owned())),
            None => (command, None),
        };
        found.push(command);
        notes.extend(note.filter(|note| !notes.contains(note)));
    }
    noted(&found.join(" && "), &notes.join("; "))
}

/// A command, and what there is to say about it.
fn noted(command: &str, note: &str) -> String {
    if note.is_empty() { command.to_owned() } else { format!("{command}{NOTE}{note}") }
}

/// What `check` reads, each with `get` and `list`.
const READS: &str = "pods,namespaces,nodes,daemonsets.apps,deployments.apps,leases.coordination.k8s.io,\
                     mutatingwebhookconfigurations,validatingwebhookconfigurations,mutatingadmissionpolicies,\
                     mutatingadmissionpolicybindings,validatingadmissionpolicies,validatingadmissionpolicybindings,\
                     endpointslices.discovery.k8s.io";

/// The names of the roles that [`grant`] makes.
const READER: &str = "linkerd-gate-check-reader";

/// Grants all that `check` reads, and a dry-run pod where that was refused: an administrator types it once.
pub(super) fn grant(state: &State) -> String {
    // `apply`: what is there already is no error.
    let applied = |words: String| format!("kubectl create {words} --dry-run=client -o yaml | kubectl apply -f -");
    let (subject, note) = match &state.asker {
        Some(subject) => (quoted(subject), ""),
        None => ("--user=USER".to_owned(), "   # USER: `kubectl auth whoami` of the user who checks tells it"),
    };
    let mut commands = vec![
        applied(format!("clusterrole {READER} --verb=get,list --resource={READS}")),
        applied(format!("clusterrolebinding {READER} --clusterrole={READER} {subject}")),
    ];
    let sent = state.forbidden().into_iter().find_map(|right| {
        let rest = right.strip_prefix("create pods in namespace ")?;
        rest.split_whitespace().next().map(ToOwned::to_owned)
    });
    if let Some(namespace) = sent {
        let name = "linkerd-gate-check-prover";
        commands.push(applied(format!("role {name} -n {namespace} --verb=create --resource=pods")));
        commands.push(applied(format!("rolebinding {name} -n {namespace} --role={name} {subject}")));
    }
    format!("{}{note}", commands.join(" && "))
}

/// One word of a shell, whatever is in it.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_=.:/@".contains(character);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// What a person types where something could not be read.
pub(super) fn read(unread: &Unread) -> String {
    match unread {
        Unread::Forbidden(right) => {
            let words: Vec<&str> = right.split_whitespace().take(2).collect();
            format!("kubectl auth can-i {} -A   # LG108 has the command that grants it", words.join(" "))
        }
        Unread::Failed(_) => "kubectl get --raw '/readyz?verbose'".to_owned(),
        Unread::Needs(_) => "linkerd-gate check -o short   # names what has to be readable first".to_owned(),
    }
}
