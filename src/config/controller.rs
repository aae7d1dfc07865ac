//! The configuration of `controller`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::agent::{port, taint_key};
use super::log_filter::LogFilter;
use super::problem::Problems;
use super::proving::Proving;
use super::reader::{Reader, choice, duration, switch, word};
use super::table::Role;
use super::value::{AdmissionChoice, LogFormat, Mode};
use crate::decide::repair::{Repair, RepairPolicy};
use crate::linkerd::TokenProjection;

/// The settings of `controller`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerSettings {
    /// The name of its node.
    pub node: String,
    /// The name of its pod.
    pub pod: String,
    /// The uid of its pod.
    pub uid: String,
    /// The namespace of its pod, its Lease and the agents.
    pub namespace: String,
    /// Whether it acts.
    pub mode: Mode,
    /// What was chosen for pods that are created without a proxy. The API server goes by the policies, not by this.
    pub admission: AdmissionChoice,
    /// What is wanted of missed pods.
    pub repair: RepairPolicy,
    /// Whether refused owners are retried.
    pub retry_owners: bool,
    /// How long a node may be closed whose agent is gone. Not the agents' own bound: where that is short, an agent that is
    /// merely updated must not lose its node to the controller.
    pub orphan_after: Duration,
    /// The key of the agents' taint.
    pub taint_key: String,
    /// How Linkerd was installed.
    pub projection: TokenProjection,
    /// How injection is proven.
    pub proving: Proving,
    /// The port that it listens on.
    pub port: u16,
    /// How the API server is reached; `None` is by the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Where the reason of a failed start is kept for `kubectl describe pod`.
    pub termination_log: PathBuf,
    /// How much is logged.
    pub log: LogFilter,
    /// How a log line is written.
    pub log_format: LogFormat,
}

/// Why a variable has to be there.
const NEEDED: &str = "the controller cannot tell without it; it belongs to the Deployment, copy that whole";

// === impl ControllerSettings ===

impl ControllerSettings {
    /// Reads the variables of `controller` out of a process's environment; others are left alone.
    ///
    /// # Errors
    /// Every variable with our prefix that is unknown, unreadable, absent and needed, or has a value that is not accepted.
    pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Problems> {
        Reader::read(Role::Controller, variables, controller)
    }

    /// Whether pods are to be held wherever the API server can hold them.
    pub fn wants_hold(&self) -> bool {
        self.mode == Mode::Enforce && matches!(self.admission, AdmissionChoice::Auto | AdmissionChoice::Hold)
    }
}

fn controller(reader: &mut Reader) -> ControllerSettings {
    let mode = reader.defaulted("LINKERD_GATE_MODE", choice);
    let repair = reader.defaulted("LINKERD_GATE_REPAIR", choice);
    let eviction = reader.optional("LINKERD_GATE_EVICTION", switch);
    ControllerSettings {
        node: reader.needed("LINKERD_GATE_NODE_NAME", NEEDED),
        pod: reader.needed("LINKERD_GATE_POD_NAME", NEEDED),
        uid: reader.needed("LINKERD_GATE_POD_UID", NEEDED),
        namespace: reader.needed("LINKERD_GATE_POD_NAMESPACE", NEEDED),
        mode,
        admission: reader.defaulted("LINKERD_GATE_ADMISSION", choice),
        repair: RepairPolicy {
            repair,
            enforces: mode == Mode::Enforce,
            evicts: eviction.unwrap_or(repair == Repair::Running),
            hold_max: reader.defaulted("LINKERD_GATE_HOLD_MAX", limit),
            eviction_rate: reader.defaulted("LINKERD_GATE_EVICTION_RATE", word),
            cooldown: reader.defaulted("LINKERD_GATE_REPAIR_COOLDOWN", duration),
        },
        retry_owners: reader.defaulted("LINKERD_GATE_RETRY_OWNERS", switch),
        orphan_after: reader.defaulted("LINKERD_GATE_ORPHAN_AFTER", duration),
        taint_key: reader.defaulted("LINKERD_GATE_TAINT_KEY", taint_key),
        projection: if reader.defaulted("LINKERD_GATE_TOKEN_PROJECTION", switch) {
            TokenProjection::Enabled
        } else {
            TokenProjection::Disabled
        },
        proving: Proving::of(reader),
        port: reader.defaulted("LINKERD_GATE_LISTEN_PORT", port),
        kubeconfig: reader.path("LINKERD_GATE_KUBECONFIG"),
        termination_log: reader.defaulted_path("LINKERD_GATE_TERMINATION_LOG"),
        log: reader.defaulted("LINKERD_GATE_LOG", word),
        log_format: reader.defaulted("LINKERD_GATE_LOG_FORMAT", choice),
    }
}

