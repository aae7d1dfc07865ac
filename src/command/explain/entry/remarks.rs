//! What there is to say about the entry.

use std::net::IpAddr;

use k8s_openapi::api::batch::v1::PodFailurePolicy;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Remark, another_program, arguments, only_waits, waits};
use crate::command::explain::subject::{Limits, Maker};
use crate::command::explain::variables::{Effect, FIELDS, HOST_IP, INJECT, INJECTED_BY, POD_IP, Variables, field_of};
use crate::config::{Component, OnMissed, Problems, Wait, WhenMeshed};
use crate::exit::Exit;
use crate::linkerd::injection_input::{inject_annotation, is_sidecar, is_sidecar_init};
use crate::linkerd::names;

/// What there is to say about the entry, in the order in which it is told.
pub(super) struct Remarks(pub(super) Vec<Remark>);

// === impl Remarks ===

impl Remarks {
    fn wrong(&mut self, key: &'static str, text: impl Into<String>) {
        self.0.push(Remark { key, text: text.into(), wrong: true });
    }

    fn note(&mut self, key: &'static str, text: impl Into<String>) {
        self.0.push(Remark { key, text: text.into(), wrong: false });
    }

    pub(super) fn on_place(&mut self, place: Option<usize>, container: &Container, candidates: usize) {
        if place.is_none() {
            self.wrong(
                "not_an_init_container",
                "it stands among containers, where it holds nothing back: move it to initContainers",
            );
        }
        if let Some(program) = another_program(container) {
            let text = format!(
                "it runs {program}, and not linkerd-gate: remove command and give it args: [wait], \
                 or make command [/linkerd-gate, wait]"
            );
            self.wrong("another_program", text);
        } else if !waits(container) {
            self.wrong("does_not_wait", "it does not say wait: give it args: [wait]");
        } else if !only_waits(container) {
            let text = format!(
                "it is told {}, where wait alone holds a pod (wait --help, say, ends at once and lets it start): \
                 give it args: [wait]",
                arguments(container).join(" ")
            );
            self.wrong("more_arguments", text);
        }
        if container.restart_policy.as_deref() == Some("Always") {
            self.wrong(
                "restarts_always",
                "its restartPolicy is Always, which makes it a sidecar that nothing waits for: remove that line",
            );
        }
        if is_sidecar(container) || (place.is_some() && is_sidecar_init(container)) {
            self.wrong(
                "looks_like_a_sidecar",
                "its name or its image makes Linkerd's injector take it for a sidecar and leave the pod alone: \
                 name it linkerd-gate",
            );
        }
        if let Some(before @ 1..) = place {
            self.note(
                "not_first",
                format!("{before} of the pod's own init containers come before it and are not held"),
            );
        }
        if candidates > 1 {
            let text = format!("{candidates} containers look like the entry; this is about the first that waits");
            self.note("several", text);
        }
    }

    pub(super) fn on_variables(&mut self, pod: &Pod, variables: &Variables<'_>, container: &Container) {
        for (name, field) in FIELDS {
            let paste = format!("paste it as {{name: {name}, valueFrom: {{fieldRef: {{fieldPath: \"{field}\"}}}}}}");
            let Some(variable) = variables.get(name) else {
                if name == INJECTED_BY {
                    self.wrong("label_variable", format!("it has no variable {name}, so it will exit with 2: {paste}"));
                }
                continue;
            };
            if variables.is_wired(name) {
                continue;
            }
            let key = match name {
                INJECTED_BY => "label_variable",
                INJECT => "inject_variable",
                POD_IP | HOST_IP => "address_variables",
                _ => "pod_variables",
            };
            match field_of(variable) {
                Some(found) => self.wrong(key, format!("{name} is taken from {found} instead of {field}: {paste}")),
                None => self.wrong(
                    key,
                    format!("{name} is not taken from {field}, so it does not tell one pod from another: {paste}"),
                ),
            }
        }
        if inject_annotation(&pod.metadata) == names::inject::DISABLED && variables.get(INJECT).is_none() {
            let text = format!(
                "the pod says that it does not want to be injected, but {INJECT} does not tell the entry, \
                 which will hold it like a missed pod"
            );
            self.wrong("inject_variable", text);
        }
        if on_host(pod) && (variables.get(POD_IP).is_none() || variables.get(HOST_IP).is_none()) {
            let text = format!(
                "the pod is in its host's network, but {POD_IP} and {HOST_IP} do not tell the entry, \
                 which will hold it like a missed pod"
            );
            self.wrong("address_variables", text);
        }
        for name in variables.repeated() {
            self.note("repeated", format!("{name} stands in env more than once: the last one counts"));
        }
        for name in variables.untold() {
            let text = format!("{name} has a value that does not stand here: by it a missed pod may start");
            self.note("untold", text);
        }
        if container.env_from.iter().flatten().next().is_some() {
            self.note(
                "env_from",
                "its envFrom may set any of its variables, those by which a missed pod starts too: \
                 write what it needs in env",
            );
        }
    }

