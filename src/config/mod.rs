//! Configuration: the environment, read once, turned into meaning. Bad input is reported before any I/O, all of it at once.

mod agent;
mod controller;
pub mod fix;
mod log_filter;
mod problem;
mod proving;
pub mod table;
mod value;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use self::agent::AgentSettings;
pub use self::controller::ControllerSettings;
pub use self::log_filter::LogFilter;
pub use self::problem::{Problem, Problems};
pub use self::proving::Proving;
use self::table::Role;
pub use self::value::{Address, Component, DnsName, IdentityBy, LogFormat, Mode, OnMissed, OnTimeout, WhenMeshed};

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

/// What the downward API says of the pod that `wait` runs in. Empty strings are `None` but for the label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// The value of the label `linkerd.io/control-plane-ns`; empty where the pod has none.
    pub injected_by: String,
    /// The value of the annotation `linkerd.io/inject`.
    pub inject: Option<String>,
    /// `status.podIP`
    pub ip: Option<IpAddr>,
    /// `status.hostIP`
    pub host_ip: Option<IpAddr>,
    /// `metadata.name`
    pub name: Option<String>,
    /// `metadata.namespace`
    pub namespace: Option<String>,
    /// `metadata.uid`
    pub uid: Option<String>,
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

/// The variables as they came: text, or nothing. A field for each row of [`table::WAIT`], which a test holds to it.
#[derive(Debug, Default, Deserialize)]
struct Raw {
    injected_by: Option<String>,
    inject: Option<String>,
    pod_ip: Option<String>,
    host_ip: Option<String>,
    pod_name: Option<String>,
    pod_namespace: Option<String>,
    pod_uid: Option<String>,
    on_missed: Option<String>,
    when_meshed: Option<String>,
    timeout: Option<String>,
    on_timeout: Option<String>,
    agent_address: Option<String>,
    require: Option<String>,
    linkerd_namespace: Option<String>,
    injector_address: Option<String>,
    injector_name: Option<String>,
    ca_file: Option<String>,
    identity_address: Option<String>,
    destination_address: Option<String>,
    policy_address: Option<String>,
    termination_log: Option<String>,
    log: Option<String>,
    log_format: Option<String>,
}

/// Collects what is wrong while values are read, so that one run reports all of it.
#[derive(Default)]
struct Reader {
    problems: Vec<Problem>,
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
        let mut reader = Reader::default();
        let raw = reader.raw(Role::Wait, variables);
        let settings = reader.wait(raw);
        if let Some(path) = &settings.linkerd.ca_file
            && let Err(complaint) = check_ca_file(path)
        {
            reader.problems.push(Problem::value("LINKERD_GATE_CA_FILE", path.to_string_lossy(), complaint));
        }
        match Problems::new(Role::Wait, reader.problems) {
            None => Ok(settings),
            Some(problems) => Err(problems),
        }
    }
}

// === impl Reader ===

impl Reader {
    fn raw<R: DeserializeOwned + Default>(
        &mut self,
        role: Role,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> R {
        let mut known = Vec::new();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(table::PREFIX) {
                continue;
            }
            let value = match value.into_string() {
                Ok(value) => value,
                Err(bytes) => {
                    let shown = bytes.to_string_lossy().into_owned();
                    self.problems.push(Problem::value(&name, shown, "is not UTF-8"));
                    continue;
                }
            };
            if role.find(&name).is_some() {
                known.push((name, value));
            } else if !is_service_variable(&name, &value) {
                self.problems.push(Problem::unknown(role, &name, value));
            }
        }
        // Every field is an optional string and every name is known: there is nothing left for envy to refuse.
        envy::prefixed(table::PREFIX).from_iter(known).unwrap_or_else(|error| {
            self.problems.push(Problem::absent(table::PREFIX, error.to_string()));
            R::default()
        })
    }

