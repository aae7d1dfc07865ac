//! The configuration of `wait`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::log_filter::LogFilter;
use super::problem::{Problem, Problems};
use super::reader::{Reader, choice, components, duration, namespace, word};
use super::table::Role;
use super::value::{Address, Component, DnsName, LogFormat, OnTimeout, WhenMeshed};
use crate::decide::wait::{OnMissed, OwnPod};

/// The port that an agent serves on its node.
pub const AGENT_PORT: u16 = 4192;

/// The settings of `wait`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What the downward API says of this pod.
    pub pod: OwnPod,
    /// What to do in a missed pod once Linkerd is ready.
    pub on_missed: OnMissed,
    /// What to do in a meshed pod.
    pub when_meshed: WhenMeshed,
    /// How long to hold at most; `None` is for ever.
    pub timeout: Option<Duration>,
    /// What to do when `timeout` has passed.
    pub on_timeout: OnTimeout,
    /// Where the node's agent is asked; nothing where there is none to ask.
    pub agent: Option<Address>,
    /// Where Linkerd is and what of it has to answer.
    pub linkerd: Linkerd,
    /// Where the last reason is kept for `kubectl describe pod`.
    pub termination_log: PathBuf,
    /// How much is logged.
    pub log: LogFilter,
    /// How a log line is written.
    pub log_format: LogFormat,
}

/// Where Linkerd is and what of it has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linkerd {
    /// What has to answer; never empty.
    pub require: BTreeSet<Component>,
    /// The control plane's namespace.
    pub namespace: DnsName,
    /// The proxy injector's HTTPS address.
    pub injector: Address,
    /// The name that the injector's certificate must carry.
    pub injector_name: DnsName,
    /// The bundle that the injector's certificate must chain to.
    pub ca_file: Option<PathBuf>,
    /// Identity's gRPC address.
    pub identity: Address,
    /// Destination's admin address.
    pub destination: Address,
    /// The policy controller's admin address.
    pub policy: Address,
}

// === impl Wait ===

impl Wait {
    /// Reads the variables of `wait` as a manifest gives them: files that they name are not looked at.
    ///
    /// # Errors
    /// As [`Wait::read`].
    pub fn from_variables(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Problems> {
        Self::read(variables, |_| Ok(()))
    }

    /// Reads the variables of `wait` out of a process's environment; others are left alone. `check_ca_file` says what is
    /// wrong with the CA bundle at a path, so that a bad one is reported with all other problems.
    ///
    /// # Errors
    /// Every variable with our prefix that is unknown, unreadable, or has a value that is not accepted.
    pub fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        check_ca_file: impl Fn(&Path) -> Result<(), String>,
    ) -> Result<Self, Problems> {
        Reader::read(Role::Wait, variables, |reader| {
            let settings = wait(reader);
            if let Some(path) = &settings.linkerd.ca_file
                && let Err(complaint) = check_ca_file(path)
            {
                reader.complain(Problem::value("LINKERD_GATE_CA_FILE", path.to_string_lossy(), complaint));
            }
            settings
        })
    }
}

