//! The one table of variables. `wait --help`, `docs/configuration.md` and the tests are made from it.

use std::fmt::Write as _;

use strum::VariantArray;

/// The prefix of every variable that this program reads.
pub const PREFIX: &str = "LINKERD_GATE_";

/// One environment variable, as a person needs to know it.
#[derive(Debug)]
pub struct Variable {
    /// The whole name, prefix included.
    pub name: &'static str,
    /// What it means when it is not set. Optional variables may also be set to the empty string, which is the same.
    pub default: &'static str,
    /// The values that are taken.
    pub accepted: &'static str,
    /// A value that is taken; a test feeds it to the parser.
    pub example: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

// What every role has.

const TERMINATION_LOG: Variable = Variable {
    name: "LINKERD_GATE_TERMINATION_LOG",
    default: "/dev/termination-log",
    accepted: "a path; the file must exist, as kubelet's does",
    example: "/dev/termination-log",
    purpose: "Where the last reason is kept for `kubectl describe pod`.",
};

const LOG: Variable = Variable {
    name: "LINKERD_GATE_LOG",
    default: "info",
    accepted: "off, error, warn, info, debug, trace; and TARGET=LEVEL for a library, with commas between",
    example: "debug,kube=info",
    purpose: "debug adds a line for every probe. kube=debug adds what the client library says of each request.",
};

const LOG_FORMAT: Variable = Variable {
    name: "LINKERD_GATE_LOG_FORMAT",
    default: "plain",
    accepted: "plain, json",
    example: "json",
    purpose: "How log lines are written.",
};

/// The variables of `wait`.
pub const WAIT: &[Variable] = &[
    Variable {
        name: "LINKERD_GATE_INJECTED_BY",
        default: "none: it must be there, empty or not",
        accepted: "the downward API's metadata.labels['linkerd.io/control-plane-ns']: empty, or a namespace's name",
        example: "linkerd",
        purpose: "Says whether this pod was injected. Empty: it was not. Absent: the entry was pasted without it, \
                  and nothing can be decided.",
    },
    Variable {
        name: "LINKERD_GATE_INJECT",
        default: "empty",
        accepted: "the downward API's metadata.annotations['linkerd.io/inject']",
        example: "enabled",
        purpose: "A pod that says `disabled` does not ask for the mesh: it only waits for it to be up.",
    },
    Variable {
        name: "LINKERD_GATE_POD_IP",
        default: "not known",
        accepted: "an IP address: the downward API's status.podIP",
        example: "10.244.0.7",
        purpose: "A pod whose address is its host's is on the host network, which Linkerd never injects.",
    },
    Variable {
        name: "LINKERD_GATE_HOST_IP",
        default: "not known",
        accepted: "an IP address: the downward API's status.hostIP",
        example: "192.168.1.20",
        purpose: "See LINKERD_GATE_POD_IP and LINKERD_GATE_AGENT_ADDRESS.",
    },
    Variable {
        name: "LINKERD_GATE_POD_NAME",
        default: "not known",
        accepted: "the downward API's metadata.name",
        example: "shop-7d9f8-x2x9z",
        purpose: "Logs then give the exact command that replaces this pod. Needed for LINKERD_GATE_ON_MISSED=replace.",
    },
    Variable {
        name: "LINKERD_GATE_POD_NAMESPACE",
        default: "not known",
        accepted: "the downward API's metadata.namespace",
        example: "shop",
        purpose: "As LINKERD_GATE_POD_NAME.",
    },
    Variable {
        name: "LINKERD_GATE_POD_UID",
        default: "not known",
        accepted: "the downward API's metadata.uid",
        example: "0b5e6d9c-4f0f-4a52-9a39-0d3f4a1c2b3d",
        purpose: "Needed for LINKERD_GATE_ON_MISSED=replace: a pod of the same name that came later is never deleted.",
    },
    Variable {
        name: "LINKERD_GATE_ON_MISSED",
        default: "hold",
        accepted: "hold, exit, replace, open",
        example: "exit",
        purpose: "What to do once Linkerd is ready and this pod is outside the mesh. hold: until it is replaced, saying \
                  how. exit: with code 75, for Jobs whose podFailurePolicy ignores it. replace: prove injection, then \
                  delete this very pod (needs a Role). open: start outside the mesh.",
    },
    Variable {
        name: "LINKERD_GATE_WHEN_MESHED",
        default: "pass",
        accepted: "pass, identity",
        example: "identity",
        purpose: "What a meshed pod does. pass: start at once, its proxy waits for identity itself. identity: wait for \
                  it here, for classic sidecars; needs uid 2102 where Linkerd's CNI redirects.",
    },
    Variable {
        name: "LINKERD_GATE_TIMEOUT",
        default: "none: wait for ever",
        accepted: "a duration of at least 1s, in s, m, h",
        example: "10m",
        purpose: "How long to hold at most.",
    },
    Variable {
        name: "LINKERD_GATE_ON_TIMEOUT",
        default: "fail",
        accepted: "fail, open",
        example: "open",
        purpose: "What happens then. fail: exit with code 69. open: start all the same, even outside the mesh; needs \
                  LINKERD_GATE_TIMEOUT.",
    },
    Variable {
        name: "LINKERD_GATE_AGENT_ADDRESS",
        default: "port 4192 of LINKERD_GATE_HOST_IP; none where that is not known",
        accepted: "HOST:PORT, [IPV6]:PORT, none",
        example: "192.168.1.21:4192",
        purpose: "Where the node's agent is asked, before anything else: what it says is proven, and costs the cluster \
                  nothing. While no agent answers, `wait` probes Linkerd itself. none: it always does.",
    },
    Variable {
        name: "LINKERD_GATE_REQUIRE",
        default: "injector,identity",
        accepted: "a comma-separated list of injector, identity, destination, policy",
        example: "injector,identity,destination",
        purpose: "What has to answer before Linkerd counts as ready. The injector is asked in any case before a pod is \
                  said to have to be replaced.",
    },
    Variable {
        name: "LINKERD_GATE_LINKERD_NAMESPACE",
        default: "linkerd",
        accepted: "a namespace's name",
        example: "linkerd-edge",
        purpose: "Where Linkerd's control plane is.",
    },
    Variable {
        name: "LINKERD_GATE_INJECTOR_ADDRESS",
        default: "linkerd-proxy-injector.NAMESPACE.svc:443",
        accepted: "HOST:PORT, [IPV6]:PORT",
        example: "linkerd-proxy-injector.linkerd.svc:443",
        purpose: "Where the proxy injector is asked, by HTTPS.",
    },
    Variable {
        name: "LINKERD_GATE_INJECTOR_NAME",
        default: "linkerd-proxy-injector.NAMESPACE.svc",
        accepted: "a DNS name",
        example: "linkerd-proxy-injector.linkerd.svc",
        purpose: "The name that the injector's certificate must carry: the one the API server expects.",
    },
    Variable {
        name: "LINKERD_GATE_CA_FILE",
        default: "none: the certificate's name and dates are checked, its issuer is not",
        accepted: "the path of a PEM file with at least one certificate",
        example: "/etc/linkerd-gate/ca.crt",
        purpose: "The CA bundle that the injector's certificate must chain to. Read again when it changes.",
    },
    Variable {
        name: "LINKERD_GATE_IDENTITY_ADDRESS",
        default: "linkerd-identity-headless.NAMESPACE.svc:8080",
        accepted: "HOST:PORT, [IPV6]:PORT",
        example: "linkerd-identity-headless.linkerd.svc:8080",
        purpose: "Where identity is asked, by gRPC: an empty Certify, which it answers without any effect.",
    },
    Variable {
        name: "LINKERD_GATE_DESTINATION_ADDRESS",
        default: "linkerd-dst-headless.NAMESPACE.svc:9996",
        accepted: "HOST:PORT, [IPV6]:PORT",
        example: "linkerd-dst-headless.linkerd.svc:9996",
        purpose: "Where destination's /ready is asked, when LINKERD_GATE_REQUIRE lists it.",
    },
    Variable {
        name: "LINKERD_GATE_POLICY_ADDRESS",
        default: "linkerd-policy.NAMESPACE.svc:9990",
        accepted: "HOST:PORT, [IPV6]:PORT",
        example: "linkerd-policy.linkerd.svc:9990",
        purpose: "Where the policy controller's /ready is asked, when LINKERD_GATE_REQUIRE lists it.",
    },
    TERMINATION_LOG,
    LOG,
    LOG_FORMAT,
];

// What every role has that proves injection.

const PROVING_REQUIRE: Variable = Variable {
    name: "LINKERD_GATE_REQUIRE",
    default: "injector,identity",
    accepted: "a comma-separated list of injector, identity, destination, policy",
    example: "injector,identity,destination",
    purpose: "What has to answer before the gate opens. A proof of injection is required in any case.",
};

const PROVING_IDENTITY: Variable = Variable {
    name: "LINKERD_GATE_IDENTITY",
    default: "ask",
    accepted: "ask, endpoints",
    example: "endpoints",
    purpose: "How identity is known to be up. ask: an empty Certify to one of its pods, from every node. endpoints: by its \
              EndpointSlices alone, where a NetworkPolicy keeps agents out.",
};

const PROVING_PROBE_NAMESPACE: Variable = Variable {
    name: "LINKERD_GATE_PROBE_NAMESPACE",
    default: "linkerd-gate-probe",
    accepted: "a namespace's name",
    example: "linkerd-gate-probe",
    purpose: "Where dry-run pods are sent to.",
};

const PROVING_PROBE_LABELS: Variable = Variable {
    name: "LINKERD_GATE_PROBE_LABELS",
    default: "empty",
    accepted: "a comma-separated list of KEY=VALUE",
    example: "linkerd.io/mesh=on",
    purpose: "The labels of dry-run pods. A webhook whose objectSelector wants labels of pods is not called for a pod without them, and \
              nothing is proven. One that wants labels of namespaces wants them of the probe namespace.",
};

const PROVING_API_SERVERS: Variable = Variable {
    name: "LINKERD_GATE_API_SERVERS",
    default: "the addresses in EndpointSlice default/kubernetes",
    accepted: "a comma-separated list of HOST:PORT, [IPV6]:PORT",
    example: "10.0.0.11:6443,10.0.0.12:6443",
    purpose: "The API servers through which injection has to be proven, where that EndpointSlice does not tell.",
};

const TAINT_KEY: Variable = Variable {
    name: "LINKERD_GATE_TAINT_KEY",
    default: "linkerd-gate/closed",
    accepted: "a taint's key",
    example: "startup-taint.cluster-autoscaler.kubernetes.io/linkerd-gate",
    purpose: "The key of the taint, for autoscalers that know startup taints by a prefix. The policies that confine us \
              name it too.",
};

/// The variables of `agent`.
pub const AGENT: &[Variable] = &[
    Variable {
        name: "LINKERD_GATE_NODE_NAME",
        default: "none: it must be there",
        accepted: "the downward API's spec.nodeName",
        example: "node-0",
        purpose: "The node that this agent closes and opens.",
    },
    Variable {
        name: "LINKERD_GATE_POD_NAME",
        default: "none: it must be there",
        accepted: "the downward API's metadata.name",
        example: "linkerd-gate-x2x9z",
        purpose: "Tells this agent from another on the same node, during an update.",
    },
    Variable {
        name: "LINKERD_GATE_POD_NAMESPACE",
        default: "none: it must be there",
        accepted: "the downward API's metadata.namespace",
        example: "linkerd-gate",
        purpose: "Where the Lease and the DaemonSet of the agents are.",
    },
    Variable {
        name: "LINKERD_GATE_MODE",
        default: "enforce",
        accepted: "enforce, audit",
        example: "audit",
        purpose: "audit decides, logs, counts and emits events. It writes nothing to pods, and to its own node only that a taint of ours \
                  is lifted and that this boot ran unclosed.",
    },
    Variable {
        name: "LINKERD_GATE_TAINT",
        default: "auto",
        accepted: "auto, never",
        example: "never",
        purpose: "never: nodes are not tainted, the agent only answers /gate and proves injection.",
    },
    TAINT_KEY,
    Variable {
        name: "LINKERD_GATE_NODE_MAX_CLOSED",
        default: "10m",
        accepted: "a duration of at least 1s, in s, m, h",
        example: "30m",
        purpose: "How long a node may be closed before it opens unproven, with a Warning.",
    },
    Variable {
        name: "LINKERD_GATE_REPAIR_GRACE",
        default: "30s",
        accepted: "a duration of at least 1s, in s, m, h",
        example: "2m",
        purpose: "How long a node that could open stays closed at most while the controller still replaces pods that wait for a node: a \
                  pod without a proxy that gets a node first starts outside the mesh. Counted from when the gate opened.",
    },
    Variable {
        name: "LINKERD_GATE_ESSENTIAL_NAMESPACES",
        default: "empty",
        accepted: "a comma-separated list of namespaces",
        example: "rook-ceph,metallb-system",
        purpose: "Namespaces whose pods must be able to start on a closed node, beside Linkerd's own and those that its webhook \
                  does not select. Each needs the label linkerd-gate/essential=true as well, for the policy that confines the \
                  agent; the label alone is enough.",
    },
    Variable {
        name: "LINKERD_GATE_IGNORED_DAEMON_SETS",
        default: "empty",
        accepted: "a comma-separated list of NAMESPACE/NAME, of which each may end in *",
        example: "kube-system/svclb-*",
        purpose: "Essential DaemonSets that do not tolerate the taint and that no node waits for: a node stays closed although it lacks \
                  their pod. The label linkerd-gate/essential=false on a DaemonSet says the same.",
    },
    PROVING_REQUIRE,
    PROVING_IDENTITY,
    PROVING_PROBE_NAMESPACE,
    PROVING_PROBE_LABELS,
    PROVING_API_SERVERS,
    Variable {
        name: "LINKERD_GATE_BOOT_ID_FILE",
        default: "/proc/sys/kernel/random/boot_id",
        accepted: "a path",
        example: "/run/linkerd-gate/boot_id",
        purpose: "Where the id of the node's boot is read. Nodes that are containers (kind, k3d) share their host's.",
    },
    Variable {
        name: "LINKERD_GATE_LISTEN_PORT",
        default: "4192",
        accepted: "a port from 1 to 65535",
        example: "4192",
        purpose: "The port of /gate, /live, /ready and /metrics, on every address of the node. `wait` asks 4192 unless configured \
                  otherwise (LINKERD_GATE_AGENT_ADDRESS).",
    },
    Variable {
        name: "LINKERD_GATE_KUBECONFIG",
        default: "none: the pod's service account",
        accepted: "the path of a kubeconfig file",
        example: "/etc/linkerd-gate/kubeconfig",
        purpose: "How the API server is reached, for an agent that does not run in a pod.",
    },
    TERMINATION_LOG,
    LOG,
    LOG_FORMAT,
];

/// The variables of `controller`.
pub const CONTROLLER: &[Variable] = &[
    Variable {
        name: "LINKERD_GATE_NODE_NAME",
        default: "none: it must be there",
        accepted: "the downward API's spec.nodeName",
        example: "node-0",
        purpose: "Where this controller runs, for the Lease and for people.",
    },
    Variable {
        name: "LINKERD_GATE_POD_NAME",
        default: "none: it must be there",
        accepted: "the downward API's metadata.name",
        example: "linkerd-gate-controller-7d9c4-x2x9z",
        purpose: "Tells this replica from the other.",
    },
    Variable {
        name: "LINKERD_GATE_POD_NAMESPACE",
        default: "none: it must be there",
        accepted: "the downward API's metadata.namespace",
        example: "linkerd-gate",
        purpose: "Where the Leases and the agents are.",
    },
    Variable {
        name: "LINKERD_GATE_POD_UID",
        default: "none: it must be there",
        accepted: "the downward API's metadata.uid",
        example: "5f1d3a52-0b7e-4d6c-9a53-6f1f0f7f9a11",
        purpose: "Tells this replica from one of the same name before it.",
    },
    Variable {
        name: "LINKERD_GATE_MODE",
        default: "enforce",
        accepted: "enforce, audit",
        example: "audit",
        purpose: "audit decides, logs, counts and emits events. It writes nothing else but that it resumes Jobs which we suspended and \
                  lifts our taint from nodes without an agent.",
    },
    Variable {
        name: "LINKERD_GATE_ADMISSION",
        default: "auto",
        accepted: "auto, hold, refuse, warn, off",
        example: "refuse",
        purpose: "What the policies of admission were installed as: the chart's value `admission`. It changes no policy. With auto and \
                  hold, and not in audit mode, the controller warns where the API server can hold pods and linkerd-gate-hold is not \
                  bound.",
    },
    Variable {
        name: "LINKERD_GATE_REPAIR",
        default: "held",
        accepted: "report, held, running",
        example: "running",
        purpose: "Which missed pods are replaced. report: none. held: those in which nothing has ever started but linkerd-gate's \
                  own init container; how fast is up to the injector: as many as succeed. running: \
                  those that run as well, by eviction. The annotation linkerd-gate/repair on a pod or a namespace overrides it.",
    },
    Variable {
        name: "LINKERD_GATE_HOLD_MAX",
        default: "never",
        accepted: "never, a duration of at least 1s, in s, m, h",
        example: "1h",
        purpose: "For how long the scheduling gate linkerd-gate/injected holds a pod at most, from its creation on. After that \
                  the controller takes it off and the pod runs without a proxy: not in audit mode, nor while close --all is in \
                  force. never: until injection is proven, or a person says otherwise.",
    },
    Variable {
        name: "LINKERD_GATE_REPAIR_COOLDOWN",
        default: "10s",
        accepted: "a duration of at least 1s, in s, m, h",
        example: "1m",
        purpose: "How long an owner is left alone after an eviction, and after a replacement that came back without a proxy.",
    },
    Variable {
        name: "LINKERD_GATE_EVICTION",
        default: "true with LINKERD_GATE_REPAIR=running, else false",
        accepted: "true, false",
        example: "true",
        purpose: "Whether pods may be evicted, which needs the right pods/eviction: for `running` by annotation, and for Jobs whose \
                  podFailurePolicy ignores DisruptionTarget.",
    },
    Variable {
        name: "LINKERD_GATE_EVICTION_RATE",
        default: "1/s",
        accepted: "a whole number above 0, a slash, and s, m or h",
        example: "6/m",
        purpose: "How many pods are evicted at most, one at a time.",
    },
    Variable {
        name: "LINKERD_GATE_RETRY_OWNERS",
        default: "true",
        accepted: "true, false",
        example: "false",
        purpose: "Whether the controller retries owners whose pods admission refused, once injection is proven.",
    },
    Variable {
        name: "LINKERD_GATE_ORPHAN_AFTER",
        default: "10m",
        accepted: "a duration of at least 1s, in s, m, h",
        example: "30m",
        purpose: "After how long the controller opens a closed node that has no agent that is ready, whatever the agents' \
                  LINKERD_GATE_NODE_MAX_CLOSED says.",
    },
    TAINT_KEY,
    Variable {
        name: "LINKERD_GATE_TOKEN_PROJECTION",
        default: "true",
        accepted: "true, false",
        example: "false",
        purpose: "The value of identity.serviceAccountTokenProjection that Linkerd was installed with.",
    },
    PROVING_REQUIRE,
    PROVING_IDENTITY,
    PROVING_PROBE_NAMESPACE,
    PROVING_PROBE_LABELS,
    PROVING_API_SERVERS,
    Variable {
        name: "LINKERD_GATE_LISTEN_PORT",
        default: "4192",
        accepted: "a port from 1 to 65535",
        example: "4193",
        purpose: "The port of /live, /ready, /metrics and /gate.",
    },
    Variable {
        name: "LINKERD_GATE_KUBECONFIG",
        default: "none: the pod's service account",
        accepted: "the path of a kubeconfig file",
        example: "/etc/linkerd-gate/kubeconfig",
        purpose: "How the API server is reached, for a controller that does not run in a pod.",
    },
    TERMINATION_LOG,
    LOG,
    LOG_FORMAT,
];

/// A role that is configured by environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub enum Role {
    /// `wait`.
    Wait,
    /// `agent`.
    Agent,
    /// `controller`.
    Controller,
}