    /// Goes on with a default after each problem: only the problems are used then.
    fn wait(&mut self, raw: Raw) -> Wait {
        if raw.injected_by.is_none() {
            self.problems.push(Problem::absent(
                "LINKERD_GATE_INJECTED_BY",
                "without it `wait` cannot tell whether this pod is in the mesh; it belongs to the init container's entry, \
                 copy that whole",
            ));
        }
        let pod = OwnPod {
            injected_by: self.optional("LINKERD_GATE_INJECTED_BY", raw.injected_by, injected_by).unwrap_or_default(),
            inject: given(raw.inject),
            ip: self.optional("LINKERD_GATE_POD_IP", raw.pod_ip, ip),
            host_ip: self.optional("LINKERD_GATE_HOST_IP", raw.host_ip, ip),
            name: given(raw.pod_name),
            namespace: given(raw.pod_namespace),
            uid: given(raw.pod_uid),
        };
        let on_missed = self.optional("LINKERD_GATE_ON_MISSED", raw.on_missed, word).unwrap_or(OnMissed::Hold);
        if on_missed == OnMissed::Replace {
            for (variable, value) in [
                ("LINKERD_GATE_POD_NAME", &pod.name),
                ("LINKERD_GATE_POD_NAMESPACE", &pod.namespace),
                ("LINKERD_GATE_POD_UID", &pod.uid),
            ] {
                if value.is_none() {
                    self.problems.push(Problem::absent(variable, "LINKERD_GATE_ON_MISSED=replace needs it"));
                }
            }
        }
        let timeout = self.optional("LINKERD_GATE_TIMEOUT", raw.timeout, duration);
        let on_timeout = self.optional("LINKERD_GATE_ON_TIMEOUT", raw.on_timeout, word).unwrap_or(OnTimeout::Fail);
        if on_timeout == OnTimeout::Open && timeout.is_none() {
            self.problems.push(Problem::absent("LINKERD_GATE_TIMEOUT", "LINKERD_GATE_ON_TIMEOUT=open needs it"));
        }
        Wait {
            on_missed,
            when_meshed: self.optional("LINKERD_GATE_WHEN_MESHED", raw.when_meshed, word).unwrap_or(WhenMeshed::Pass),
            timeout,
            on_timeout,
            agent: self
                .optional("LINKERD_GATE_AGENT_ADDRESS", raw.agent_address, agent)
                .unwrap_or_else(|| pod.host_ip.map(|ip| Address::new(ip.to_string(), AGENT_PORT))),
            pod,
            linkerd: self.linkerd(LinkerdRaw {
                require: raw.require,
                namespace: raw.linkerd_namespace,
                injector_address: raw.injector_address,
                injector_name: raw.injector_name,
                ca_file: raw.ca_file,
                identity_address: raw.identity_address,
                destination_address: raw.destination_address,
                policy_address: raw.policy_address,
            }),
            termination_log: given(raw.termination_log).map_or_else(|| "/dev/termination-log".into(), PathBuf::from),
            log: self.optional("LINKERD_GATE_LOG", raw.log, word).unwrap_or_default(),
            log_format: self.optional("LINKERD_GATE_LOG_FORMAT", raw.log_format, word).unwrap_or(LogFormat::Plain),
        }
    }

    fn linkerd(&mut self, raw: LinkerdRaw) -> Linkerd {
        let fallback: DnsName = "linkerd".parse().unwrap_or_else(|why| unreachable!("the default namespace {why}"));
        let namespace = self.optional("LINKERD_GATE_LINKERD_NAMESPACE", raw.namespace, namespace).unwrap_or(fallback);
        let service = |name: &str, port| Address::new(format!("{name}.{namespace}.svc"), port);
        let injector_service = format!("linkerd-proxy-injector.{namespace}.svc");
        Linkerd {
            require: self
                .optional("LINKERD_GATE_REQUIRE", raw.require, components)
                .unwrap_or_else(|| BTreeSet::from([Component::Injector, Component::Identity])),
            injector: self
                .optional("LINKERD_GATE_INJECTOR_ADDRESS", raw.injector_address, word)
                .unwrap_or_else(|| service("linkerd-proxy-injector", 443)),
            injector_name: self
                .optional("LINKERD_GATE_INJECTOR_NAME", raw.injector_name, word)
                .or_else(|| injector_service.parse().ok())
                .unwrap_or_else(|| namespace.clone()),
            ca_file: given(raw.ca_file).map(PathBuf::from),
            identity: self
                .optional("LINKERD_GATE_IDENTITY_ADDRESS", raw.identity_address, word)
                .unwrap_or_else(|| service("linkerd-identity-headless", 8080)),
            destination: self
                .optional("LINKERD_GATE_DESTINATION_ADDRESS", raw.destination_address, word)
                .unwrap_or_else(|| service("linkerd-dst-headless", 9996)),
            policy: self
                .optional("LINKERD_GATE_POLICY_ADDRESS", raw.policy_address, word)
                .unwrap_or_else(|| service("linkerd-policy", 9990)),
            namespace,
        }
    }

