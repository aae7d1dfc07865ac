//! `linkerd-gate install`: prints the manifests, for `kubectl apply -f -`. They are those of `deploy/manifests`.

use super::not_done::NotDone;
use crate::{
    check::state::{HOLDS_FROM, Version},
    cluster::{self, Person, versions},
};
use std::io::Write;

/// What to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The image, with its tag or digest.
    pub image: String,
    /// Whether anything is done, or only logged.
    pub mode: Mode,
    /// What becomes of a pod that misses the injector.
    pub admission: Admission,
    /// The first two numbers of the Kubernetes that it is for; nothing where the cluster is asked.
    pub kubernetes_version: Option<(u32, u32)>,
    /// Whether the namespace gets the label by which `linkerd check` asks for this program.
    pub linkerd_extension: bool,
}

/// The chart's value `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// Act
    #[default]
    Enforce,
    /// Hold, refuse, close and replace nothing: say what would be done
    Audit,
}

/// The chart's value `admission`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Admission {
    /// Hold where Kubernetes can (1.36 and newer), else refuse
    #[default]
    Auto,
    /// Store such a pod with a scheduling gate
    Hold,
    /// Refuse it
    Refuse,
    /// Warn its creator
    Warn,
    /// Nothing
    Off,
}

macro_rules! manifest {
    ($name:literal) => {
        include_str!(concat!("../../deploy/manifests/", $name))
    };
}

/// What is always there, beside the controller.
const PARTS: [&str; 7] = [
    manifest!("10-namespaces.yaml"),
    manifest!("20-agent-policies.yaml"),
    manifest!("30-agent-rbac.yaml"),
    manifest!("35-flow-control.yaml"),
    manifest!("40-agent.yaml"),
    manifest!("50-controller-policies.yaml"),
    manifest!("51-controller-rbac.yaml"),
];

const CONTROLLER: &str = manifest!("52-controller.yaml");

const HOLD: &str = manifest!("60-admission-hold.yaml");
const GUARD: &str = manifest!("61-admission-guard.yaml");
const RELEASE: &str = manifest!("62-admission-release.yaml");
const WARN_BINDING: &str = manifest!("optional/71-admission-warn.yaml");

/// The image in the manifests, in the place of which another one is put.
const IMAGE: &str = "REGISTRY/linkerd-gate:0.1.0";

/// Before this variable of both roles the mode is written.
const LISTEN: &str = "        - {name: LINKERD_GATE_LISTEN_PORT, ";

/// What the binding of release does where admission enforces.
const DENY: &str = "validationActions: [Deny, Audit]";

/// The agents' line that goes with admission which holds or refuses.
const MAX_CLOSED: &str = "        - {name: LINKERD_GATE_NODE_MAX_CLOSED, value: \"2m\"}\n";

/// After this label of the namespace the other one is written.
const EXEMPT: &str = "    linkerd-gate/admission: exempt\n";

/// Prints the manifests.
///
/// # Errors
/// A version of Kubernetes that is neither given nor read from a cluster, and values that do not go together.
pub async fn run(access: &Person, install: &Install, out: &mut impl Write) -> Result<(), NotDone> {
    let version = match install.kubernetes_version {
        Some(version) => version,
        None => ask(access).await?,
    };
    let text = manifests(install, version).map_err(NotDone::one)?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

async fn ask(access: &Person) -> Result<(u32, u32), NotDone> {
    let hint = "without a cluster, give it: --kubernetes-version 1.36";
    let client = cluster::of_person(access).await.map_err(|error| NotDone::one(format!("{error}; {hint}")))?;
    let found = versions::kubernetes(&client).await.map_err(|refused| NotDone::one(format!("{refused}; {hint}")))?;
    let found = found.first().and_then(|text| Version::read(text));
    found
        .map(|version| version.minor)
        .ok_or_else(|| NotDone::one(format!("the version of Kubernetes is of no known form; {hint}")))
}

/// The manifests for that Kubernetes.
///
/// # Errors
/// Admission `hold` on a Kubernetes that cannot.
pub fn manifests(install: &Install, version: (u32, u32)) -> Result<String, String> {
    let can_hold = version >= HOLDS_FROM;
    let chosen = match install.admission {
        Admission::Auto if can_hold => Admission::Hold,
        Admission::Auto => Admission::Refuse,
        Admission::Hold if !can_hold => {
            let (major, minor) = version;
            return Err(format!(
                "Kubernetes {major}.{minor} cannot hold pods, which 1.36 and newer can: use --admission auto"
            ));
        }
        other => other,
    };
    let rendered = match (install.mode, chosen) {
        (Mode::Audit, Admission::Hold | Admission::Refuse) => Admission::Warn,
        _ => chosen,
    };
    let variable = |name: &str, value: &str| format!("        - {{name: {name}, value: {value}}}\n{LISTEN}");
    let mut controller = CONTROLLER.to_owned();
    if install.admission != Admission::Auto {
        let word = format!("\"{}\"", install.admission.word());
        controller = controller.replace(LISTEN, &variable("LINKERD_GATE_ADMISSION", &word));
    }
    let mut text = format!("{}{controller}", PARTS.concat()).replace(IMAGE, &install.image);
    // Where admission enforces nothing, nodes stay closed for as long as is the agents' own default.
    if matches!(rendered, Admission::Warn | Admission::Off) {
        text = text.replace(MAX_CLOSED, "");
    }
    if install.mode == Mode::Audit {
        text = text.replace(LISTEN, &variable("LINKERD_GATE_MODE", "audit"));
    }
    if install.linkerd_extension {
        text = text.replacen(EXEMPT, &format!("{EXEMPT}    linkerd.io/extension: gate\n"), 1);
    }
    if rendered == Admission::Hold {
        text.push_str(HOLD);
    }
    if rendered != Admission::Off {
        let guard = GUARD
            .replace("admission-value: \"auto\"", &format!("admission-value: \"{}\"", install.admission.word()))
            .replace("admission-chosen: \"hold\"", &format!("admission-chosen: \"{}\"", chosen.word()));
        if rendered == Admission::Warn {
            // The policy as it is, and another binding.
            text.push_str(guard.rsplit_once("\n---\n").map_or(guard.as_str(), |(policy, _)| policy));
            text.push('\n');
            text.push_str(WARN_BINDING);
            text.push_str(&RELEASE.replace(DENY, "validationActions: [Warn, Audit]"));
        } else {
            text.push_str(&guard);
            text.push_str(RELEASE);
        }
    }
    Ok(text)
}

// === impl Admission ===

impl Admission {
    const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Hold => "hold",
            Self::Refuse => "refuse",
            Self::Warn => "warn",
            Self::Off => "off",
        }
    }
}
