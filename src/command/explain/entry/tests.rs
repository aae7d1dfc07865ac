use super::*;
use crate::{
    command::explain::variables::{FIELDS, HOST_IP, INJECT, POD_IP},
    config::table,
    linkerd::names,
};
use k8s_openapi::api::{
    batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule},
    core::v1::{EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, PodDNSConfig, PodSpec, VolumeMount},
};

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: None }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// The entry as it is documented, without what most pods can do without.
fn entry() -> Container {
    Container {
        name: "linkerd-gate".to_owned(),
        image: Some("ghcr.io/x/linkerd-gate:1".to_owned()),
        args: Some(vec!["wait".to_owned()]),
        env: Some(vec![field(INJECTED_BY, INJECTED_BY_FIELD)]),
        ..Container::default()
    }
}

fn literal(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

/// A pod with the entry as it is documented, but for one change.
fn with(change: impl FnOnce(&mut PodSpec, &mut Container)) -> Pod {
    let mut pod = pod(vec![], vec![app()]);
    let mut entry = entry();
    let spec = pod.spec.as_mut().unwrap();
    change(spec, &mut entry);
    spec.init_containers = Some(vec![entry]);
    pod
}

/// Whether an entry without anything wrong holds a missed pod, and what is remarked.
fn holds(pod: &Pod) -> (bool, Vec<&'static str>) {
    match find(pod) {
        Entry::Ok { holds, remarks, .. } => (holds, remarks.iter().map(|remark| remark.key).collect()),
        other => panic!("{other:?}"),
    }
}

fn app() -> Container {
    Container { name: "app".to_owned(), ..Container::default() }
}

fn pod(init: Vec<Container>, regular: Vec<Container>) -> Pod {
    let spec = PodSpec { init_containers: Some(init), containers: regular, ..PodSpec::default() };
    Pod { spec: Some(spec), ..Pod::default() }
}

const INJECTED_BY_FIELD: &str = FIELDS[0].1;

fn find(pod: &Pod) -> Entry {
    Found::new(pod, &Maker::Other("Deployment".to_owned()), &Limits::default()).entry
}

fn keys(entry: &Entry) -> (&'static str, Vec<&'static str>) {
    let keys = |remarks: &[Remark]| remarks.iter().map(|remark| remark.key).collect();
    match entry {
        Entry::Missing => ("missing", vec![]),
        Entry::Ok { remarks, .. } => ("ok", keys(remarks)),
        Entry::Wrong { remarks, .. } => ("wrong", keys(remarks)),
    }
}

#[test]
fn the_documented_entry_is_ok_and_found_by_any_of_its_marks() {
    let renamed = Container { name: "hold".to_owned(), ..entry() };
    let mirrored = Container { image: Some("mirror/linkerd-gate@sha256:0".to_owned()), ..renamed.clone() };
    let own_image = Container { image: Some("mine:1".to_owned()), ..renamed.clone() };
    let spelled =
        Container { command: Some(vec!["/linkerd-gate".to_owned(), "wait".to_owned()]), args: None, ..entry() };
    for container in [entry(), renamed, mirrored, own_image, spelled] {
        assert_eq!(keys(&find(&pod(vec![container], vec![app()]))), ("ok", vec![]));
    }
}

#[test]
fn a_pod_without_it_has_none() {
    assert_eq!(find(&pod(vec![app()], vec![app()])), Entry::Missing);
    assert_eq!(find(&Pod::default()), Entry::Missing);
}

#[test]
fn every_mistake_in_a_pasted_entry_is_reported() {
    let change = |change: fn(&mut Container)| {
        let mut container = entry();
        change(&mut container);
        container
    };
    let literal = EnvVar { name: INJECTED_BY.to_owned(), value: Some("linkerd".to_owned()), value_from: None };
    let literal = Container { env: Some(vec![literal]), ..entry() };
    let cases = vec![
        ("does_not_wait", change(|container| container.args = None)),
        ("does_not_wait", change(|container| container.args = Some(vec!["--wait".to_owned()]))),
        ("does_not_wait", change(|container| container.args = Some(vec!["check".to_owned(), "wait".to_owned()]))),
        ("restarts_always", change(|container| container.restart_policy = Some("Always".to_owned()))),
        ("label_variable", change(|container| container.env = None)),
        ("label_variable", literal),
        (
            "label_variable",
            change(|container| {
                container.env = Some(vec![field(INJECTED_BY, "metadata.labels['linkerd.io/workload-ns']")]);
            }),
        ),
        ("looks_like_a_sidecar", change(|container| container.name = "linkerd-init".to_owned())),
        (
            "looks_like_a_sidecar",
            change(|container| container.image = Some("cr.l5d.io/linkerd/proxy-init:v1".to_owned())),
        ),
    ];
    for (wrong, container) in cases {
        assert_eq!(keys(&find(&pod(vec![container], vec![app()]))), ("wrong", vec![wrong]));
    }
}

#[test]
fn variables_are_judged_as_wait_itself_judges_them() {
    let with = |name: &str, value: &str| {
        let variable = EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
        let mut container = entry();
        container.env.as_mut().unwrap().push(variable);
        pod(vec![container], vec![app()])
    };
    let Entry::Wrong { remarks, .. } = find(&with("LINKERD_GATE_TIMOUT", "5m")) else {
        panic!("a variable that nobody knows");
    };
    assert!(remarks[0].text.contains("did you mean LINKERD_GATE_TIMEOUT?"), "{remarks:?}");
    assert_eq!(keys(&find(&with("LINKERD_GATE_TIMEOUT", "soon"))), ("wrong", vec!["configuration"]));
    assert_eq!(keys(&find(&with("LINKERD_GATE_TIMEOUT", "5m"))), ("ok", vec![]));
    assert_eq!(keys(&find(&with("LINKERD_GATE_TIMEOUT", "$(PATIENCE)"))), ("ok", vec![]));
}

#[test]
fn the_explained_variables_are_those_of_wait() {
    for (name, field) in FIELDS {
        assert!(table::find(name).unwrap().accepted.contains(field), "{name}");
    }
}

#[test]
fn the_container_that_waits_is_the_entry_among_the_gates() {
    let agent = Container { args: Some(vec!["agent".to_owned()]), ..entry() };
    let sidecar = Container { name: "agent".to_owned(), restart_policy: Some("Always".to_owned()), ..agent.clone() };
    for pod in [pod(vec![sidecar, entry()], vec![app()]), pod(vec![entry()], vec![agent])] {
        let Entry::Ok { container, .. } = find(&pod) else { panic!("{:?}", find(&pod)) };
        assert_eq!(container, "linkerd-gate");
    }
}

#[test]
fn an_entry_among_the_containers_is_wrong() {
    assert_eq!(keys(&find(&pod(vec![], vec![app(), entry()]))), ("wrong", vec!["not_an_init_container"]));
}

#[test]
fn where_it_stands_among_others_is_worth_a_remark() {
    assert_eq!(keys(&find(&pod(vec![app(), entry()], vec![app()]))), ("ok", vec!["not_first"]));
    assert_eq!(keys(&find(&pod(vec![entry(), entry()], vec![app()]))), ("ok", vec!["several"]));
}

#[test]
fn a_pod_that_does_not_ask_must_be_able_to_tell() {
    let mut declines = pod(vec![entry()], vec![app()]);
    declines.metadata.annotations =
        Some([(names::annotation::INJECT.to_owned(), names::inject::DISABLED.to_owned())].into());
    assert_eq!(keys(&find(&declines)), ("wrong", vec!["inject_variable"]));

    let mut on_host = pod(vec![entry()], vec![app()]);
    let spec = on_host.spec.as_mut().unwrap();
    spec.host_network = Some(true);
    spec.dns_policy = Some("ClusterFirstWithHostNet".to_owned());
    assert_eq!(keys(&find(&on_host)), ("wrong", vec!["address_variables"]));

    let all = vec![
        field(INJECTED_BY, INJECTED_BY_FIELD),
        field(INJECT, "metadata.annotations['linkerd.io/inject']"),
        field(POD_IP, "status.podIP"),
        field(HOST_IP, "status.hostIP"),
    ];
    for mut pod in [declines, on_host] {
        pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].env = Some(all.clone());
        assert_eq!(keys(&find(&pod)), ("ok", vec![]));
    }
}

