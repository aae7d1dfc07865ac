//! `wait`: an init container that holds its pod until Linkerd can inject and certify, and never lets a missed pod start.

mod messages;
mod self_replace;
mod source;
mod status_log;

use std::time::Duration;

use strum::VariantArray as _;
use tracing::{Instrument as _, debug, error_span};

use self::self_replace::Replacement;
pub use self::self_replace::Replacer;
use self::source::{Source, SourceEvent};
pub use self::status_log::write_termination_message;
use self::status_log::{Level, Line, StatusLog};
use crate::config::{Component, OnTimeout, Wait, WhenMeshed};
use crate::decide::readiness::policy::NothingRequired;
use crate::decide::wait::{Opening, PodClass, Status, Then};
use crate::decide::{Evidence, Gate, GateStatus, Policy, Probe, Transition};
use crate::exit::Exit;
use crate::observe::{AgentClient, AgentError, Direct, Issuer};
use crate::retry::Schedule;

/// Why `wait` cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The agent cannot be asked.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Nothing is required.
    #[error(transparent)]
    Policy(#[from] NothingRequired),
}

/// A pod that is being held.
struct Hold<'a> {
    settings: &'a Wait,
    class: PodClass,
    policy: Policy,
    source: Source,
    known: Status,
    log: StatusLog,
    /// Whether a line said that `wait` probes Linkerd itself instead of the agent.
    without_agent: bool,
}

/// Whether this pod is one that deletes itself once Linkerd is ready, for which a [`Replacer`] is needed.
pub fn replaces_itself(settings: &Wait) -> bool {
    PodClass::of(&settings.pod).then(settings.on_missed, &settings.pod) == Then::Replace
}

/// Runs `wait` until its pod may start, must be replaced, time is over, or `shutdown` completes with a signal's name.
///
/// # Errors
/// [`StartError`] when it cannot even begin; once it looks, every failure is a reason to hold.
pub async fn run(
    settings: &Wait,
    replacer: impl Replacer,
    shutdown: impl Future<Output = &'static str>,
) -> Result<Exit, StartError> {
    // At the highest level, so that no filter hides the pod of a line.
    let span = error_span!("wait", namespace = settings.pod.namespace, pod = settings.pod.name);
    start(settings, replacer, shutdown).instrument(span).await
}

