//! Whether a pod holds the entry of `linkerd-gate wait`, and holds it properly.

mod remarks;

use self::remarks::Remarks;
use super::{
    subject::{Limits, Maker},
    variables::{Effect, INJECTED_BY, Variables},
};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde::Serialize;

/// The entry in `initContainers` that holds a pod until the mesh is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Entry {
    /// There is none.
    Missing,

    /// There is one, and it will do what it is for.
    Ok {
        /// The name of the container.
        container: String,
        /// Whether a missed pod never starts: not after a time, not by a setting, and not by one that is not told here.
        holds: bool,
        /// What is worth knowing about it all the same.
        remarks: Vec<Remark>,
    },

    /// There is one, and it will not do what it is for.
    Wrong {
        /// The name of the container.
        container: String,
        /// What is wrong with it, and what is worth knowing besides.
        remarks: Vec<Remark>,
    },
}

/// One thing about the entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// A word for programs.
    pub key: &'static str,
    /// A sentence for people.
    pub text: String,
    /// Whether the entry does not do what it is for because of this.
    pub wrong: bool,
}

// === impl Entry ===

impl Entry {
    /// What there is to say about it.
    pub fn remarks(&self) -> &[Remark] {
        match self {
            Self::Missing => &[],
            Self::Ok { remarks, .. } | Self::Wrong { remarks, .. } => remarks,
        }
    }
}

/// The entry, and what it does.
pub(super) struct Found {
    pub(super) entry: Entry,
    /// What it does to a pod without a proxy; nothing where it does not get as far as that.
    pub(super) effect: Option<Effect>,
}

// === impl Found ===

impl Found {
    /// Finds the entry in a pod: the container that is named, or imaged, or configured like the gate's.
    pub(super) fn new(pod: &Pod, maker: &Maker, limits: &Limits) -> Self {
        let missing = Self { entry: Entry::Missing, effect: None };
        let Some(spec) = &pod.spec else { return missing };
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let inits = init.iter().enumerate().map(|(place, container)| (Some(place), container));
        // An agent or a controller is no entry that was put in the wrong place.
        let regular =
            spec.containers.iter().filter(|container| !is_another_role(container)).map(|container| (None, container));
        // A container that says `wait` is the entry, before one that only looks like the gate (its agent, say).
        let candidates: Vec<_> = inits.chain(regular).filter(|(_, container)| is_gates(container)).collect();
        let waiting = candidates.iter().find(|(place, container)| place.is_some() && waits(container));
        let Some((place, container)) = waiting.or(candidates.first()) else { return missing };

        let variables = Variables::of(container);
        let settings = variables.read(pod);
        let mut remarks = Remarks(Vec::new());
        remarks.on_place(*place, container, candidates.len());
        remarks.on_variables(pod, &variables, container);
        if waits(container) {
            match &settings {
                Ok(settings) => remarks.on_settings(pod, container, settings, maker, limits),
                Err(problems) => remarks.on_problems(problems),
            }
        }
        let Remarks(mut remarks) = remarks;
        remarks.sort_by_key(|remark| !remark.wrong);
        let runs = place.is_some()
            && another_program(container).is_none()
            && only_waits(container)
            && container.restart_policy.as_deref() != Some("Always");
        let settings = settings.ok().filter(|_| runs && variables.get(INJECTED_BY).is_some());
        let effect = settings.as_ref().map(Effect::of);
        let holds = settings.as_ref().is_some_and(|settings| Effect::of_missed(settings).holds());

        let name = container.name.clone();
        let entry = if remarks.iter().any(|remark| remark.wrong) {
            Entry::Wrong { container: name, remarks }
        } else {
            let untold = remarks.iter().any(|remark| ["untold", "env_from"].contains(&remark.key));
            Entry::Ok { container: name, holds: holds && !untold, remarks }
        };
        Self { entry, effect }
    }
}

/// Whether this container is the gate's, by its name, the last part of its image's name, or one of its variables.
fn is_gates(container: &Container) -> bool {
    const NAME: &str = "linkerd-gate";
    let image = container.image.as_deref().unwrap_or_default();
    let image = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let image = image.split(':').next().unwrap_or_default();
    container.name == NAME
        || image == NAME
        || container.env.iter().flatten().any(|variable| variable.name.starts_with("LINKERD_GATE_"))
}

/// What follows the program: of the image's entry point, or of a command that spells it out.
fn arguments(container: &Container) -> Vec<&str> {
    let command = container.command.as_deref().unwrap_or_default();
    command.iter().skip(1).chain(container.args.iter().flatten()).map(String::as_str).collect()
}

/// Whether this container means to run `wait`.
fn waits(container: &Container) -> bool {
    arguments(container).first() == Some(&"wait")
}

/// The program that a container's command runs where it is not ours.
fn another_program(container: &Container) -> Option<&str> {
    let program = container.command.as_deref()?.first()?;
    (program.rsplit('/').next() != Some("linkerd-gate")).then_some(program)
}

/// Whether this container runs one of our other roles or commands.
fn is_another_role(container: &Container) -> bool {
    const OTHERS: [&str; 8] = ["agent", "controller", "check", "explain", "open", "close", "uninstall", "install"];
    arguments(container).first().is_some_and(|role| OTHERS.contains(role))
}

/// Whether this container runs `wait`, and nothing that keeps `wait` from it.
fn only_waits(container: &Container) -> bool {
    arguments(container) == ["wait"]
}

#[cfg(test)]
mod tests;