fn wait(reader: &mut Reader) -> Wait {
    if !reader.is_there("LINKERD_GATE_INJECTED_BY") {
        reader.complain(Problem::absent(
            "LINKERD_GATE_INJECTED_BY",
            "without it `wait` cannot tell whether this pod is in the mesh; it belongs to the init container's entry, \
             copy that whole",
        ));
    }
    let pod = OwnPod {
        injected_by: reader.optional("LINKERD_GATE_INJECTED_BY", injected_by).unwrap_or_default(),
        inject: reader.text("LINKERD_GATE_INJECT"),
        ip: reader.optional("LINKERD_GATE_POD_IP", ip),
        host_ip: reader.optional("LINKERD_GATE_HOST_IP", ip),
        name: reader.text("LINKERD_GATE_POD_NAME"),
        namespace: reader.text("LINKERD_GATE_POD_NAMESPACE"),
        uid: reader.text("LINKERD_GATE_POD_UID"),
    };
    let on_missed = reader.defaulted("LINKERD_GATE_ON_MISSED", choice);
    if on_missed == OnMissed::Replace {
        for (variable, value) in [
            ("LINKERD_GATE_POD_NAME", &pod.name),
            ("LINKERD_GATE_POD_NAMESPACE", &pod.namespace),
            ("LINKERD_GATE_POD_UID", &pod.uid),
        ] {
            if value.is_none() {
                reader.complain(Problem::absent(variable, "LINKERD_GATE_ON_MISSED=replace needs it"));
            }
        }
    }
    let timeout = reader.optional("LINKERD_GATE_TIMEOUT", duration);
    let on_timeout = reader.defaulted("LINKERD_GATE_ON_TIMEOUT", choice);
    if on_timeout == OnTimeout::Open && timeout.is_none() {
        reader.complain(Problem::absent("LINKERD_GATE_TIMEOUT", "LINKERD_GATE_ON_TIMEOUT=open needs it"));
    }
    let of_the_node = pod.host_ip.map(|ip| Address::new(ip.to_string(), AGENT_PORT));
    Wait {
        pod,
        on_missed,
        when_meshed: reader.defaulted("LINKERD_GATE_WHEN_MESHED", choice),
        timeout,
        on_timeout,
        agent: reader.optional("LINKERD_GATE_AGENT_ADDRESS", agent).unwrap_or(of_the_node),
        linkerd: linkerd(reader),
        termination_log: reader.defaulted_path("LINKERD_GATE_TERMINATION_LOG"),
        log: reader.defaulted("LINKERD_GATE_LOG", word),
        log_format: reader.defaulted("LINKERD_GATE_LOG_FORMAT", choice),
    }
}

fn linkerd(reader: &mut Reader) -> Linkerd {
    let namespace = reader.defaulted("LINKERD_GATE_LINKERD_NAMESPACE", namespace);
    let mut address = |variable: &str, service: &str, port| {
        let in_cluster = || Address::new(format!("{service}.{namespace}.svc"), port);
        reader.optional(variable, word).unwrap_or_else(in_cluster)
    };
    let injector = address("LINKERD_GATE_INJECTOR_ADDRESS", "linkerd-proxy-injector", 443);
    let identity = address("LINKERD_GATE_IDENTITY_ADDRESS", "linkerd-identity-headless", 8080);
    let destination = address("LINKERD_GATE_DESTINATION_ADDRESS", "linkerd-dst-headless", 9996);
    let policy = address("LINKERD_GATE_POLICY_ADDRESS", "linkerd-policy", 9990);
    Linkerd {
        require: reader.defaulted("LINKERD_GATE_REQUIRE", components),
        injector,
        injector_name: reader
            .optional("LINKERD_GATE_INJECTOR_NAME", word)
            .or_else(|| format!("linkerd-proxy-injector.{namespace}.svc").parse().ok())
            .unwrap_or_else(|| namespace.clone()),
        ca_file: reader.path("LINKERD_GATE_CA_FILE"),
        identity,
        destination,
        policy,
        namespace,
    }
}

/// An address, or the word that there is none.
fn agent(text: &str) -> Result<Option<Address>, String> {
    if text == "none" { Ok(None) } else { word(text).map(Some) }
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "is not an IP address".to_owned())
}

/// The label's value is the name of the namespace whose Linkerd injected the pod. Whatever is no such name was not put there
/// by the injector: a field path that was written down as a value, say. It must not pass for one.
fn injected_by(text: &str) -> Result<String, String> {
    match namespace(text) {
        Ok(name) => Ok(name.to_string()),
        Err(_) => Err("is not a namespace's name, so no injector wrote it: it has to come by fieldRef".to_owned()),
    }
}

#[cfg(test)]
mod tests;