#[test]
fn a_variable_that_is_not_from_its_own_field_is_wrong() {
    for (name, field_path) in FIELDS {
        let others = FIELDS.into_iter().filter(|(other, _)| *other != name);
        let others: Vec<_> = others.map(|(name, path)| field(name, path)).collect();
        let with = |variable: EnvVar| {
            let mut env = others.clone();
            env.push(variable);
            find(&pod(vec![Container { env: Some(env), ..entry() }], vec![app()]))
        };
        assert_eq!(keys(&with(field(name, field_path))), ("ok", vec![]), "{name}");
        let elsewhere = with(field(name, "spec.nodeName"));
        let literal = with(literal(name, table::find(name).unwrap().example));
        let neither = with(EnvVar { name: name.to_owned(), ..EnvVar::default() });
        for wrong in [elsewhere, literal, neither] {
            let (state, keys) = keys(&wrong);
            assert_eq!((state, keys.len()), ("wrong", 1), "{name}: {keys:?}");
            assert!(keys[0].ends_with("_variable") || keys[0].ends_with("_variables"), "{keys:?}");
        }
    }
    let twice_the_host =
        vec![field(INJECTED_BY, INJECTED_BY_FIELD), field(POD_IP, "status.hostIP"), field(HOST_IP, "status.hostIP")];
    let pod = pod(vec![Container { env: Some(twice_the_host), ..entry() }], vec![app()]);
    assert_eq!(keys(&find(&pod)), ("wrong", vec!["address_variables"]));
}

