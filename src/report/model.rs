//! The report as a value. As JSON it is what `docs/report.md` documents: fields are added, and renamed only with another version.

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

/// The version of the JSON.
pub const VERSION: u32 = 1;

/// What a cluster went through.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// Where it begins.
    pub from: Timestamp,
    /// Where it ends: when the cluster was read, by the clock of the machine that read it.
    pub to: Timestamp,
    /// The namespace whose pods are reported; all of them where it is null.
    pub namespace: Option<String>,
    /// The whole of it in sentences, the most important ones first.
    pub summary: Vec<String>,
    /// The command to type next, where one is known.
    pub next: Option<String>,
    /// The last boot; null where none is known.
    pub boot: Option<Boot>,
    /// The first trace of a proof since then; null where none is known.
    pub injection: Option<Injection>,
    /// The nodes, by name; null where they could not be read.
    pub nodes: Option<Vec<Lane>>,
    /// The pods.
    pub pods: Pods,
    /// Owners with pods outside the mesh; null where they could not be read.
    pub outside: Option<Vec<Outside>>,
    /// The same, counted by namespace.
    pub outside_by_namespace: Option<Vec<OfNamespace>>,
    /// Our Leases.
    pub leases: Vec<LeaseLine>,
    /// What happened, in the order in which it did.
    pub timeline: Vec<Entry>,
    /// What a reader has to know of the times and counts above.
    pub notes: Vec<String>,
    /// What could not be read. Nothing above is a statement about it.
    pub unread: Vec<String>,
}

/// Nodes that booted within minutes of each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// When the first of them did.
    pub from: Timestamp,
    /// When the last of them did.
    pub to: Timestamp,
    /// Their names.
    pub nodes: Vec<String>,
    /// How many nodes there are in all; null where they could not be read.
    pub of: Option<usize>,
}

/// The first trace of a proof that Linkerd injects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Injection {
    /// When it was left: the proof itself is at most seconds older.
    pub at: Timestamp,
    /// Which trace.
    pub evidence: String,
}

/// What a node was to linkerd-gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Pods may be scheduled onto it.
    Open,
    /// The same, although injection was not proven, or pods still waited for repair.
    OpenUnproven,
    /// Pods may not be scheduled onto it.
    Closed,
    /// Likewise: injection is proven, and the controller replaces pods first.
    AwaitsRepair,
    /// It should be closed, and is not, for a DaemonSet's sake.
    TaintSuppressed,
}

/// A node over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// When it booted last.
    pub booted: Option<Timestamp>,
    /// When it joined the cluster, where that was since the report begins.
    pub joined: Option<Timestamp>,
    /// Whether it is ready.
    pub ready: bool,
    /// Since when.
    pub ready_since: Option<Timestamp>,
    /// Whether it has our taint now.
    pub closed: bool,
    /// The manual override on it, as it is written.
    pub manual_override: Option<String>,
    /// For how long it was closed, as far as that is known.
    pub closed_seconds: Option<i64>,
    /// What it was, one after the other.
    pub spans: Vec<Span>,
}

/// What a node was for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// What.
    pub state: Gate,
    /// Since when; null where that is not known.
    pub from: Option<Timestamp>,
    /// Until when; null where it still is.
    pub to: Option<Timestamp>,
    /// Why, as the agent said it.
    pub why: String,
}

/// The pods. All but `held_now`, `running_outside` and `meshed` is counted by Events: there may have been more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pods {
    /// Pods that were held.
    pub held: usize,
    /// Those that still are; null where pods could not be read.
    pub held_now: Option<usize>,
    /// For how long one of them was held at most.
    pub held_seconds_max: Option<i64>,
    /// Pods that the controller removed, so that their owners create them again.
    pub replaced: usize,
    /// Pods of those owners that were created since then, and have a proxy; null where pods could not be read.
    pub created_again_meshed: Option<usize>,
    /// When the last of those started its first container.
    pub last_started: Option<Timestamp>,
    /// Creates that the guard or Linkerd's webhook refused.
    pub refused_creates: usize,
    /// Pods whose gate was removed although they have no proxy.
    pub released_without_proxy: usize,
    /// Pods that run outside the mesh now, though they request injection; null where pods could not be read.
    pub running_outside: Option<usize>,
    /// Pods that are meshed now; null where pods could not be read.
    pub meshed: Option<usize>,
    /// How many pods were held, from each instant on.
    pub held_over_time: Vec<Step>,
}