/// A duration, or none.
fn limit(text: &str) -> Result<Option<Duration>, String> {
    if text == "never" { Ok(None) } else { duration(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::table;
    use super::*;

    const GIVEN: [(&str, &str); 4] = [
        ("LINKERD_GATE_NODE_NAME", "node-0"),
        ("LINKERD_GATE_POD_NAME", "linkerd-gate-controller-7d9c4-x2x9z"),
        ("LINKERD_GATE_POD_NAMESPACE", "linkerd-gate"),
        ("LINKERD_GATE_POD_UID", "5f1d3a52"),
    ];

    fn read(variables: &[(&str, &str)]) -> Result<ControllerSettings, Problems> {
        ControllerSettings::read(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    fn with(variables: &[(&str, &str)]) -> Result<ControllerSettings, Problems> {
        read(&[&GIVEN, variables].concat())
    }

    fn complaints(result: Result<ControllerSettings, Problems>) -> BTreeSet<String> {
        result.unwrap_err().iter().map(|problem| problem.variable.clone()).collect()
    }

    #[test]
    fn the_controller_needs_only_pod_fields_and_evicts_nothing() {
        let controller = with(&[]).unwrap();
        assert_eq!((controller.repair.repair, controller.repair.evicts), (Repair::Held, false));
        assert_eq!((controller.repair.hold_max, controller.repair.enforces), (None, true));
        assert!(controller.retry_owners);
        assert_eq!(complaints(read(&[])), GIVEN.map(|(name, _)| name.to_owned()).into());
    }

    #[test]
    fn hold_is_wanted_unless_another_admission_or_audit_was_chosen() {
        for (mode, admission, expected) in [
            ("", "", true),
            ("enforce", "auto", true),
            ("", "hold", true),
            ("", "refuse", false),
            ("", "warn", false),
            ("", "off", false),
            ("audit", "auto", false),
            ("audit", "hold", false),
        ] {
            let variables = [("LINKERD_GATE_MODE", mode), ("LINKERD_GATE_ADMISSION", admission)];
            assert_eq!(with(&variables).unwrap().wants_hold(), expected, "{variables:?}");
        }
    }

    #[test]
    fn eviction_goes_with_running_unless_it_is_said_otherwise() {
        let evicts = |variables: &[(&str, &str)]| with(variables).unwrap().repair.evicts;
        assert!(evicts(&[("LINKERD_GATE_REPAIR", "running")]));
        assert!(!evicts(&[("LINKERD_GATE_REPAIR", "running"), ("LINKERD_GATE_EVICTION", "false")]));
        assert!(evicts(&[("LINKERD_GATE_EVICTION", "true")]));
    }

    #[test]
    fn every_example_in_the_table_is_taken_and_every_row_is_read() {
        let all: Vec<_> = table::CONTROLLER.iter().map(|variable| (variable.name, variable.example)).collect();
        // What one variable decides where another is silent.
        let all: Vec<_> = all.into_iter().filter(|(name, _)| *name != "LINKERD_GATE_REPAIR").collect();
        let whole = read(&all).unwrap();
        for variable in table::CONTROLLER.iter().filter(|variable| variable.name != "LINKERD_GATE_REPAIR") {
            let without: Vec<_> = all.iter().filter(|(name, _)| *name != variable.name).copied().collect();
            match read(&without) {
                Ok(without) if variable.example == variable.default => assert_eq!(without, whole, "{}", variable.name),
                Ok(without) => assert_ne!(without, whole, "{} makes no difference", variable.name),
                Err(_) => assert!(GIVEN.iter().any(|(name, _)| *name == variable.name), "{}", variable.name),
            }
        }
    }

    #[test]
    fn every_bad_value_is_reported_all_at_once() {
        let bad = [
            ("LINKERD_GATE_MODE", "dry"),
            ("LINKERD_GATE_ADMISSION", "enforce"),
            ("LINKERD_GATE_REPAIR", "all"),
            ("LINKERD_GATE_HOLD_MAX", "0s"),
            ("LINKERD_GATE_REPAIR_COOLDOWN", "0s"),
            ("LINKERD_GATE_EVICTION", "yes"),
            ("LINKERD_GATE_EVICTION_RATE", "1"),
            ("LINKERD_GATE_RETRY_OWNERS", "on"),
            ("LINKERD_GATE_ORPHAN_AFTER", "never"),
            ("LINKERD_GATE_TAINT_KEY", "Bad Key/x"),
            ("LINKERD_GATE_TOKEN_PROJECTION", "off"),
            ("LINKERD_GATE_REQUIRE", "webhook"),
            ("LINKERD_GATE_IDENTITY", "no"),
            ("LINKERD_GATE_PROBE_NAMESPACE", "a.b"),
            ("LINKERD_GATE_PROBE_LABELS", "mesh=on,mesh"),
            ("LINKERD_GATE_API_SERVERS", "10.0.0.1"),
            ("LINKERD_GATE_LISTEN_PORT", "0"),
            ("LINKERD_GATE_LOG_FORMAT", "xml"),
            ("LINKERD_GATE_ON_MISSED", "hold"),
        ];
        assert_eq!(complaints(with(&bad)), bad.map(|(name, _)| name.to_owned()).into());
    }
}