#[test]
fn of_two_variables_of_one_name_the_last_counts() {
    let on_missed = |value| literal("LINKERD_GATE_ON_MISSED", value);
    let with = |first, last| with(|_, container| container.env.as_mut().unwrap().extend([first, last]));
    assert_eq!(holds(&with(on_missed("open"), on_missed("hold"))), (true, vec!["repeated"]));
    assert_eq!(holds(&with(on_missed("hold"), on_missed("open"))), (false, vec!["repeated", "on_missed_open"]));
    assert_eq!(keys(&find(&with(on_missed("hold"), on_missed("never")))).0, "wrong");

    let label = field(INJECTED_BY, INJECTED_BY_FIELD);
    let right_last = with(literal(INJECTED_BY, "linkerd"), label.clone());
    assert_eq!(holds(&right_last), (true, vec!["repeated"]));
    assert_eq!(keys(&find(&with(label, literal(INJECTED_BY, "linkerd")))).0, "wrong");
}

#[test]
fn what_may_let_a_missed_pod_start_does_not_hold_it() {
    let set = |variables: &[(&str, &str)]| {
        let variables: Vec<_> = variables.iter().map(|(name, value)| literal(name, value)).collect();
        with(|_, container| container.env.as_mut().unwrap().extend(variables))
    };
    let (open, timeout) = (("LINKERD_GATE_ON_TIMEOUT", "open"), ("LINKERD_GATE_TIMEOUT", "5m"));
    assert_eq!(holds(&set(&[("LINKERD_GATE_ON_MISSED", "open")])), (false, vec!["on_missed_open"]));
    assert_eq!(holds(&set(&[open, timeout])), (false, vec!["on_timeout_open"]));
    assert_eq!(holds(&set(&[timeout])), (true, vec![]));
    assert_eq!(holds(&set(&[("LINKERD_GATE_ON_MISSED", "$(WHAT)")])), (false, vec!["untold"]));
    let from = with(|_, container| container.env_from = Some(vec![EnvFromSource::default()]));
    assert_eq!(holds(&from), (false, vec!["env_from"]));
}

#[test]
fn the_entry_must_run_wait_without_more_arguments() {
    let found_with = |command: &[&str], args: &[&str]| {
        let list = |words: &[&str]| {
            Some(words.iter().map(ToString::to_string).collect::<Vec<_>>()).filter(|list| !list.is_empty())
        };
        find(&with(|_, container| (container.command, container.args) = (list(command), list(args))))
    };
    for (command, args) in
        [(&[][..], &["wait"][..]), (&["/linkerd-gate"], &["wait"]), (&["/linkerd-gate", "wait"], &[])]
    {
        assert_eq!(keys(&found_with(command, args)), ("ok", vec![]));
    }
    for (command, args) in [
        (&[][..], &["wait", "--help"][..]),
        (&["/linkerd-gate", "wait"], &["-h"]),
        (&["/linkerd-gate", "wait", "-h"], &[]),
    ] {
        assert_eq!(keys(&found_with(command, args)), ("wrong", vec!["more_arguments"]));
    }
}