async fn start(
    settings: &Wait,
    replacer: impl Replacer,
    shutdown: impl Future<Output = &'static str>,
) -> Result<Exit, StartError> {
    let class = PodClass::of(&settings.pod);
    let mut log = StatusLog::new(settings.termination_log.clone());
    log.note(Level::Info, &messages::beginning(settings, class));
    if class == PodClass::Meshed && settings.when_meshed == WhenMeshed::Pass {
        return Ok(Exit::Done);
    }

    let configured = &settings.linkerd.require;
    let is_configured = |wanted| configured.iter().any(|component| probe(*component) == wanted);
    let required = |component| class.requires(probe(component), settings.on_missed, is_configured);
    let probes = Component::VARIANTS.iter().copied().filter(|component| required(*component)).map(probe);
    let direct_policy = Policy::direct();
    let policy = Policy::new(probes, direct_policy.proofs(), direct_policy.settling())?;
    let direct = Direct::new(&settings.linkerd, required);
    // Whether its own proxy could get a certificate is a question that no agent answers.
    let agent = settings.agent.clone().filter(|_| class != PodClass::Meshed).map(AgentClient::new).transpose()?;
    let source = Source::new(direct, agent, policy.clone());
    let known = Status::default();
    let mut hold = Hold { settings, class, policy, source, known, log, without_agent: false };

    let ended = tokio::select! {
        biased;
        // The pod goes away: whatever is in flight is dropped with its future.
        signal = shutdown => Ended::Signalled(signal),
        // Time is over, also where Linkerd became ready in the same instant: the next try will find it so.
        () = deadline(settings.timeout) => Ended::TimeIsOver(settings.on_timeout),
        exit = hold.run(replacer) => return Ok(exit),
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
    /// Listens until the pod may start or must be replaced.
    async fn run(&mut self, replacer: impl Replacer) -> Exit {
        let mut looking = Schedule::direct_probe();
        let mut watching = Schedule::held_status();
        let mut replacement = Replacement::new(replacer);
        let mut pause = Duration::ZERO;
        loop {
            match self.source.hear(pause, self.known.agent_holds()).await {
                SourceEvent::Evidence(evidence) => self.step(&evidence),
                SourceEvent::Answer(answer) => self.follow(answer),
                SourceEvent::NoAgent(why) => {
                    self.lose(&why);
                    pause = Duration::ZERO;
                    continue;
                }
            }

            let (on_missed, pod) = (self.settings.on_missed, &self.settings.pod);
            pause = if let Some(opening) = self.known.opening() {
                looking.reset();
                match opening.then(self.class, on_missed, pod) {
                    Then::Open => {
                        let line = messages::open(self.class, opening, self.issuer(opening), self.log.elapsed());
                        let level = if self.class == PodClass::Missed { Level::Warn } else { Level::Info };
                        self.log.note(level, &line);
                        return Exit::Done;
                    }
                    Then::Exit => {
                        self.log.note(Level::Warn, &messages::exit(pod));
                        return Exit::MustBeReplaced;
                    }
                    Then::Hold => {
                        self.log.state(Level::Warn, messages::held(pod, opening));
                        watching.next_pause()
                    }
                    Then::Replace => replacement.attempt(pod, &mut self.log).await,
                }
            } else {
                watching.reset();
                if self.known.agent_holds() {
                    // The agent keeps the next question until it opens.
                    Duration::ZERO
                } else {
                    self.until_settled().unwrap_or_else(|| looking.next_pause())
                }
            };
            self.log.heartbeat();
        }
    }

    /// Takes in what a look found.
    fn step(&mut self, evidence: &Evidence) {
        for (probe, outcome) in evidence.results().filter(|(probe, _)| self.policy.requires(*probe)) {
            debug!(%probe, result = %outcome, "probe");
        }
        let old = self.known.own_gate();
        self.known = self.known.look(&self.policy, evidence);
        let new = self.known.own_gate();
        match Transition::between(&old, &new) {
            // What an open gate means for this pod is logged by the arms of `run`.
            None | Some(Transition::Opened(_) | Transition::Rests(_) | Transition::Reassured) => {}
            Some(change @ Transition::Settling) => debug!("{}", change.message()),
            Some(change) => {
                let level = if change.is_setback() { Level::Warn } else { Level::Info };
                self.log.state(level, Line::new(change.message(), change.reason().unwrap_or_default()));
            }
        }
    }

    /// How the issuer was checked of the injector's certificate that `opening` is based on.
    fn issuer(&self, opening: Opening<'_>) -> Option<Issuer> {
        (opening == Opening::Reachable).then(|| self.source.injectors_issuer()).flatten()
    }

    /// Takes in what the agent says.
    fn follow(&mut self, answer: GateStatus) {
        debug!(open = answer.open, reason = answer.reason, "the agent's answer");
        if std::mem::take(&mut self.without_agent) {
            self.log.note(Level::Info, &messages::agent_is_back(&answer));
        }
        let was_open = self.known.opening().is_some();
        self.known = Status::FromAgent(answer);
        if self.known.agent_holds() {
            let level = if was_open { Level::Warn } else { Level::Info };
            self.log.state(level, messages::waiting(&self.known));
        }
    }

    /// Goes on without the agent.
    fn lose(&mut self, why: &str) {
        let followed = matches!(self.known, Status::FromAgent(_));
        let level = if followed { Level::Warn } else { Level::Info };
        self.log.note(level, &messages::without_agent(why));
        self.without_agent = true;
        self.known = Status::default();
    }

    /// How long the gate still has to settle; nothing where it does not.
    fn until_settled(&self) -> Option<Duration> {
        match &self.known {
            // A clock that is read twice is read a little later: without the margin the last look would come too early.
            Status::Directly(Gate::Settling { since, .. }) => {
                Some((*since + self.policy.settling() + Duration::from_millis(2)).saturating_sub(self.source.now()))
            }
            Status::Directly(_) | Status::FromAgent(_) => None,
        }
    }

    fn end(&mut self, ended: Ended) -> Exit {
        let (pod, elapsed) = (&self.settings.pod, self.log.elapsed());
        let (level, line, exit) = match ended {
            Ended::Signalled(signal) => {
                (Level::Info, messages::signalled(signal, self.class, &self.known, elapsed), Exit::Terminated)
            }
            Ended::TimeIsOver(OnTimeout::Fail) => {
                (Level::Error, messages::gave_up(pod, self.class, &self.known, elapsed), Exit::GaveUp)
            }
            Ended::TimeIsOver(OnTimeout::Open) => {
                (Level::Warn, messages::opened_by_timeout(self.class, &self.known, elapsed), Exit::Done)
            }
        };
        self.log.note(level, &line);
        exit
    }
}