    /// What `wait` itself would say of its variables.
    pub(super) fn on_problems(&mut self, problems: &Problems) {
        for problem in problems.iter() {
            self.wrong("configuration", format!("it will exit with 2, for {problem}"));
        }
    }

    pub(super) fn on_settings(
        &mut self,
        pod: &Pod,
        container: &Container,
        settings: &Wait,
        maker: &Maker,
        limits: &Limits,
    ) {
        match (Effect::of_missed(settings), settings.on_missed) {
            (_, OnMissed::Open) => self.note(
                "on_missed_open",
                "by LINKERD_GATE_ON_MISSED=open a missed pod starts outside the mesh once Linkerd is ready",
            ),
            (Effect::OpensAfter(timeout), _) => {
                let timeout = humantime::format_duration(timeout);
                let text =
                    format!("by LINKERD_GATE_ON_TIMEOUT=open a missed pod starts outside the mesh after {timeout}");
                self.note("on_timeout_open", text);
            }
            _ => {}
        }
        match settings.on_missed {
            OnMissed::Exit => self.on_exit(pod, container, maker),
            OnMissed::Replace => self.on_replace(pod, container, maker),
            OnMissed::Hold | OnMissed::Open => {}
        }
        self.on_limits(pod, settings, limits);
        self.on_uid(pod, container, settings);
        self.on_names(pod, settings);
    }

    /// What ends a pod that is held, and what it holds up.
    fn on_limits(&mut self, pod: &Pod, settings: &Wait, limits: &Limits) {
        let effect = Effect::of_missed(settings);
        let held = matches!(effect, Effect::Holds | Effect::GivesUpAfter(_));
        if held && limits.one_at_a_time {
            let text = format!(
                "a missed pod is held until it is replaced, and by concurrencyPolicy: Forbid no later run starts until then: \
                 LINKERD_GATE_ON_MISSED=exit, with a podFailurePolicy that ignores {MUST_BE_REPLACED}, holds up none"
            );
            self.note("forbid", text);
        }
        let of_pod = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let deadlines = [("Job", limits.deadline), ("pod", of_pod)];
        for (whose, deadline) in deadlines.into_iter().filter_map(|(whose, deadline)| Some((whose, deadline?))) {
            if effect.holds() {
                let text = format!(
                    "the {whose}'s activeDeadlineSeconds goes on while it waits: held for {deadline} seconds, the {whose} fails"
                );
                self.note("deadline", text);
            }
        }
    }