    /// A variable that has to be there; `why` says what for.
    fn needed(&mut self, variable: &str, value: Option<String>, why: &str) -> String {
        given(value).unwrap_or_else(|| {
            self.problems.push(Problem::absent(variable, why));
            String::new()
        })
    }

    /// An optional variable: nothing where it is absent or empty, or where its value was a problem.
    fn optional<T>(
        &mut self,
        variable: &str,
        value: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = given(value)?;
        match parse(&value) {
            Ok(meaning) => Some(meaning),
            Err(complaint) => {
                self.problems.push(Problem::value(variable, value, complaint));
                None
            }
        }
    }
}

/// The part of [`Raw`] that says where Linkerd is.
struct LinkerdRaw {
    require: Option<String>,
    namespace: Option<String>,
    injector_address: Option<String>,
    injector_name: Option<String>,
    ca_file: Option<String>,
    identity_address: Option<String>,
    destination_address: Option<String>,
    policy_address: Option<String>,
}

/// A template that leaves a variable empty means its default.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

fn word<T: FromStr<Err = &'static str>>(text: &str) -> Result<T, String> {
    text.parse().map_err(str::to_owned)
}

/// An address, or the word that there is none.
fn agent(text: &str) -> Result<Option<Address>, String> {
    if text == "none" { Ok(None) } else { word(text).map(Some) }
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "is not an IP address".to_owned())
}

fn namespace(text: &str) -> Result<DnsName, String> {
    match text.parse::<DnsName>() {
        // A namespace is one label, and in lower case (RFC 1123, as the API server checks it).
        Ok(name) if text.len() <= 63 && !text.contains(['.', '_']) && text == text.to_ascii_lowercase() => Ok(name),
        _ => Err("is not a namespace's name".to_owned()),
    }
}

/// The label's value is the name of the namespace whose Linkerd injected the pod. Whatever is no such name was not put there
/// by the injector: a field path that was written down as a value, say. It must not pass for one.
fn injected_by(text: &str) -> Result<String, String> {
    match namespace(text) {
        Ok(name) => Ok(name.to_string()),
        Err(_) => Err("is not a namespace's name, so no injector wrote it: it has to come by fieldRef".to_owned()),
    }
}

/// Hours, minutes and seconds only: humantime alone would take `5M` for five months.
fn duration(text: &str) -> Result<Duration, String> {
    if text.contains(|character: char| !character.is_ascii_digit() && !" hms".contains(character))
        || text.contains("ms")
    {
        return Err("is not a duration in s, m and h".to_owned());
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("has no unit".to_owned());
    }
    // humantime's own words give examples that are not taken here.
    let duration = humantime::parse_duration(text).map_err(|_| "is not a duration in s, m and h".to_owned())?;
    if duration < Duration::from_secs(1) {
        return Err("is not at least 1s; leave the variable out to wait for ever".to_owned());
    }
    Ok(duration)
}

fn components(text: &str) -> Result<BTreeSet<Component>, String> {
    text.split(',')
        .map(str::trim)
        .map(|name| name.parse().map_err(|_| format!("names {name:?}, which is none of Linkerd's parts")))
        .collect()
}

/// Whether this is one of the variables that kubelet sets for each Service of the namespace: a Service called
/// `linkerd-gate`, or `linkerd-gate-metrics`, makes names that begin as ours do. They are no mistake.
///
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_variable(name: &str, value: &str) -> bool {
    let tail = &name[table::PREFIX.len() - 1..];
    let is_port = || value.parse::<u16>().is_ok();
    let is_link = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    if tail.ends_with("_SERVICE_HOST") {
        return value.parse::<IpAddr>().is_ok();
    }
    if tail.ends_with("_SERVICE_PORT") || tail.contains("_SERVICE_PORT_") {
        return is_port();
    }
    if tail.ends_with("_PORT") && is_link() {
        return true;
    }
    // LINKERD_GATE_PORT_4192_TCP, …_TCP_PROTO, …_TCP_PORT, …_TCP_ADDR
    let Some((_, link)) = tail.rsplit_once("_PORT_") else { return false };
    let parts: Vec<&str> = link.split('_').collect();
    let [number, protocol, rest @ ..] = parts.as_slice() else { return false };
    number.parse::<u16>().is_ok()
        && ["TCP", "UDP", "SCTP"].contains(protocol)
        && matches!(rest, [] | ["PROTO" | "PORT" | "ADDR"])
}

#[cfg(test)]
mod tests;
