//! What `check` reads: lists, page by page, and a pod that is never stored. Nothing here persists anything.

use std::collections::BTreeSet;

use futures::future::{join, join3, join4};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, NodeStatus, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde::de::DeserializeOwned;

use super::error::unread;
use super::{admission, dry_run, event, linkerd};
use crate::check::certificate::{self, Injector, Served};
use crate::check::labels::is_ours;
use crate::check::state::{Version, is_of_use};
use crate::check::{Proof, Read, State, Survey, Unread};
use crate::linkerd::endpoints::{self, EndpointsView};
use crate::linkerd::webhook::Call;
use crate::linkerd::{TokenProjection, WebhookView, names};

/// How many objects of a kind are in memory at a time.
const PAGE: u32 = 500;

/// The labels of the agents' pods, as a selector.
const AGENTS: &str = "app.kubernetes.io/name=linkerd-gate,app.kubernetes.io/component=agent";

/// What is read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Whether it is before linkerd-gate is installed.
    pub pre: bool,
    /// The namespace of the pods that are counted; all of them where there is none.
    pub namespace: Option<String>,
    /// A selector of the labels of pods, as kubectl takes it.
    pub selector: Option<String>,
    /// The namespace of dry-run pods.
    pub probe_namespace: String,
    /// Whether a dry-run pod is sent: what only reads needs none.
    pub proves: bool,
    /// Whether the addresses of the injector are read, to connect to them.
    pub dials: bool,
    /// How Linkerd was installed, in the one respect that its webhook does not tell.
    pub projection: TokenProjection,
}

/// The CronJob that runs `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronJob {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Reads everything. What cannot be read is noted in its place.
pub async fn read(client: &Client, scope: &Scope) -> State {
    let now = Timestamp::now();
    let version = version(client).await;
    if let Err(unread @ Unread::Failed(_)) = &version {
        // Where this is not answered, nothing else is.
        return nothing(scope, now, unread);
    }
    let (webhooks, policies, namespaces, workloads) = join4(
        join(
            all::<MutatingWebhookConfiguration>(client, "mutatingwebhookconfigurations"),
            all::<ValidatingWebhookConfiguration>(client, "validatingwebhookconfigurations"),
        ),
        admission::read(client),
        all::<Namespace>(client, "namespaces"),
        join3(
            all::<DaemonSet>(client, "daemonsets.apps in all namespaces"),
            some(&Api::<Deployment>::all(client.clone()), "deployments.apps in all namespaces", is_of_use),
            nodes(client),
        ),
    )
    .await;
    let ((mut mutating, validating), (daemon_sets, deployments, nodes)) = (webhooks, workloads);
    if let Ok(all) = &mut mutating {
        all.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    }
    let mut state = State {
        pre: scope.pre,
        projection: scope.projection,
        now,
        version,
        mutating,
        validating,
        admission: policies,
        namespaces,
        daemon_sets,
        deployments,
        leases: Ok(Vec::new()),
        nodes,
        pods: Err(Unread::Needs("Linkerd's webhooks")),
        proof: Proof::Skipped(String::new()),
        injectors: Ok(Vec::new()),
        served: Served::NotDialled,
        asker: None,
    };
    let ours = our_namespace(&state);
    let rest = join4(
        leases(client, ours.as_deref()),
        pods(client, scope, &state),
        prove(client, scope, &state),
        injectors(client, scope, &state),
    );
    let (leases, pods, proof, injectors) = Box::pin(rest).await;
    (state.leases, state.pods, state.proof, state.injectors) = (leases, pods, proof, injectors);
    if state.is_forbidden_something() {
        state.asker = asker(client).await;
    }
    state
}

/// Counts all pods, of one namespace or of all.
///
/// # Errors
/// Anything that is needed for it and cannot be read.
pub async fn survey(client: &Client, scope: &Scope) -> Read<Survey> {
    let (mutating, namespaces) = join(
        all::<MutatingWebhookConfiguration>(client, "mutatingwebhookconfigurations"),
        all::<Namespace>(client, "namespaces"),
    )
    .await;
    count(client, scope, &mutating?, &namespaces?, BTreeSet::new()).await
}

fn nothing(scope: &Scope, now: Timestamp, unread: &Unread) -> State {
    fn of<T>(unread: &Unread) -> Read<T> {
        Err(unread.clone())
    }
    State {
        pre: scope.pre,
        projection: scope.projection,
        now,
        version: of(unread),
        mutating: of(unread),
        validating: of(unread),
        admission: of(unread),
        namespaces: of(unread),
        daemon_sets: of(unread),
        deployments: of(unread),
        leases: of(unread),
        nodes: of(unread),
        pods: of(unread),
        proof: Proof::Skipped(unread.to_string()),
        injectors: of(unread),
        served: Served::NotDialled,
        asker: None,
    }
}

pub(super) async fn version(client: &Client) -> Read<Version> {
    let info = client.apiserver_version().await.map_err(|error| unread(&error, "get /version"))?;
    Version::read(&info.git_version)
        .ok_or_else(|| Unread::Failed(format!("the API server's version is of no known form: {}", info.git_version)))
}

