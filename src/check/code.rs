//! The codes of all checks. A code is never given another meaning.

use serde::Serializer;

/// Where the pages of `docs` are read: in the repository that Cargo.toml names, since the book has no site.
const DOCS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs");

/// One check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    /// Such as `LG101`: also the anchor in `docs/check.md`.
    pub id: &'static str,
    /// What should be so.
    pub description: &'static str,
}

macro_rules! codes {
    ($($name:ident = $id:literal $description:literal;)+) => {
        $(
            #[doc = $description]
            pub const $name: Code = Code { id: $id, description: $description };
        )+

        /// All of them, in order.
        pub const ALL: &[Code] = &[$($name),+];
    };
}

codes! {
    API_SERVER = "LG101" "the API server answers";
    INSTALLED = "LG102" "linkerd-gate is installed";
    AGENTS = "LG103" "agents are ready on every node";
    CONTROLLER = "LG104" "the controller is ready";
    PROVER = "LG105" "an agent or controller proves injection for the cluster";
    LEADER = "LG106" "a controller leads";
    ENFORCES = "LG107" "linkerd-gate acts, and does not only report";
    RIGHTS = "LG108" "you may read what is checked";
    HOLD_SUPPORTED = "LG201" "this Kubernetes can hold pods";
    POLICIES = "LG202" "the admission policies are there and bound";
    PARAMETER = "LG203" "the admission policies find the configuration of Linkerd's webhook";
    CONDITIONS = "LG204" "hold and guard can tell whether Linkerd's webhook is called";
    LATER_WEBHOOKS = "LG205" "no webhook changes pods after Linkerd's";
    COVERAGE = "LG206" "the admission policies apply wherever Linkerd's webhook injects";
    RULES = "LG207" "the admission policies decide as this version of linkerd-gate does";
    PROVEN = "LG301" "a pod that is created now is injected";
    PROVEN_EVERYWHERE = "LG302" "injection is proven through each API server";
    LINKERD = "LG401" "Linkerd's webhook is registered";
    ONE_LINKERD = "LG402" "there is one Linkerd";
    FAILURE_POLICY = "LG403" "no pod starts outside the mesh while the injector is away";
    CA_BUNDLE = "LG404" "the API server trusts the certificate that the injector serves";
    SELECTORS = "LG405" "Linkerd's webhook selects every namespace that asks for injection";
    NAMESPACE_ANNOTATIONS = "LG406" "no namespace has an annotation that breaks Linkerd's patch";
    NAMESPACE_INJECT = "LG407" "no namespace has an invalid value of linkerd.io/inject";
    PROXIES = "LG501" "proxies are of the control plane's version";
    OUR_VERSIONS = "LG502" "all parts of linkerd-gate are of one version";
    REPLICAS = "LG503" "injector, identity and destination have two replicas or more";
    SPREAD = "LG504" "replicas of the control plane are spread over nodes";
    CLOSED = "LG601" "no node is closed";
    TAINT_SUPPRESSED = "LG602" "no DaemonSet keeps nodes from being closed";
    NODES_WITHOUT_AGENT = "LG603" "every node has an agent that is ready";
    OVERRIDES = "LG604" "no manual override is in force";
    MESHED = "LG701" "pods that ask for Linkerd are meshed";
    HELD = "LG702" "no pod is held";
    FORGED = "LG703" "no pod has Linkerd's label without its proxy";
    POD_ANNOTATIONS = "LG704" "no pod has an annotation that breaks Linkerd's patch";
    AFTER_A_CUT = "LG801" "no pod would come back outside the mesh";
    FAIL_WEBHOOKS = "LG802" "no webhook stands in the way of what it needs itself";
    INTOLERANT = "LG803" "essential DaemonSets tolerate the taint of closed nodes";
    AUTOSCALER = "LG804" "the taint of closed nodes fits the autoscaler";
}

// === impl Code ===

impl Code {
    /// Whether what it finds may be otherwise a moment later, without a person doing anything about it: what an annotation
    /// or a label in a template causes stays.
    pub(super) fn passes_by_itself(self) -> bool {
        ![NAMESPACE_ANNOTATIONS, POD_ANNOTATIONS, FORGED].contains(&self)
    }

    /// Where it is explained.
    pub fn url(self) -> String {
        format!("{DOCS}/check.md#{}", self.id.to_ascii_lowercase())
    }
}

pub(super) fn serialize<S: Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.id)
}
