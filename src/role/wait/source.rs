//! Where `wait` learns from: the node's agent, and Linkerd itself for as long as there is no agent.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::decide::wait::status::{BLIND, is_blind, uncovered};
use crate::decide::{Evidence, GateStatus, Policy};
use crate::observe::{AgentClient, Direct, Issuer};
use crate::retry::Schedule;

/// How long a long poll lasts: half of what an agent grants, and as long as a held pod's log may be silent.
const POLL: Duration = Duration::from_secs(30);

/// A closed answer to a long poll that comes before this was not waited for: the agent ends, or has its own limit.
const TOO_EARLY: Duration = Duration::from_secs(1);

/// The two sources. The agent comes first: it costs the cluster nothing, and what it says is proven.
pub(super) struct Source {
    direct: Direct,
    agent: Option<Arc<AgentClient>>,
    policy: Policy,
    from: From,
    epoch: Instant,
    early: Schedule,
    /// Since when the agent says that it sees no verdict.
    blind: Option<Instant>,
}

/// Which of them is asked.
enum From {
    Agent,
    /// Linkerd, and where there may be an agent some day, that as well, once in a while.
    Direct(Option<Asking>),
}

/// A question to the agent, and what makes its answer unusable where there is none.
type Asking = Pin<Box<dyn Future<Output = Result<GateStatus, String>>>>;

/// What was learned.
#[derive(Debug)]
pub(super) enum SourceEvent {
    /// What the agent says.
    Answer(GateStatus),
    /// What a look at Linkerd found.
    Evidence(Evidence),
    /// The agent says nothing that could be used, because of this: from now on Linkerd is looked at.
    NoAgent(String),
}

// === impl Source ===

impl Source {
    /// Begins with the agent, where there is one to ask.
    pub(super) fn new(direct: Direct, agent: Option<AgentClient>, policy: Policy) -> Self {
        let agent = agent.map(Arc::new);
        let from = if agent.is_some() { From::Agent } else { From::Direct(None) };
        Self { direct, agent, policy, from, epoch: Instant::now(), early: Schedule::direct_probe(), blind: None }
    }

    /// The time on the clock of the evidence.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// How the injector's issuer is checked where Linkerd is looked at.
    pub(super) fn injectors_issuer(&self) -> Option<Issuer> {
        self.direct.injectors_issuer()
    }

    /// The next thing to know, asked for after `pause`. With `long` the agent is given time to open.
    ///
    /// Dropping the future ends whatever is in flight.
    pub(super) async fn hear(&mut self, pause: Duration, long: bool) -> SourceEvent {
        let Self { direct, agent, policy, from, epoch, early, blind } = self;
        match (&mut *from, agent) {
            (From::Agent, Some(agent)) => {
                sleep(pause).await;
                let asked = Instant::now();
                match ask(agent, policy, long.then_some(POLL)).await {
                    // It holds its pods, and cannot say whether it should: after a while that is no answer.
                    Ok(answer) if is_blind(&answer) && blind.get_or_insert(asked).elapsed() >= BLIND => {
                        *blind = None;
                        *from = From::Direct(Some(ask_again(agent, policy)));
                        SourceEvent::NoAgent(format!("it has seen no verdict for a minute: {}", answer.reason))
                    }
                    Ok(answer) => {
                        if !is_blind(&answer) {
                            *blind = None;
                        }
                        if long && !answer.open && asked.elapsed() < TOO_EARLY {
                            sleep(early.next_pause()).await;
                        } else {
                            early.reset();
                        }
                        SourceEvent::Answer(answer)
                    }
                    Err(why) => {
                        *from = From::Direct(Some(ask_again(agent, policy)));
                        SourceEvent::NoAgent(why)
                    }
                }
            }
            (From::Direct(Some(asking)), Some(agent)) => {
                let mut look = pin!(async {
                    sleep(pause).await;
                    direct.look(epoch.elapsed()).await
                });
                loop {
                    tokio::select! {
                        biased;
                        // The better source; the look is dropped for it.
                        answer = &mut *asking => match answer {
                            Ok(answer) => {
                                *from = From::Agent;
                                return SourceEvent::Answer(answer);
                            }
                            Err(why) => {
                                tracing::debug!(reason = why, "still no answer from the agent");
                                *asking = ask_again(agent, policy);
                            }
                        },
                        // Until then, this one.
                        evidence = &mut look => return SourceEvent::Evidence(evidence),
                    }
                }
            }
            _ => {
                sleep(pause).await;
                SourceEvent::Evidence(direct.look(epoch.elapsed()).await)
            }
        }
    }
}

async fn ask(agent: &AgentClient, policy: &Policy, wait: Option<Duration>) -> Result<GateStatus, String> {
    let answer = agent.ask(wait).await.map_err(|why| why.to_string())?;
    match uncovered(policy, &answer) {
        None => Ok(answer),
        Some(missing) => Err(format!("it does not look at {missing}, which LINKERD_GATE_REQUIRE asks for")),
    }
}

/// One question, in a while. It goes on over as many looks as are made meanwhile.
fn ask_again(agent: &Arc<AgentClient>, policy: &Policy) -> Asking {
    let (agent, policy) = (Arc::clone(agent), policy.clone());
    Box::pin(async move {
        sleep(Schedule::agent_recheck().next_pause()).await;
        let answer = ask(&agent, &policy, None).await?;
        if is_blind(&answer) { Err("it sees no verdict".to_owned()) } else { Ok(answer) }
    })
}
