//! What a monitoring system reads at `/metrics`. Names are an API: [`TABLE`] lists them, and `docs/metrics.md` is made from it.

use std::fmt::Write as _;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};
use strum::EnumCount;

use crate::decide::ProbeResult;

/// What every name begins with.
pub const PREFIX: &str = "linkerd_gate";

/// One metric, as a person needs to know it.
#[derive(Debug)]
pub struct Row {
    /// The name of its samples without [`PREFIX`]; of a histogram, what its samples' names begin with.
    pub name: &'static str,
    /// `gauge`, `counter`, `histogram` or `info`, as OpenMetrics has it.
    pub kind: &'static str,
    /// Which role has it.
    pub role: Roles,
    /// Its labels, with every value that each can have; no values where they cannot be listed.
    pub labels: &'static [(&'static str, &'static [&'static str])],
    /// What it counts or says; without a final stop, which the library adds.
    pub meaning: &'static str,
}

/// Which role has a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    /// The agent.
    Agent,
    /// The controller.
    Controller,
    /// Both.
    Both,
}

/// Every metric, in the order in which they are printed.
pub const TABLE: &[Row] = &[
    gauge(
        Roles::Both,
        "open",
        "1 where /gate answers open: pods may start now. A controller that does not lead shows 0",
    ),
    gauge(Roles::Agent, "node_open", "1 where this node was opened in this boot"),
    gauge(Roles::Agent, "node_tainted", "1 while this node has our taint, so that no new pod starts on it"),
    counter(
        Roles::Agent,
        "unproven_openings_total",
        &[],
        "How often this agent opened its node without a proof, after LINKERD_GATE_NODE_MAX_CLOSED",
    ),
    gauge(Roles::Agent, "override_in_force", "1 while a manual override of this node, or of all nodes, is in force"),
    gauge(
        Roles::Agent,
        "verdict_fresh",
        "1 while the prover is seen renewing its verdict and proving it again; 0 if no agent proves injection, the prover's probes hang, or this agent cannot reach the API server",
    ),
    gauge(Roles::Agent, "prover", "1 where this agent proves injection for all"),
    gauge(
        Roles::Agent,
        "taint_suppressing_daemonsets",
        "Essential DaemonSets that do not tolerate the taint and lack a pod on a node because of it: those nodes are not tainted meanwhile. The prover counts them",
    ),
    gauge(Roles::Controller, "leader", "1 where this controller acts; of two replicas one does"),
    Row {
        name: "missed_pods",
        kind: "gauge",
        role: Roles::Controller,
        labels: &[("namespace", &[]), ("state", &["held", "running"])],
        meaning: "Pods that ask for Linkerd and have no proxy: held ones have not started anything yet; only the leader counts",
    },
    Row {
        name: "held_pods",
        kind: "gauge",
        role: Roles::Controller,
        labels: &[("namespace", &[])],
        meaning: "Pods that have our scheduling gate: none of them has a node; no series means 0, and only the leader counts",
    },
    gauge(
        Roles::Controller,
        "pending_repair_pods",
        "Missed pods without our scheduling gate and without a node that are still to be replaced: agents wait for 0",
    ),
    gauge(
        Roles::Controller,
        "admission_parameter_missing",
        "1 where hold or guard is bound and no webhook configuration matches: neither does anything then",
    ),
    gauge(
        Roles::Controller,
        "hold_binding_missing",
        "1 where the API server offers MutatingAdmissionPolicy, LINKERD_GATE_ADMISSION is auto or hold, and the binding linkerd-gate-hold is \
         absent; 0 in audit mode",
    ),
    gauge(
        Roles::Controller,
        "breaker_open_owners",
        "Owners that the controller pauses: three of their replacements had no proxy",
    ),
    gauge(Roles::Controller, "retrying_owners", "Owners that were retried, and have no result yet"),
    gauge(Roles::Controller, "retry_window_owners", "How many owners may be retried at a time, by the results so far"),
    counter(
        Roles::Controller,
        "replacements_total",
        &[("method", METHODS), ("result", ACTED)],
        "Missed pods removed, and Jobs suspended and resumed for it: untrack is a deletion that a Job does not count; refused \
         by a disruption budget, or by the dry-run of the replacement, and then nothing is sent",
    ),
    gauge(Roles::Controller, "replacement_window_pods", "How many replacements may be pending, by the results so far"),
    counter(
        Roles::Controller,
        "ungated_pods_total",
        &[("reason", UNGATED), ("result", ACTED)],
        "Pods whose scheduling gate the controller removed, by the reason",
    ),
    counter(
        Roles::Controller,
        "successor_dry_runs_total",
        &[("result", TRIED)],
        "Dry-runs of the pod that an owner would make instead of a running one, before an eviction; only accepted and quota_freed lead to one",
    ),
    counter(
        Roles::Controller,
        "late_replacements_total",
        &[("cause", NOT_CREATED)],
        "Owners that did not create a pod again within ten seconds after the controller removed one, by what refused it; of each owner \
         and cause once in ten minutes",
    ),
    counter(
        Roles::Controller,
        "owner_retries_total",
        &[("result", ACTED)],
        "Owners retried whose pods admission had refused",
    ),
    counter(
        Roles::Controller,
        "opened_orphan_nodes_total",
        &[("result", ACTED)],
        "Closed nodes that the controller opened because their agent was gone for LINKERD_GATE_ORPHAN_AFTER",
    ),
    Row {
        name: "proof_duration_seconds",
        kind: "histogram",
        role: Roles::Both,
        labels: &[],
        meaning: "How long one proof took, from its dry-run request to the answer; of the agents only the prover makes any",
    },
    counter(Roles::Both, "proofs_total", &[("result", PROVED)], "Proofs by their result: unknown if a proof had none"),
    counter(Roles::Agent, "node_patches_total", &[("result", WRITTEN)], "Writes of this node's taint and annotation"),
    counter(
        Roles::Agent,
        "toleration_patches_total",
        &[("result", WRITTEN)],
        "Tolerations of the taint given to essential pods",
    ),
    counter(Roles::Both, "lease_writes_total", &[("result", WRITTEN)], "Writes of the role's Lease, renewals included"),
    counter(
        Roles::Both,
        "gate_requests_total",
        &[("code", ANSWERED)],
        "Requests of /gate by the HTTP status of the answer: 200 is open, 503 closed",
    ),
    gauge(Roles::Both, "gate_waiting_requests", "Long polls of /gate that wait for it to open"),
    counter(
        Roles::Both,
        "refused_connections_total",
        &[],
        "Connections cut off because there were as many as are allowed, in all or of one peer",
    ),
    Row {
        name: "build_info",
        kind: "info",
        role: Roles::Both,
        labels: &[("version", &[])],
        meaning: "The version that runs here",
    },
];

