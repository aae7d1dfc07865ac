//! The configuration of `agent`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use super::log_filter::LogFilter;
use super::problem::Problems;
use super::proving::Proving;
use super::reader::{Reader, choice, duration, namespace, word};
use super::table::Role;
use super::value::{LogFormat, Mode, Taint, is_label_key};
use crate::decide::node::taint::{NodePolicy, Tainting};

/// The settings of `agent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// The name of its node.
    pub node: String,
    /// The name of its pod.
    pub pod: String,
    /// The namespace of its pod, its Lease and its DaemonSet.
    pub namespace: String,
    /// Whether it acts.
    pub mode: Mode,
    /// What is wanted of nodes.
    pub node_policy: NodePolicy,
    /// Namespaces that the operator calls essential.
    pub essential: BTreeSet<String>,
    /// DaemonSets that no node yields to, as `namespace/name`, of which each may end in `*`.
    pub ignored_daemon_sets: Vec<String>,
    /// How it proves injection, where it is the one that does.
    pub proving: Proving,
    /// Where the id of the boot is read.
    pub boot_id_file: PathBuf,
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
const NEEDED: &str = "the agent cannot tell without it; it belongs to the DaemonSet, copy that whole";

// === impl AgentSettings ===

impl AgentSettings {
    /// Reads the variables of `agent` out of a process's environment; others are left alone.
    ///
    /// # Errors
    /// Every variable with our prefix that is unknown, unreadable, absent and needed, or has a value that is not accepted.
    pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Problems> {
        Reader::read(Role::Agent, variables, agent)
    }
}

fn agent(reader: &mut Reader) -> AgentSettings {
    let mode = reader.defaulted("LINKERD_GATE_MODE", choice);
    let tainting = match (reader.defaulted("LINKERD_GATE_TAINT", choice), mode) {
        (Taint::Never, _) => Tainting::Never,
        (Taint::Auto, Mode::Audit) => Tainting::Audit,
        (Taint::Auto, Mode::Enforce) => Tainting::Enforce,
    };
    AgentSettings {
        node: reader.needed("LINKERD_GATE_NODE_NAME", NEEDED),
        pod: reader.needed("LINKERD_GATE_POD_NAME", NEEDED),
        namespace: reader.needed("LINKERD_GATE_POD_NAMESPACE", NEEDED),
        mode,
        node_policy: NodePolicy {
            taint_key: reader.defaulted("LINKERD_GATE_TAINT_KEY", taint_key),
            tainting,
            max_closed: reader.defaulted("LINKERD_GATE_NODE_MAX_CLOSED", duration),
            repair_grace: reader.defaulted("LINKERD_GATE_REPAIR_GRACE", duration),
        },
        essential: reader.optional("LINKERD_GATE_ESSENTIAL_NAMESPACES", namespaces).unwrap_or_default(),
        ignored_daemon_sets: reader.optional("LINKERD_GATE_IGNORED_DAEMON_SETS", daemon_sets).unwrap_or_default(),
        proving: Proving::of(reader),
        boot_id_file: reader.defaulted_path("LINKERD_GATE_BOOT_ID_FILE"),
        port: reader.defaulted("LINKERD_GATE_LISTEN_PORT", port),
        kubeconfig: reader.path("LINKERD_GATE_KUBECONFIG"),
        termination_log: reader.defaulted_path("LINKERD_GATE_TERMINATION_LOG"),
        log: reader.defaulted("LINKERD_GATE_LOG", word),
        log_format: reader.defaulted("LINKERD_GATE_LOG_FORMAT", choice),
    }
}

/// A taint's key.
pub(super) fn taint_key(text: &str) -> Result<String, String> {
    if is_label_key(text) { Ok(text.to_owned()) } else { Err("is no key that a taint can have".to_owned()) }
}

fn namespaces(text: &str) -> Result<BTreeSet<String>, String> {
    let one = |name: &str| {
        namespace(name)
            .map(|name| name.to_string())
            .map_err(|_| format!("names {name:?}, which is no namespace's name"))
    };
    text.split(',').map(str::trim).map(one).collect()
}