    /// Where Linkerd's CNI plug-in redirects, only the proxy's own user reaches identity before the proxy is up.
    fn on_uid(&mut self, pod: &Pod, container: &Container, settings: &Wait) {
        if settings.when_meshed != WhenMeshed::Identity {
            return;
        }
        let annotated =
            pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get("config.linkerd.io/proxy-uid"));
        let wanted = annotated.and_then(|uid| uid.parse().ok()).unwrap_or(names::PROXY_UID);
        let of_container = container.security_context.as_ref().and_then(|context| context.run_as_user);
        let of_pod =
            pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.run_as_user);
        if of_container.or(of_pod) != Some(wanted) {
            let text = format!(
                "with LINKERD_GATE_WHEN_MESHED=identity and Linkerd's CNI plug-in it reaches identity only as the proxy's user: \
                 give it securityContext.runAsUser: {wanted}"
            );
            self.note("identity_uid", text);
        }
    }

    fn on_exit(&mut self, pod: &Pod, container: &Container, maker: &Maker) {
        const WHAT: &str = "LINKERD_GATE_ON_MISSED=exit";
        let code = MUST_BE_REPLACED;
        let policy = match maker {
            Maker::Job(policy) => policy,
            Maker::JobElsewhere => {
                let text = format!("{WHAT} needs a podFailurePolicy that ignores {code} in its Job, which is not here");
                self.note("exit_policy", text);
                return;
            }
            Maker::NoOwner | Maker::Other(_) => {
                let text = format!(
                    "{WHAT} is for Jobs: here nothing replaces a pod for it, and the container only restarts in place"
                );
                self.wrong("exit_outside_a_job", text);
                return;
            }
        };
        let restart = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
        if restart != "Never" {
            let text =
                format!("{WHAT} only restarts the container in place, as restartPolicy is {restart}: make it Never");
            self.wrong("exit_restarts", text);
        }
        if !policy.as_ref().is_some_and(|policy| ignores(policy, &container.name, code)) {
            let text = format!(
                "{WHAT} counts against the Job's backoffLimit, as no podFailurePolicy ignores it: give it the rule \
                 {{action: Ignore, onExitCodes: {{containerName: {}, operator: In, values: [{code}]}}}}",
                container.name
            );
            self.wrong("exit_policy", text);
        }
    }

    fn on_replace(&mut self, pod: &Pod, container: &Container, maker: &Maker) {
        const WHAT: &str = "LINKERD_GATE_ON_MISSED=replace";
        let automount = pod.spec.as_ref().and_then(|spec| spec.automount_service_account_token);
        let mut mounts = container.volume_mounts.iter().flatten();
        if automount == Some(false) && !mounts.any(|mount| mount.mount_path == names::path::SERVICE_ACCOUNT) {
            let text = format!(
                "{WHAT} deletes the pod with its token, and automountServiceAccountToken: false leaves it none"
            );
            self.wrong("replace_token", text);
        }
        match maker {
            Maker::NoOwner => {
                self.wrong("replace_owner", format!("{WHAT} deletes the pod, which has no owner to create it again"));
            }
            Maker::Job(_) | Maker::JobElsewhere => {
                let text = format!(
                    "{WHAT} deletes the pod, which counts against the Job's backoffLimit: LINKERD_GATE_ON_MISSED=exit, \
                     with a podFailurePolicy that ignores {MUST_BE_REPLACED}, does not"
                );
                self.wrong("replace_in_a_job", text);
            }
            Maker::Other(kind) if !maker.is_known() => {
                let text = format!(
                    "{WHAT} deletes the pod, and whether its {kind} creates it again is not known: \
                     a step of a Workflow, for one, fails: leave LINKERD_GATE_ON_MISSED at hold"
                );
                self.note("replace_unknown_owner", text);
            }
            Maker::Other(_) => {}
        }
    }

    /// Whether the names of Linkerd's parts resolve in the pod.
    fn on_names(&mut self, pod: &Pod, settings: &Wait) {
        let linkerd = &settings.linkerd;
        let named = linkerd.require.iter().any(|component| {
            let address = match component {
                Component::Injector => &linkerd.injector,
                Component::Identity => &linkerd.identity,
                Component::Destination => &linkerd.destination,
                Component::Policy => &linkerd.policy,
            };
            address.host.parse::<IpAddr>().is_err()
        });
        if !named {
            return;
        }
        let spec = pod.spec.as_ref();
        let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
        let servers = spec.and_then(|spec| spec.dns_config.as_ref()).and_then(|config| config.nameservers.as_ref());
        let servers = servers.is_some_and(|servers| !servers.is_empty());
        match policy {
            // With its own servers it may ask the cluster's.
            "None" | "Default" | "ClusterFirst" if servers && (policy != "ClusterFirst" || on_host(pod)) => {
                self.note("dns", "Linkerd's names resolve only if one of dnsConfig's nameservers knows the cluster's");
            }
            "None" | "Default" => {
                let text =
                    format!("with dnsPolicy: {policy} Linkerd's names do not resolve, so it never finds Linkerd ready");
                self.wrong("dns", text);
            }
            "ClusterFirst" if on_host(pod) => self.wrong(
                "dns",
                "in its host's network Linkerd's names do not resolve, so it never finds Linkerd ready: \
                 set dnsPolicy: ClusterFirstWithHostNet",
            ),
            _ => {}
        }
    }
}

/// The exit code that a Job's podFailurePolicy has to ignore.
const MUST_BE_REPLACED: i32 = Exit::MustBeReplaced.code() as i32;

fn on_host(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Whether a policy ignores an exit code of a container. The first rule that fits decides.
///
/// <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy>
fn ignores(policy: &PodFailurePolicy, container: &str, code: i32) -> bool {
    let fitting = policy.rules.iter().find(|rule| {
        rule.on_exit_codes.as_ref().is_some_and(|on| {
            let named = on.container_name.as_deref().is_none_or(|name| name == container);
            named && on.values.contains(&code) == (on.operator == "In")
        })
    });
    fitting.is_some_and(|rule| rule.action == "Ignore")
}