const METHODS: &[&str] = &["delete", "untrack", "evict", "suspend", "resume"];
const UNGATED: &[&str] = &["meshed", "skipped", "exempt", "released", "opened", "hold_max", "not_installed"];
const ACTED: &[&str] = &["done", "conflict", "refused", "failed", "audit"];
const TRIED: &[&str] = &[
    "accepted",
    "quota_freed",
    "pod_security",
    "quota",
    "quota_undecided",
    "annotation",
    "injector",
    "not_injected",
    "admission",
    "failed",
];
const NOT_CREATED: &[&str] =
    &["pod_security", "quota", "annotation", "injector", "not_injected", "admission", "failed", "unknown"];
const PROVED: &[&str] = &["ready", "not_ready", "unknown"];
const WRITTEN: &[&str] = &["done", "conflict", "refused", "failed", "audit"];
const ANSWERED: &[&str] = &["200", "400", "405", "413", "503"];

/// How a write to the cluster ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount)]
pub enum Written {
    /// It is written.
    Done,
    /// Another client wrote in between: the role decides again.
    Conflict,
    /// The API server, or a policy in it, does not allow it. It is tried again: a policy may change.
    Refused,
    /// There was no answer, or an error of the API server's own: it is tried again.
    Failed,
    /// It was not sent: `LINKERD_GATE_MODE=audit`.
    Audit,
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    /// 1 where `/gate` answers open.
    pub open: Gauge,
    /// 1 where this node is open.
    pub node_open: Gauge,
    /// 1 while this node has our taint.
    pub node_tainted: Gauge,
    /// How often this node was opened without a proof.
    pub unproven_openings: Counter,
    /// 1 while a manual override is in force.
    pub override_in_force: Gauge,
    /// 1 while the prover is seen renewing its word.
    pub verdict_fresh: Gauge,
    /// 1 where this agent proves.
    pub prover: Gauge,
    /// DaemonSets that are yielded to.
    pub taint_suppressing_daemonsets: Gauge,
    /// 1 where this controller acts.
    pub leader: Gauge,
    /// Pods that agents wait for.
    pub pending_repair_pods: Gauge,
    /// 1 where hold or guard is bound without a parameter.
    pub admission_parameter_missing: Gauge,
    /// 1 where hold could be bound and is not.
    pub hold_binding_missing: Gauge,
    /// How many removals may be under way.
    pub replacement_window_pods: Gauge,
    /// Owners that are left alone.
    pub breaker_open_owners: Gauge,
    /// Owners that were retried, and have no result yet.
    pub retrying_owners: Gauge,
    /// How many may be.
    pub retry_window_owners: Gauge,
    missed_pods: Family<Labels, Gauge>,
    held_pods: Family<Labels, Gauge>,
    replacements: Labelled,
    ungated: Labelled,
    successors: Labelled,
    late_replacements: Labelled,
    retries: Labelled,
    nodes_opened: Labelled,
    /// Connections that were cut off because no slot was free.
    pub refused_connections: Counter,
    gate_waiting_requests: Gauge,
    proof_duration: Histogram,
    proofs: Labelled,
    node_patches: Labelled,
    tolerations: Labelled,
    lease_writes: Labelled,
    gate_requests: Labelled,
    registry: Registry,
}

