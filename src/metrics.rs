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

use crate::decide::Outcome;

/// What every name begins with.
pub const PREFIX: &str = "linkerd_gate";

/// One metric, as a person needs to know it.
#[derive(Debug)]
pub struct Row {
    /// The name of its samples without [`PREFIX`]; of a histogram, what its samples' names begin with.
    pub name: &'static str,
    /// `gauge`, `counter`, `histogram` or `info`, as OpenMetrics has it.
    pub kind: &'static str,
    /// Its label, with every value that this can have; no values where they cannot be listed.
    pub label: Option<(&'static str, &'static [&'static str])>,
    /// What it counts or says; without a final stop, which the library adds.
    pub meaning: &'static str,
}

/// Every metric, in the order in which they are printed.
pub const TABLE: &[Row] = &[
    gauge("open", "1 where /gate answers open: pods may start now"),
    gauge("node_open", "1 where this node is open for this boot: it has no taint of ours"),
    gauge(
        "verdict_fresh",
        "1 while the prover is seen renewing its verdict; 0 where nobody proves, or the API server cannot be reached from here",
    ),
    gauge("prover", "1 where this agent proves injection for all"),
    gauge("yielding", "Essential DaemonSets that do not tolerate the taint: while there is one, no node is tainted"),
    Row {
        name: "proof_duration_seconds",
        kind: "histogram",
        label: None,
        meaning: "How long one proof took, from its dry-run request to the answer; only the prover makes any",
    },
    counter("proofs_total", Some(("result", PROVED)), "Proofs by what they found: unknown where nobody could look"),
    counter("node_patches_total", Some(("result", WRITTEN)), "Writes of this node's taint and annotation"),
    counter("tolerations_total", Some(("result", WRITTEN)), "Tolerations of the taint given to essential pods"),
    counter(
        "lease_writes_total",
        Some(("result", WRITTEN)),
        "Writes of the Lease that carries the verdict, renewals included",
    ),
    counter(
        "gate_requests_total",
        Some(("code", ANSWERED)),
        "Requests of /gate by the HTTP status of the answer: 200 is open, 503 closed",
    ),
    gauge("waiters", "Long polls of /gate that wait for it to open"),
    counter("connections_refused_total", None, "Connections cut off because there were as many as are allowed"),
    Row { name: "build_info", kind: "info", label: Some(("version", &[])), meaning: "The version that runs here" },
];

const PROVED: &[&str] = &["ready", "not_ready", "unknown"];
const WRITTEN: &[&str] = &["done", "conflict", "refused", "failed", "audit"];
const ANSWERED: &[&str] = &["200", "400", "405", "413", "503"];

/// How a write to the cluster ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is written.
    Done,
    /// Somebody else wrote in between: it is decided anew.
    Conflict,
    /// The API server, or a policy in it, does not allow it: trying again does not help.
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
    /// 1 while the prover is seen renewing its word.
    pub verdict_fresh: Gauge,
    /// 1 where this agent proves.
    pub prover: Gauge,
    /// DaemonSets that are yielded to.
    pub yielding: Gauge,
    /// Connections that were cut off for want of a place.
    pub connections_refused: Counter,
    waiters: Gauge,
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
struct Labelled(Vec<(&'static str, Counter)>);

/// Counts as a waiter until it is dropped.
#[derive(Debug)]
pub struct Waiter<'a>(&'a Gauge);

const fn gauge(name: &'static str, meaning: &'static str) -> Row {
    Row { name, kind: "gauge", label: None, meaning }
}

const fn counter(
    name: &'static str,
    label: Option<(&'static str, &'static [&'static str])>,
    meaning: &'static str,
) -> Row {
    Row { name, kind: "counter", label, meaning }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        /// 10 to 40 ms is what a proof was measured to take; the rest is what trouble looks like, up to the limits of a request.
        const SECONDS: [f64; 10] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.25, 1.0, 2.5, 5.0, 10.0];
        let mut registry = Registry::with_prefix(PREFIX);
        let all = &mut registry;
        // In the order of the table.
        let open = register(all, "open", Gauge::default());
        let node_open = register(all, "node_open", Gauge::default());
        let verdict_fresh = register(all, "verdict_fresh", Gauge::default());
        let prover = register(all, "prover", Gauge::default());
        let yielding = register(all, "yielding", Gauge::default());
        let proof_duration = register(all, "proof_duration_seconds", Histogram::new(SECONDS));
        let proofs = labelled(all, "proofs_total");
        let node_patches = labelled(all, "node_patches_total");
        let tolerations = labelled(all, "tolerations_total");
        let lease_writes = labelled(all, "lease_writes_total");
        let gate_requests = labelled(all, "gate_requests_total");
        let waiters = register(all, "waiters", Gauge::default());
        let connections_refused = register(all, "connections_refused_total", Counter::default());
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        all.register("build", row("build_info").meaning, Info::new(version));
        Self {
            open,
            node_open,
            verdict_fresh,
            prover,
            yielding,
            connections_refused,
            waiters,
            proof_duration,
            proofs,
            node_patches,
            tolerations,
            lease_writes,
            gate_requests,
            registry,
        }
    }
}

impl Metrics {
    /// A proof was made: what it found, and how long it took.
    pub fn proved(&self, found: &Outcome, took: Duration) {
        self.proof_duration.observe(took.as_secs_f64());
        self.proofs.count(match found {
            Outcome::Ready => "ready",
            Outcome::NotReady(_) => "not_ready",
            Outcome::Unknown(_) => "unknown",
        });
    }

    /// This node was to be written.
    pub fn node_patched(&self, how: Written) {
        self.node_patches.count(how.as_str());
    }

    /// An essential pod was to be given a toleration.
    pub fn toleration_given(&self, how: Written) {
        self.tolerations.count(how.as_str());
    }

    /// The Lease was to be written.
    pub fn lease_written(&self, how: Written) {
        self.lease_writes.count(how.as_str());
    }

    /// `/gate` was answered.
    pub fn gate_answered(&self, status: StatusCode) {
        self.gate_requests.count(status.as_str());
    }

    /// Somebody waits for `/gate` to open, for as long as the returned value lives.
    pub fn one_more_waiter(&self) -> Waiter<'_> {
        self.waiters.inc();
        Waiter(&self.waiters)
    }

    /// Everything, as `/metrics` prints it: OpenMetrics 1.0.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(4096);
        encode(&mut text, &self.registry).unwrap_or_else(|error| unreachable!("a string refuses text: {error}"));
        text
    }
}

/// Registers what the table has under `name`.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, metric: M) -> M {
    let meaning = row(name).meaning;
    // The library adds these endings itself.
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.strip_suffix("_seconds") {
        Some(name) => registry.register_with_unit(name, meaning, Unit::Seconds, metric.clone()),
        None => registry.register(name, meaning, metric.clone()),
    }
    metric
}