fn daemon_sets(text: &str) -> Result<Vec<String>, String> {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
    };
    let one = |listed: &str| {
        let good = listed.split_once('/').is_some_and(|(of, name)| {
            let beginning = name.strip_suffix('*');
            namespace(of).is_ok() && beginning.map_or(is_name(name), |name| name.is_empty() || is_name(name))
        });
        if good {
            Ok(listed.to_owned())
        } else {
            Err(format!("names {listed:?}, which is not NAMESPACE/NAME or NAMESPACE/BEGINNING*"))
        }
    };
    text.split(',').map(str::trim).map(one).collect()
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "is not a port".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::table;
    use super::*;
    use crate::decide::{Policy, Probe};

    const GIVEN: [(&str, &str); 3] = [
        ("LINKERD_GATE_NODE_NAME", "node-0"),
        ("LINKERD_GATE_POD_NAME", "linkerd-gate-x2x9z"),
        ("LINKERD_GATE_POD_NAMESPACE", "linkerd-gate"),
    ];

    fn read(variables: &[(&str, &str)]) -> Result<AgentSettings, Problems> {
        AgentSettings::read(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    fn with(variables: &[(&str, &str)]) -> Result<AgentSettings, Problems> {
        read(&[&GIVEN, variables].concat())
    }

    fn complaints(result: Result<AgentSettings, Problems>) -> Vec<String> {
        result.unwrap_err().iter().map(|problem| problem.variable.clone()).collect()
    }

    #[test]
    fn what_the_downward_api_gives_is_enough() {
        let agent = with(&[]).unwrap();
        assert_eq!(agent.mode, Mode::Enforce);
        assert_eq!(agent.node_policy.taint_key, "linkerd-gate/closed");
        assert_eq!(agent.node_policy.max_closed, Duration::from_mins(10));
        assert_eq!(agent.node_policy.repair_grace, Duration::from_secs(30));
        assert_eq!(agent.proving.policy(), Policy::proven());
        assert_eq!((agent.port, agent.proving.api_servers.len()), (4192, 0));
        assert_eq!(complaints(read(&[])), GIVEN.map(|(name, _)| name));
    }

    #[test]
    fn every_example_in_the_table_is_taken_and_every_row_is_read() {
        let all: Vec<_> = table::AGENT.iter().map(|variable| (variable.name, variable.example)).collect();
        let whole = read(&all).unwrap();
        for variable in table::AGENT {
            let without: Vec<_> = all.iter().filter(|(name, _)| *name != variable.name).copied().collect();
            match read(&without) {
                Ok(without) if variable.example == variable.default => assert_eq!(without, whole, "{}", variable.name),
                Ok(without) => assert_ne!(without, whole, "{} makes no difference", variable.name),
                Err(_) => assert!(GIVEN.iter().any(|(name, _)| *name == variable.name), "{}", variable.name),
            }
        }
    }

    #[test]
    fn an_empty_optional_variable_is_its_default() {
        for variable in table::AGENT.iter().filter(|variable| !GIVEN.iter().any(|(name, _)| *name == variable.name)) {
            assert_eq!(with(&[(variable.name, "")]).unwrap(), with(&[]).unwrap(), "{}", variable.name);
        }
    }

    #[test]
    fn every_bad_value_is_reported_all_at_once() {
        let bad = [
            ("LINKERD_GATE_MODE", "dry"),
            ("LINKERD_GATE_TAINT", "always"),
            ("LINKERD_GATE_TAINT_KEY", "Bad Key/x"),
            ("LINKERD_GATE_NODE_MAX_CLOSED", "0s"),
            ("LINKERD_GATE_REPAIR_GRACE", "long"),
            ("LINKERD_GATE_ESSENTIAL_NAMESPACES", "storage,Not A Name"),
            ("LINKERD_GATE_IGNORED_DAEMON_SETS", "kube-system/svclb-*,svclb"),
            ("LINKERD_GATE_REQUIRE", "webhook"),
            ("LINKERD_GATE_IDENTITY", "no"),
            ("LINKERD_GATE_PROBE_NAMESPACE", "a.b"),
            ("LINKERD_GATE_PROBE_LABELS", "mesh=on,mesh"),
            ("LINKERD_GATE_API_SERVERS", "10.0.0.1"),
            ("LINKERD_GATE_LISTEN_PORT", "0"),
            ("LINKERD_GATE_LOG", "verbose"),
            ("LINKERD_GATE_ON_MISSED", "hold"),
        ];
        let found: BTreeSet<String> = complaints(with(&bad)).into_iter().collect();
        assert_eq!(found, bad.map(|(name, _)| name.to_owned()).into());
    }

    #[test]
    fn more_can_be_required_and_the_proof_of_injection_always_is() {
        let policy = with(&[("LINKERD_GATE_REQUIRE", "destination")]).unwrap().proving.policy();
        for probe in [Probe::Webhook, Probe::Injector, Probe::Injection, Probe::Identity, Probe::Destination] {
            assert!(policy.requires(probe), "{probe}");
        }
    }
}