/// The variable of that name, of whatever role. Where roles share a name they share its meaning.
pub fn find(name: &str) -> Option<&'static Variable> {
    Role::ALL.iter().find_map(|role| role.find(name))
}

// === impl Role ===

impl Role {
    /// All of them.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its subcommand.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Agent => "agent",
            Self::Controller => "controller",
        }
    }

    /// Its variables.
    pub const fn variables(self) -> &'static [Variable] {
        match self {
            Self::Wait => WAIT,
            Self::Agent => AGENT,
            Self::Controller => CONTROLLER,
        }
    }

    /// Its variable of that name.
    pub fn find(self, name: &str) -> Option<&'static Variable> {
        self.variables().iter().find(|variable| variable.name == name)
    }
}

/// The table as it stands below `wait --help`.
pub fn help(variables: &[Variable]) -> String {
    let mut text = String::from("Environment:\n");
    for variable in variables {
        let _infallible = writeln!(
            text,
            "  {}\n      {}\n      accepted: {}\n      default: {}",
            variable.name, variable.purpose, variable.accepted, variable.default
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// The table as a page: `docs/configuration.md` between its markers.
pub fn markdown(variables: &[Variable]) -> String {
    let mut text = String::from("| variable | default | accepted | example | purpose |\n|---|---|---|---|---|\n");
    for variable in variables {
        let _infallible = writeln!(
            text,
            "| `{}` | {} | {} | `{}` | {} |",
            variable.name, variable.default, variable.accepted, variable.example, variable.purpose
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_prefix_and_stands_once() {
        for table in [WAIT, AGENT, CONTROLLER] {
            let names: std::collections::BTreeSet<_> = table.iter().map(|variable| variable.name).collect();
            assert_eq!(names.len(), table.len());
            assert!(names.iter().all(|name| name.starts_with(PREFIX)));
        }
    }

    #[test]
    fn help_and_page_name_every_variable() {
        let (help, page) = (help(WAIT), markdown(WAIT));
        for variable in WAIT {
            assert!(help.contains(variable.name) && page.contains(variable.name), "{}", variable.name);
        }
    }
}