fn labelled(registry: &mut Registry, name: &str) -> Labelled {
    let family = register(registry, name, Family::<[(&'static str, &'static str); 1], Counter>::default());
    let (label, values) = row(name).label.unwrap_or_default();
    Labelled(values.iter().map(|value| (*value, family.get_or_create_owned(&[(label, *value)]))).collect())
}

fn row(name: &str) -> &'static Row {
    TABLE.iter().find(|row| row.name == name).unwrap_or_else(|| unreachable!("{name} is not in the table"))
}

// === impl Labelled ===

impl Labelled {
    /// One more with that value; one that is not in the table is not counted.
    fn count(&self, value: &str) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == value) {
            counter.inc();
        }
    }
}

// === impl Written ===

impl Written {
    /// Every variant.
    pub const ALL: [Self; 5] = [Self::Done, Self::Conflict, Self::Refused, Self::Failed, Self::Audit];

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
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Row { name, kind, label, meaning } in TABLE {
        let labels = match label {
            None => String::new(),
            Some((label, [])) => format!("`{label}`"),
            Some((label, values)) => format!("`{label}`: {}", values.join(", ")),
        };
        let _infallible = writeln!(text, "| `{PREFIX}_{name}` | {kind} | {labels} | {meaning} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `/metrics` prints, written anew from the table: names, types, meanings and every label with every value.
    fn printed_by_the_table() -> Vec<String> {
        let mut lines = Vec::new();
        for Row { name, kind, label, meaning } in TABLE {
            let family = name.trim_end_matches("_total").trim_end_matches("_info");
            lines.push(format!("# HELP {PREFIX}_{family} {meaning}."));
            lines.push(format!("# TYPE {PREFIX}_{family} {kind}"));
            match label {
                Some((label, [])) => lines.push(format!("{PREFIX}_{name}{{{label}=}}")),
                Some((label, values)) => {
                    lines.extend(values.iter().map(|value| format!("{PREFIX}_{name}{{{label}={value}}}")));
                }
                None if *kind == "histogram" => {
                    lines.extend(["sum", "count", "bucket"].map(|sample| format!("{PREFIX}_{name}_{sample}")));
                }
                None => lines.push(format!("{PREFIX}_{name}")),
            }
        }
        lines.push("# EOF".to_owned());
        lines.sort();
        lines
    }

    /// The same of what is really printed, without the numbers, the units, a histogram's buckets and our version.
    fn printed() -> Vec<String> {
        let text = Metrics::default().text();
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
        assert_eq!(printed(), printed_by_the_table());
    }

    #[test]
    fn what_is_counted_is_found_under_its_label() {
        let metrics = Metrics::default();
        for found in [Outcome::Ready, Outcome::not_ready("x"), Outcome::unknown("x")] {
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
        metrics.connections_refused.inc();
        let text = metrics.text();
        let zero: Vec<_> = text.lines().filter(|line| line.contains("_total") && line.ends_with(" 0")).collect();
        assert!(zero.is_empty(), "{zero:?}");
        assert!(text.contains("\nlinkerd_gate_proof_duration_seconds_bucket{le=\"0.04\"} 3\n"), "{text}");
    }

    #[test]
    fn a_waiter_counts_for_as_long_as_it_waits() {
        let metrics = Metrics::default();
        let (one, _other) = (metrics.one_more_waiter(), metrics.one_more_waiter());
        assert!(metrics.text().contains("\nlinkerd_gate_waiters 2\n"));
        drop(one);
        assert!(metrics.text().contains("\nlinkerd_gate_waiters 1\n"));
    }
}