/// A counter for each value of its label, all of which are there from the beginning: a rate of something that has not happened
/// yet is 0, and not unknown.
#[derive(Debug)]
struct Labelled(Vec<(Vec<&'static str>, Counter)>);

/// A metric's labels with their values.
type Labels = Vec<(&'static str, String)>;

/// What is registered: the metrics of one role.
struct Registering {
    registry: Registry,
    role: Roles,
}

/// Counts as a waiter until it is dropped.
#[derive(Debug)]
pub struct Waiter<'a>(&'a Gauge);

const fn gauge(role: Roles, name: &'static str, meaning: &'static str) -> Row {
    Row { name, kind: "gauge", role, labels: &[], meaning }
}

const fn counter(
    role: Roles,
    name: &'static str,
    labels: &'static [(&'static str, &'static [&'static str])],
    meaning: &'static str,
) -> Row {
    Row { name, kind: "counter", role, labels, meaning }
}

// === impl Metrics ===

impl Default for Metrics {
    /// The agent's.
    fn default() -> Self {
        Self::of(Roles::Agent)
    }
}

impl Metrics {
    /// The controller's.
    pub fn controller() -> Self {
        Self::of(Roles::Controller)
    }

    fn of(role: Roles) -> Self {
        /// 10 to 40 ms is what a proof was measured to take; the rest is what trouble looks like, up to the limits of a request.
        const SECONDS: [f64; 10] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.25, 1.0, 2.5, 5.0, 10.0];
        let mut all = Registering { registry: Registry::with_prefix(PREFIX), role };
        // In the order of the table.
        let open = all.register("open", Gauge::default());
        let node_open = all.register("node_open", Gauge::default());
        let node_tainted = all.register("node_tainted", Gauge::default());
        let unproven_openings = all.register("unproven_openings_total", Counter::default());
        let override_in_force = all.register("override_in_force", Gauge::default());
        let verdict_fresh = all.register("verdict_fresh", Gauge::default());
        let prover = all.register("prover", Gauge::default());
        let taint_suppressing_daemonsets = all.register("taint_suppressing_daemonsets", Gauge::default());
        let leader = all.register("leader", Gauge::default());
        let missed_pods = all.register("missed_pods", Family::default());
        let held_pods = all.register("held_pods", Family::default());
        let pending_repair_pods = all.register("pending_repair_pods", Gauge::default());
        let admission_parameter_missing = all.register("admission_parameter_missing", Gauge::default());
        let hold_binding_missing = all.register("hold_binding_missing", Gauge::default());
        let breaker_open_owners = all.register("breaker_open_owners", Gauge::default());
        let retrying_owners = all.register("retrying_owners", Gauge::default());
        let retry_window_owners = all.register("retry_window_owners", Gauge::default());
        let replacements = all.labelled("replacements_total");
        let replacement_window_pods = all.register("replacement_window_pods", Gauge::default());
        let ungated = all.labelled("ungated_pods_total");
        let successors = all.labelled("successor_dry_runs_total");
        let late_replacements = all.labelled("late_replacements_total");
        let retries = all.labelled("owner_retries_total");
        let nodes_opened = all.labelled("opened_orphan_nodes_total");
        let proof_duration = all.register("proof_duration_seconds", Histogram::new(SECONDS));
        let proofs = all.labelled("proofs_total");
        let node_patches = all.labelled("node_patches_total");
        let tolerations = all.labelled("toleration_patches_total");
        let lease_writes = all.labelled("lease_writes_total");
        let gate_requests = all.labelled("gate_requests_total");
        let gate_waiting_requests = all.register("gate_waiting_requests", Gauge::default());
        let refused_connections = all.register("refused_connections_total", Counter::default());
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        all.registry.register("build", row("build_info").meaning, Info::new(version));
        Self {
            open,
            node_open,
            node_tainted,
            unproven_openings,
            override_in_force,
            verdict_fresh,
            prover,
            taint_suppressing_daemonsets,
            leader,
            pending_repair_pods,
            admission_parameter_missing,
            hold_binding_missing,
            replacement_window_pods,
            breaker_open_owners,
            retrying_owners,
            retry_window_owners,
            missed_pods,
            held_pods,
            replacements,
            ungated,
            successors,
            late_replacements,
            retries,
            nodes_opened,
            refused_connections,
            gate_waiting_requests,
            proof_duration,
            proofs,
            node_patches,
            tolerations,
            lease_writes,
            gate_requests,
            registry: all.registry,
        }
    }

    /// Resets the gauges that only a leader sets.
    pub fn note_lead_lost(&self) {
        let leaders = [
            &self.leader,
            &self.hold_binding_missing,
            &self.admission_parameter_missing,
            &self.breaker_open_owners,
            &self.retrying_owners,
            &self.pending_repair_pods,
            &self.replacement_window_pods,
            &self.retry_window_owners,
        ];
        for gauge in leaders {
            gauge.set(0);
        }
        self.missed([]);
        self.held([]);
    }

    /// How many pods are missed now, by namespace and state: what is not named is none.
    pub fn missed(&self, counts: impl IntoIterator<Item = (String, &'static str, i64)>) {
        self.missed_pods.clear();
        for (namespace, state, count) in counts {
            let labels = vec![("namespace", namespace), ("state", state.to_owned())];
            self.missed_pods.get_or_create(&labels).set(count);
        }
    }

    /// How many pods have our scheduling gate, by namespace: what is not named is none.
    pub fn held(&self, counts: impl IntoIterator<Item = (String, i64)>) {
        self.held_pods.clear();
        for (namespace, count) in counts {
            self.held_pods.get_or_create(&vec![("namespace", namespace)]).set(count);
        }
    }

    /// Our gate was to come off a pod, for this reason.
    pub fn ungated(&self, reason: &str, result: &str) {
        self.ungated.count(&[reason, result]);
    }

    /// A missed pod was to be removed, in this way.
    pub fn replaced(&self, method: &str, result: &str) {
        self.replacements.count(&[method, result]);
    }

    /// The pod that would be made instead of an evicted one was tried out, with this result.
    pub fn successor_tried(&self, result: &str) {
        self.successors.count(&[result]);
    }

    /// An owner did not create a pod again, for this cause.
    pub fn replacement_late(&self, cause: &str) {
        self.late_replacements.count(&[cause]);
    }

    /// An owner was to be retried.
    pub fn owner_retried(&self, result: &str) {
        self.retries.count(&[result]);
    }

    /// A node without an agent was to be opened.
    pub fn orphan_node_opened(&self, result: &str) {
        self.nodes_opened.count(&[result]);
    }

    /// A proof was made: what it found, and how long it took.
    pub fn proved(&self, found: &ProbeResult, took: Duration) {
        self.proof_duration.observe(took.as_secs_f64());
        self.proofs.count(&[match found {
            ProbeResult::Ready => "ready",
            ProbeResult::NotReady(_) => "not_ready",
            ProbeResult::Unknown(_) => "unknown",
        }]);
    }

    /// This node was to be written.
    pub fn node_patched(&self, how: Written) {
        self.node_patches.count(&[how.as_str()]);
    }

    /// An essential pod was to be given a toleration.
    pub fn toleration_given(&self, how: Written) {
        self.tolerations.count(&[how.as_str()]);
    }

    /// The Lease was to be written.
    pub fn lease_written(&self, how: Written) {
        self.lease_writes.count(&[how.as_str()]);
    }

    /// `/gate` was answered.
    pub fn gate_answered(&self, status: StatusCode) {
        self.gate_requests.count(&[status.as_str()]);
    }

    /// A client waits for `/gate` to open, for as long as the returned value lives.
    pub fn one_more_waiter(&self) -> Waiter<'_> {
        self.gate_waiting_requests.inc();
        Waiter(&self.gate_waiting_requests)
    }

    /// Everything, as `/metrics` prints it: OpenMetrics 1.0.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(4096);
        encode(&mut text, &self.registry).unwrap_or_else(|error| unreachable!("a string refuses text: {error}"));
        text
    }
}