pub(super) async fn all<K>(client: &Client, what: &str) -> Read<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut found = Vec::new();
    let take = |mut object: K| {
        object.meta_mut().managed_fields = None;
        found.push(object);
    };
    each(&Api::<K>::all(client.clone()), None, &format!("list {what}"), take).await?;
    Ok(found)
}

async fn some<K>(api: &Api<K>, what: &str, keep: impl Fn(&K) -> bool) -> Read<Vec<K>>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut found = Vec::new();
    each(api, None, &format!("list {what}"), |object| {
        if keep(&object) {
            found.push(object);
        }
    })
    .await?;
    Ok(found)
}

/// Goes through all objects, page by page.
pub(super) async fn each<K>(api: &Api<K>, selector: Option<&str>, act: &str, mut take: impl FnMut(K)) -> Read<()>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let first = ListParams { label_selector: selector.map(ToOwned::to_owned), ..ListParams::default().limit(PAGE) };
    let mut parameters = first.clone();
    loop {
        let page = api.list(&parameters).await.map_err(|error| unread(&error, act))?;
        page.items.into_iter().for_each(&mut take);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = first.clone().continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn nodes(client: &Client) -> Read<Vec<Node>> {
    let mut found = Vec::new();
    let take = |node: Node| {
        let ObjectMeta { name, labels, annotations, .. } = node.metadata;
        let conditions = node.status.and_then(|status| status.conditions);
        found.push(Node {
            metadata: ObjectMeta { name, labels, annotations, ..ObjectMeta::default() },
            spec: node.spec,
            status: Some(NodeStatus { conditions, ..NodeStatus::default() }),
        });
    };
    each(&Api::<Node>::all(client.clone()), None, "list nodes", take).await?;
    Ok(found)
}

async fn leases(client: &Client, namespace: Option<&str>) -> Read<Vec<Lease>> {
    let Some(namespace) = namespace else { return Ok(Vec::new()) };
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    let ours = |lease: &Lease| lease.metadata.name.as_deref().is_some_and(|name| name.starts_with("linkerd-gate"));
    some(&leases, &format!("leases.coordination.k8s.io in namespace {namespace}"), ours).await
}

/// Where our parts are.
fn our_namespace(state: &State) -> Option<String> {
    let sets = state.daemon_sets.iter().flatten();
    let agents = sets.filter(|it| is_ours(it.metadata.labels.as_ref(), "agent")).map(|it| &it.metadata);
    let deployments = state.deployments.iter().flatten();
    let controllers =
        deployments.filter(|it| is_ours(it.metadata.labels.as_ref(), "controller")).map(|it| &it.metadata);
    agents.chain(controllers).find_map(|metadata| metadata.namespace.clone())
}

async fn pods(client: &Client, scope: &Scope, state: &State) -> Read<Survey> {
    let mutating = state.mutating.as_ref().map_err(|_| Unread::Needs("Linkerd's webhooks"))?;
    let namespaces = state.namespaces.as_ref().map_err(|_| Unread::Needs("the namespaces"))?;
    // What a webhook that fails closed is called for shows in the pods that exist.
    let validating = state.validating.iter().flatten().flat_map(|it| it.webhooks.iter().flatten());
    let services = mutating.iter().flat_map(|it| it.webhooks.iter().flatten()).map(|hook| &hook.client_config);
    let services =
        services.chain(validating.map(|hook| &hook.client_config)).filter_map(|client| client.service.as_ref());
    let watched = services.map(|service| service.namespace.clone()).chain(["kube-system".to_owned()]).collect();
    let mut survey = count(client, scope, mutating, namespaces, watched).await?;
    // Of one namespace the agents' pods are not among those that were counted.
    if (scope.namespace.is_some() || scope.selector.is_some())
        && let Some(namespace) = our_namespace(state)
    {
        let agents = Api::<Pod>::namespaced(client.clone(), &namespace);
        let act = format!("list pods in namespace {namespace}");
        survey.agents_unread = each(&agents, Some(AGENTS), &act, |pod| survey.parts(&pod)).await.err();
    }
    Ok(survey)
}

async fn count(
    client: &Client,
    scope: &Scope,
    mutating: &[MutatingWebhookConfiguration],
    namespaces: &[Namespace],
    watched: BTreeSet<String>,
) -> Read<Survey> {
    let mut survey = uncounted(mutating, namespaces, scope.projection)?;
    survey.watch(watched);
    let (pods, what) = in_namespace(client, scope.namespace.as_deref());
    each(&pods, scope.selector.as_deref(), &what, |pod| survey.add(&pod)).await?;
    Ok(survey)
}

/// The pods of a namespace, or all; and what listing them is called.
pub(super) fn in_namespace(client: &Client, namespace: Option<&str>) -> (Api<Pod>, String) {
    match namespace {
        Some(namespace) => (Api::namespaced(client.clone(), namespace), format!("list pods in namespace {namespace}")),
        None => (Api::all(client.clone()), "list pods in all namespaces".to_owned()),
    }
}

/// A survey that has seen no pod yet.
pub(super) fn uncounted(
    mutating: &[MutatingWebhookConfiguration],
    namespaces: &[Namespace],
    projection: TokenProjection,
) -> Read<Survey> {
    let view = WebhookView::new(mutating).map_err(|error| Unread::Failed(error.to_string()))?;
    let is_linkerds = |it: &&MutatingWebhookConfiguration| {
        view.webhooks.iter().any(|webhook| Some(&webhook.configuration) == it.metadata.name.as_ref())
    };
    let created = mutating.iter().filter(is_linkerds).filter_map(|it| it.metadata.creation_timestamp.as_ref());
    let installed = created.map(|created| created.0).min();
    Ok(Survey::new(view, installed, projection, namespaces))
}

/// Sends a dry-run pod: to the probe namespace, where there is one, else one that asks itself to a namespace that Linkerd's
/// webhook selects.
async fn prove(client: &Client, scope: &Scope, state: &State) -> Proof {
    if !scope.proves {
        return Proof::Skipped("no dry-run pod was sent".to_owned());
    }
    let Ok(view) = state.webhooks() else {
        return Proof::Skipped("Linkerd's webhooks could not be read".to_owned());
    };
    if view.is_empty() {
        return Proof::Skipped("there is no webhook of Linkerd's injector".to_owned());
    }
    let Ok(namespaces) = &state.namespaces else {
        return Proof::Skipped("the namespaces could not be read".to_owned());
    };
    let named = |name: &str| namespaces.iter().find(|it| it.metadata.name.as_deref() == Some(name));
    let selected = |namespace: &Namespace| {
        let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
        labels.insert(names::label::METADATA_NAME.to_owned(), namespace.metadata.name.clone().unwrap_or_default());
        let none = std::collections::BTreeMap::new();
        view.webhooks.iter().any(|webhook| !matches!(webhook.call(&labels, &none), Call::Excluded(_)))
    };
    let probe_namespace = named(&scope.probe_namespace).filter(|_| !scope.pre);
    let preferred = scope.namespace.iter().map(String::as_str).chain(["default"]).filter_map(named);
    let found = probe_namespace.into_iter().chain(preferred).chain(namespaces).find(|it| selected(it));
    let Some(namespace) = found.and_then(|it| it.metadata.name.clone()) else {
        return Proof::Skipped("Linkerd's webhook selects no namespace without a label on the pod".to_owned());
    };
    match dry_run::send_asking(client.clone(), &namespace).await {
        dry_run::DryRun::Forbidden(_) => {
            Proof::Forbidden(format!("create pods in namespace {namespace} (in a dry run)"))
        }
        dry_run::DryRun::Answered(outcome) => Proof::Answered { namespace, outcome },
        dry_run::DryRun::Unreachable(why) => Proof::Skipped(why),
    }
}

/// Where the injector listens, by the EndpointSlices of the Services that Linkerd's webhooks name.
async fn injectors(client: &Client, scope: &Scope, state: &State) -> Read<Vec<Injector>> {
    if !scope.dials {
        return Ok(Vec::new());
    }
    let Ok(view) = state.webhooks() else { return Err(Unread::Needs("Linkerd's webhooks")) };
    let mut found = Vec::new();
    for (namespace, service, server_name) in certificate::services(&view) {
        let slices = Api::<EndpointSlice>::namespaced(client.clone(), &namespace);
        let selector = format!("{}={service}", linkerd::SERVICE_NAME);
        let act = format!("list endpointslices.discovery.k8s.io in namespace {namespace}");
        let mut views = Vec::new();
        each(&slices, Some(&selector), &act, |slice| views.push(EndpointsView::of(&slice))).await?;
        let addresses = endpoints::addresses(&views, &namespace, &service, None).into_iter();
        found.extend(addresses.map(|address| Injector { server_name: server_name.clone(), address }));
    }
    Ok(found)
}

/// Who asks, as `kubectl create clusterrolebinding` takes it; nothing where the API server does not say. Every user may ask
/// (`system:basic-user`), and nothing is stored.
async fn asker(client: &Client) -> Option<String> {
    let review = Api::<SelfSubjectReview>::all(client.clone());
    let review = review.create(&PostParams::default(), &SelfSubjectReview::default()).await.ok()?;
    let name = review.status?.user_info?.username.filter(|name| !name.is_empty())?;
    Some(match name.strip_prefix("system:serviceaccount:") {
        Some(account) => format!("--serviceaccount={account}"),
        None => format!("--user={name}"),
    })
}

/// Notes on a CronJob what a run of it found, in the CronJob's own namespace. RBAC needs no more than creating Events there.
///
/// # Errors
/// One sentence.
pub async fn note(client: Client, cron_job: &CronJob, message: &str) -> Result<(), String> {
    let CronJob { namespace, name } = cron_job;
    let subject = event::EventSubject {
        api_version: "batch/v1".to_owned(),
        kind: "CronJob".to_owned(),
        namespace: Some(namespace.clone()),
        name: name.clone(),
        uid: String::new(),
    };
    let reporter = event::Reporter { instance: name, node: None };
    event::note(client, reporter, &subject, true, "CheckFailed", message, Timestamp::now()).await
}