/// How many pods were held from an instant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// From then on.
    pub at: Timestamp,
    /// So many.
    pub held: usize,
}

/// An owner with pods outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outside {
    /// Its namespace.
    pub namespace: String,
    /// As kubectl names it: `deployment/web`.
    pub owner: String,
    /// Pods of it that run outside the mesh.
    pub running: usize,
    /// Pods of it in which nothing has started.
    pub held: usize,
    /// Why.
    pub why: String,
    /// What to type, or a comment of a shell where there is no command.
    pub next: String,
}

/// Pods outside the mesh in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OfNamespace {
    /// The namespace.
    pub namespace: String,
    /// So many run.
    pub running: usize,
    /// In so many nothing has started.
    pub held: usize,
}

/// Who held a Lease last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseLine {
    /// `prover` or `controller`.
    pub role: &'static str,
    /// The prover's node, or the controller's pod; null where no one holds it.
    pub holder: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it was renewed last.
    pub renewed: Option<Timestamp>,
    /// How often it has changed hands, since it exists.
    pub transitions: i32,
}

/// Something that happened, to one object or to many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When it did, to the first of them.
    pub at: Timestamp,
    /// When it did to the last of them; null for a single instant.
    pub until: Option<Timestamp>,
    /// What, for a program.
    pub kind: Kind,
    /// Whether a person should look.
    pub warning: bool,
    /// To how many.
    pub count: usize,
    /// To which: the first ten.
    pub objects: Vec<String>,
    /// What, for a person.
    pub text: String,
}

/// What happened. The order is that of what happens in the same second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A node's machine announced its shutdown.
    NodeShutdown,
    /// A node stopped being ready.
    NodeNotReady,
    /// A node joined.
    NodeJoined,
    /// A node came back with another boot id.
    NodeBooted,
    /// Pods were created and held.
    PodsHeld,
    /// Creates were refused.
    CreatesRefused,
    /// A node was closed.
    GateClosed,
    /// A node should have been closed.
    TaintSuppressed,
    /// A node has a taint of our key that ends pods.
    ForeignTaint,
    /// A node became ready.
    NodeReady,
    /// A part of Linkerd became ready.
    LinkerdReady,
    /// An agent took the prover's Lease.
    ProverElected,
    /// A replica of the controller took its Lease.
    ControllerElected,
    /// The first trace of a proof.
    InjectionProven,
    /// A node waits for the controller.
    GateAwaitsRepair,
    /// Pods ran outside the mesh.
    PodsOutside,
    /// Pods were removed, so that they are created again.
    PodsReplaced,
    /// A removal was refused or failed.
    ReplacementFailed,
    /// An owner did not create a pod again.
    NotCreatedAgain,
    /// The controller paused an owner.
    OwnerPaused,
    /// A gate was removed from pods that need none.
    PodsReleased,
    /// A gate was removed from pods without a proxy.
    PodsReleasedWithoutProxy,
    /// A gate could not be removed.
    ReleaseFailed,
    /// Pods that were created again started their first container.
    PodsStarted,
    /// A node was opened.
    GateOpened,
    /// A node is as it was before linkerd-gate.
    GateAdopted,
    /// A node was not to be closed in this mode.
    GateLeftOpen,
    /// A node was opened, and pods still waited for repair.
    GateOpenedBeforeRepair,
    /// A node was opened without a proof.
    GateOpenedUnproven,
    /// The controller opened a node without an agent.
    GateOpenedOrphanNode,
}