fn row(name: &str) -> &'static Row {
    TABLE.iter().find(|row| row.name == name).unwrap_or_else(|| unreachable!("{name} is not in the table"))
}

// === impl Registering ===

impl Registering {
    /// Registers what the table has under `name`, where it is this role's.
    fn register<M: Metric + Clone>(&mut self, name: &str, metric: M) -> M {
        let Row { role, meaning, .. } = row(name);
        if *role != Roles::Both && *role != self.role {
            return metric;
        }
        // The library adds these endings itself.
        let name = name.strip_suffix("_total").unwrap_or(name);
        match name.strip_suffix("_seconds") {
            Some(name) => self.registry.register_with_unit(name, *meaning, Unit::Seconds, metric.clone()),
            None => self.registry.register(name, *meaning, metric.clone()),
        }
        metric
    }

    fn labelled(&mut self, name: &str) -> Labelled {
        let family = self.register(name, Family::<Labels, Counter>::default());
        let mut combinations: Vec<Vec<(&'static str, &'static str)>> = vec![Vec::new()];
        for (label, values) in row(name).labels {
            let with = |before: &Vec<_>| {
                let before = before.clone();
                values.iter().map(move |value| [before.clone(), vec![(*label, *value)]].concat())
            };
            combinations = combinations.iter().flat_map(with).collect();
        }
        let one = |labels: Vec<(&'static str, &'static str)>| {
            let values = labels.iter().map(|(_, value)| *value).collect();
            let labels: Labels = labels.into_iter().map(|(label, value)| (label, value.to_owned())).collect();
            (values, family.get_or_create_owned(&labels))
        };
        Labelled(combinations.into_iter().map(one).collect())
    }
}

