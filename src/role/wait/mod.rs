//! `wait`: an init container that holds its pod until Linkerd can inject and certify, and never lets a missed pod start.

mod narrator;
mod replace;
mod standing;
mod words;

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

pub use self::narrator::write_termination_message;
use self::narrator::{Narrator, Tone};
use self::replace::Replacement;
pub use self::standing::{Standing, Then};
use crate::config::{Component, OnMissed, OnTimeout, Wait, WhenMeshed};
use crate::decide::policy::NothingRequired;
use crate::decide::{Change, Gate, Policy, Probe};
use crate::exit::Exit;
use crate::observe::{Direct, DirectError};
use crate::retry::Schedule;

/// Why `wait` cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nothing can be looked at.
    #[error(transparent)]
    Direct(#[from] DirectError),
    /// Nothing is required.
    #[error(transparent)]
    Policy(#[from] NothingRequired),
}

/// A pod that is being held.
struct Hold<'a> {
    settings: &'a Wait,
    standing: Standing,
    policy: Policy,
    /// Where readiness is learned from. Direct today; a node's agent is another source of the same [`Gate`].
    direct: Direct,
    gate: Gate,
    narrator: Narrator,
}

/// Runs `wait` until its pod may start, must be replaced, time is over, or `shutdown` completes with a signal's name.
///
/// # Errors
/// [`StartError`] when it cannot even begin; once it looks, every failure is a reason to hold.
pub async fn run(settings: &Wait, shutdown: impl Future<Output = &'static str>) -> Result<Exit, StartError> {
    let standing = Standing::of(&settings.pod);
    let mut narrator = Narrator::new(settings.termination_log.clone());
    narrator.note(Tone::Info, &words::beginning(settings, standing));
    if standing == Standing::Meshed && settings.when_meshed == WhenMeshed::Pass {
        return Ok(Exit::Done);
    }

    let required = |component| match standing {
        // Injection is behind a meshed pod: all it still needs is a certificate.
        Standing::Meshed => component == Component::Identity,
        // "Create this pod again" would be bad advice while nobody could inject the next one.
        Standing::Missed if settings.on_missed != OnMissed::Open && component == Component::Injector => true,
        _ => settings.linkerd.require.contains(&component),
    };
    let probes = Component::ALL.iter().copied().filter(|component| required(*component)).map(probe);
    let direct_policy = Policy::direct();
    let policy = Policy::new(probes, direct_policy.proofs(), direct_policy.settling())?;
    let direct = Direct::new(&settings.linkerd, required)?;
    let mut hold = Hold { settings, standing, policy, direct, gate: Gate::closed(), narrator };

    let ended = tokio::select! {
        biased;
        // The pod goes away: whatever is in flight is dropped with its future.
        signal = shutdown => Ended::Signalled(signal),
        // Time is over, also where Linkerd became ready in the same instant: the next try will find it so.
        () = deadline(settings.timeout) => Ended::TimeIsOver(settings.on_timeout),
        exit = hold.run() => return Ok(exit),
    };
    Ok(hold.end(ended))
}

async fn deadline(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

fn probe(component: Component) -> Probe {
    match component {
        Component::Injector => Probe::Injector,
        Component::Identity => Probe::Identity,
        Component::Destination => Probe::Destination,
        Component::Policy => Probe::Policy,
    }
}

/// What ended a hold from outside.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Signalled(&'static str),
    TimeIsOver(OnTimeout),
}

// === impl Hold ===

impl Hold<'_> {
    /// Looks until the pod may start or must be replaced.
    async fn run(&mut self) -> Exit {
        let epoch = Instant::now();
        let mut looking = Schedule::looking();
        let mut watching = Schedule::watching();
        let mut replacement = Replacement::new();
        loop {
            let evidence = self.direct.look(epoch.elapsed()).await;
            for (probe, outcome) in evidence.outcomes().filter(|(probe, _)| self.policy.requires(*probe)) {
                debug!(%probe, "{outcome}");
            }
            self.step(&evidence);

            let pause = if self.gate.is_open() {
                looking.reset();
                match self.standing.then(self.settings.on_missed, &self.settings.pod) {
                    Then::Open => {
                        let line = words::open(self.standing, self.direct.injectors_issuer(), self.narrator.elapsed());
                        let tone = if self.standing == Standing::Missed { Tone::Warn } else { Tone::Info };
                        self.narrator.note(tone, &line);
                        return Exit::Done;
                    }
                    Then::Exit => {
                        self.narrator.note(Tone::Warn, &words::exit(&self.settings.pod));
                        return Exit::MustBeReplaced;
                    }
                    Then::Hold => {
                        self.narrator.state(Tone::Warn, words::held(&self.settings.pod));
                        watching.next_pause()
                    }
                    Then::Replace => replacement.attempt(&self.settings.pod, &mut self.narrator).await,
                }
            } else {
                watching.reset();
                self.until_settled(epoch.elapsed()).unwrap_or_else(|| looking.next_pause())
            };
            self.narrator.breathe();
            tokio::time::sleep(pause).await;
        }
    }

    fn step(&mut self, evidence: &crate::decide::Evidence) {
        let old = std::mem::take(&mut self.gate);
        let new = old.clone().step(&self.policy, evidence);
        match Change::between(&old, &new) {
            // What an open gate means for this pod is told by the arms of `run`.
            None | Some(Change::Opened(_) | Change::Rests(_) | Change::Reassured) => {}
            Some(Change::Settling) => debug!("{}", Change::Settling),
            Some(change) => {
                let tone = if change.is_setback() { Tone::Warn } else { Tone::Info };
                self.narrator.state(tone, change.to_string());
            }
        }
        self.gate = new;
    }

    /// How long the gate still has to settle; nothing where it does not.
    fn until_settled(&self, now: Duration) -> Option<Duration> {
        match &self.gate {
            // A clock that is read twice is read a little later: without the margin the last look would come too early.
            Gate::Settling { since, .. } => {
                Some((*since + self.policy.settling() + Duration::from_millis(2)).saturating_sub(now))
            }
            Gate::Closed { .. } | Gate::Open { .. } => None,
        }
    }

    fn end(&mut self, ended: Ended) -> Exit {
        let (pod, elapsed) = (&self.settings.pod, self.narrator.elapsed());
        let (tone, line, exit) = match ended {
            Ended::Signalled(signal) => {
                (Tone::Info, words::signalled(signal, self.standing, &self.gate, elapsed), Exit::Terminated)
            }
            Ended::TimeIsOver(OnTimeout::Fail) => {
                (Tone::Error, words::gave_up(pod, self.standing, &self.gate, elapsed), Exit::GaveUp)
            }
            Ended::TimeIsOver(OnTimeout::Open) => {
                (Tone::Warn, words::opened_by_timeout(self.standing, &self.gate, elapsed), Exit::Done)
            }
        };
        self.narrator.note(tone, &line);
        exit
    }
}