#[test]
fn exit_is_for_jobs_that_ignore_it_and_never_restart() {
    let pod = |restart: Option<&str>| {
        with(|spec, container| {
            container.env.as_mut().unwrap().push(literal("LINKERD_GATE_ON_MISSED", "exit"));
            spec.restart_policy = restart.map(str::to_owned);
        })
    };
    let rule = |action: &str, container: Option<&str>, operator: &str, values: &[i32]| PodFailurePolicyRule {
        action: action.to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: container.map(str::to_owned),
            operator: operator.to_owned(),
            values: values.to_vec(),
        }),
        on_pod_conditions: None,
    };
    let job = |rules: Vec<PodFailurePolicyRule>| Maker::Job(Some(PodFailurePolicy { rules }));
    let found = |maker: &Maker, restart| keys(&Found::new(&pod(restart), maker, &Limits::default()).entry);
    let never = Some("Never");

    for good in [
        rule("Ignore", Some("linkerd-gate"), "In", &[69, 75]),
        rule("Ignore", None, "In", &[75]),
        rule("Ignore", None, "NotIn", &[1]),
    ] {
        assert_eq!(found(&job(vec![good.clone()]), never), ("ok", vec![]));
        assert_eq!(found(&job(vec![good.clone()]), Some("OnFailure")), ("wrong", vec!["exit_restarts"]));
        let fails_first = job(vec![rule("FailJob", None, "NotIn", &[0, 1]), good]);
        assert_eq!(found(&fails_first, never), ("wrong", vec!["exit_policy"]));
    }
    for bad in [
        rule("Ignore", Some("app"), "In", &[75]),
        rule("Ignore", None, "In", &[1]),
        rule("Ignore", None, "NotIn", &[75]),
        rule("Count", None, "In", &[75]),
    ] {
        assert_eq!(found(&job(vec![bad]), never), ("wrong", vec!["exit_policy"]));
    }
    assert_eq!(found(&Maker::Job(None), never), ("wrong", vec!["exit_policy"]));
    assert_eq!(found(&Maker::JobElsewhere, never), ("ok", vec!["exit_policy"]));
    for maker in [Maker::NoOwner, Maker::Other("Deployment".to_owned())] {
        assert_eq!(found(&maker, never), ("wrong", vec!["exit_outside_a_job"]));
    }
}

#[test]
fn replace_needs_a_token_and_an_owner_that_makes_another() {
    let pod = |automount, mounted: bool| {
        with(|spec, container| {
            let env = container.env.as_mut().unwrap();
            env.extend(FIELDS[4..].iter().map(|(name, path)| field(name, path)));
            env.push(literal("LINKERD_GATE_ON_MISSED", "replace"));
            spec.automount_service_account_token = automount;
            container.volume_mounts = mounted.then(|| {
                vec![VolumeMount { mount_path: names::path::SERVICE_ACCOUNT.to_owned(), ..VolumeMount::default() }]
            });
        })
    };
    let found = |pod: Pod, maker: Maker| keys(&Found::new(&pod, &maker, &Limits::default()).entry);
    let other = || Maker::Other("ReplicaSet".to_owned());
    assert_eq!(found(pod(None, false), other()), ("ok", vec![]));
    assert_eq!(found(pod(Some(false), false), other()), ("wrong", vec!["replace_token"]));
    assert_eq!(found(pod(Some(false), true), other()), ("ok", vec![]));
    assert_eq!(found(pod(None, false), Maker::NoOwner), ("wrong", vec!["replace_owner"]));
    assert_eq!(found(pod(None, false), Maker::Job(None)), ("wrong", vec!["replace_in_a_job"]));
    assert_eq!(found(pod(None, false), Maker::JobElsewhere), ("wrong", vec!["replace_in_a_job"]));
}

#[test]
fn linkerds_names_must_resolve() {
    let pod = |policy: Option<&str>, host: bool, servers: bool, by_address: bool| {
        with(|spec, container| {
            spec.dns_policy = policy.map(str::to_owned);
            spec.host_network = Some(host);
            spec.dns_config = servers
                .then(|| PodDNSConfig { nameservers: Some(vec!["10.96.0.10".to_owned()]), ..PodDNSConfig::default() });
            let env = container.env.as_mut().unwrap();
            env.extend([field(POD_IP, "status.podIP"), field(HOST_IP, "status.hostIP")]);
            if by_address {
                env.push(literal("LINKERD_GATE_INJECTOR_ADDRESS", "10.96.0.1:443"));
                env.push(literal("LINKERD_GATE_IDENTITY_ADDRESS", "[fd00::1]:8080"));
            }
        })
    };
    let found = |policy, host, servers, by_address| keys(&find(&pod(policy, host, servers, by_address)));
    for (policy, host) in [(Some("Default"), false), (Some("None"), false), (None, true), (Some("ClusterFirst"), true)]
    {
        assert_eq!(found(policy, host, false, false), ("wrong", vec!["dns"]), "{policy:?} {host}");
        assert_eq!(found(policy, host, true, false), ("ok", vec!["dns"]), "{policy:?} {host}");
        assert_eq!(found(policy, host, false, true), ("ok", vec![]), "{policy:?} {host}");
    }
    for (policy, host) in [(None, false), (Some("ClusterFirst"), false), (Some("ClusterFirstWithHostNet"), true)] {
        assert_eq!(found(policy, host, false, false), ("ok", vec![]), "{policy:?} {host}");
    }
}