// === impl Labelled ===

impl Labelled {
    /// One more with these values; one that is not in the table is not counted.
    fn count(&self, values: &[&str]) {
        let counter = self.0.iter().find(|(known, _)| known == values);
        debug_assert!(counter.is_some(), "no metric has the labels {values:?}");
        if let Some((_, counter)) = counter {
            counter.inc();
        }
    }
}

// === impl Roles ===

impl Roles {
    /// As the page has it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Controller => "controller",
            Self::Both => "both",
        }
    }
}

// === impl Written ===

impl Written {
    /// Every variant.
    pub const ALL: [Self; Self::COUNT] = [Self::Done, Self::Conflict, Self::Refused, Self::Failed, Self::Audit];

    /// The value of the label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Audit => "audit",
        }
    }
}

// === impl Waiter ===

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The table as a page: `docs/metrics.md` below its mark.
pub fn markdown() -> String {
    let mut text = String::from("| metric | role | type | labels | meaning |\n|---|---|---|---|---|\n");
    for Row { name, kind, role, labels, meaning } in TABLE {
        let labels = labels.iter().map(|(label, values)| match values {
            [] => format!("`{label}`"),
            values => format!("`{label}`: {}", values.join(", ")),
        });
        let labels = labels.collect::<Vec<_>>().join("; ");
        let _infallible = writeln!(text, "| `{PREFIX}_{name}` | {} | {kind} | {labels} | {meaning} |", role.as_str());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `/metrics` prints, written again from the table: names, types, meanings and every label with every value.
    fn printed_by_the_table(of: Roles) -> Vec<String> {
        let mut lines = Vec::new();
        for Row { name, kind, labels, meaning, .. } in TABLE.iter().filter(|row| [of, Roles::Both].contains(&row.role))
        {
            // No pod is missed yet, and a family without members is not printed.
            if ["missed_pods", "held_pods"].contains(name) {
                continue;
            }
            let family = name.trim_end_matches("_total").trim_end_matches("_info");
            lines.push(format!("# HELP {PREFIX}_{family} {meaning}."));
            lines.push(format!("# TYPE {PREFIX}_{family} {kind}"));
            match labels {
                [(label, [])] => lines.push(format!("{PREFIX}_{name}{{{label}=}}")),
                [(label, values)] => {
                    lines.extend(values.iter().map(|value| format!("{PREFIX}_{name}{{{label}={value}}}")));
                }
                [(one, ones), (other, others)] => {
                    let pairs = ones.iter().flat_map(|a| others.iter().map(move |b| (a, b)));
                    lines.extend(pairs.map(|(a, b)| format!("{PREFIX}_{name}{{{one}={a},{other}={b}}}")));
                }
                _ if *kind == "histogram" => {
                    lines.extend(["sum", "count", "bucket"].map(|sample| format!("{PREFIX}_{name}_{sample}")));
                }
                _ => lines.push(format!("{PREFIX}_{name}")),
            }
        }
        lines.push("# EOF".to_owned());
        lines.sort();
        lines
    }

    /// The same of what is really printed, without the numbers, the units, a histogram's buckets and our version.
    fn printed(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text();
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with("# UNIT"))
            .map(|line| match line.rsplit_once(' ') {
                Some((sample, _number)) if !line.starts_with('#') => {
                    let sample = sample.split("{le=").next().unwrap();
                    sample.replace('"', "").replace(env!("CARGO_PKG_VERSION"), "")
                }
                _ => line.to_owned(),
            })
            .collect();
        lines.sort();
        lines.dedup();
        lines
    }

    #[test]
    fn what_is_printed_is_exactly_the_table() {
        assert_eq!(printed(&Metrics::default()), printed_by_the_table(Roles::Agent));
        assert_eq!(printed(&Metrics::controller()), printed_by_the_table(Roles::Controller));
    }

    #[test]
    fn missed_pods_are_counted_again_at_each_update() {
        let metrics = Metrics::controller();
        metrics.missed([("shop".to_owned(), "held", 3)]);
        metrics.missed([("bank".to_owned(), "running", 1)]);
        let text = metrics.text();
        assert!(text.contains("\nlinkerd_gate_missed_pods{namespace=\"bank\",state=\"running\"} 1\n"), "{text}");
        assert!(!text.contains("shop"), "{text}");
    }

    #[test]
    fn what_is_counted_is_found_under_its_label() {
        let metrics = Metrics::default();
        for found in [ProbeResult::Ready, ProbeResult::not_ready("x"), ProbeResult::unknown("x")] {
            metrics.proved(&found, Duration::from_millis(30));
        }
        for how in Written::ALL {
            metrics.node_patched(how);
            metrics.toleration_given(how);
            metrics.lease_written(how);
        }
        for code in ANSWERED {
            metrics.gate_answered(StatusCode::from_bytes(code.as_bytes()).unwrap());
        }
        metrics.refused_connections.inc();
        metrics.unproven_openings.inc();
        let text = metrics.text();
        let zero: Vec<_> = text.lines().filter(|line| line.contains("_total") && line.ends_with(" 0")).collect();
        assert!(zero.is_empty(), "{zero:?}");
        assert!(text.contains("\nlinkerd_gate_proof_duration_seconds_bucket{le=\"0.04\"} 3\n"), "{text}");
    }

    #[test]
    fn a_waiter_counts_for_as_long_as_it_waits() {
        let metrics = Metrics::default();
        let (one, _other) = (metrics.one_more_waiter(), metrics.one_more_waiter());
        assert!(metrics.text().contains("\nlinkerd_gate_gate_waiting_requests 2\n"));
        drop(one);
        assert!(metrics.text().contains("\nlinkerd_gate_gate_waiting_requests 1\n"));
    }
}
