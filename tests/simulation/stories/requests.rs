//! What agents ask the API server for.

use std::rc::Rc;
use std::time::Duration;

use linkerd_gate_core::decide::node::essential;
use linkerd_gate_core::decide::node::taint::TAINT_KEY;
use linkerd_gate_core::decide::{LinkerdInstallation, ProbeResult};

use crate::agent::{Answer, Found};
use crate::api_server::{Refused, Request};
use crate::events::Event;
use crate::world::World;

// === impl World ===

impl World {
    pub fn latency(&mut self) -> Duration {
        if self.api_slow { self.random.between(1500, 2500) } else { self.random.between(1, 40) }
    }

    pub fn send(&mut self, agent: usize, request: Request) -> Result<(), String> {
        self.count_sent(agent, &request);
        if matches!(request, Request::Look) {
            self.check_dry_run(agent)?;
        }
        let after = self.latency();
        self.schedule(self.now + after, Event::Arrive { agent, request, sent: self.now });
        Ok(())
    }

    pub fn count_sent(&mut self, agent: usize, request: &Request) {
        match request {
            Request::Look => self.counts.dry_runs += 1,
            Request::WriteLease(_) => {}
            Request::PatchNode { change, state, .. } => {
                self.counts.other_writes += 1;
                self.log(|world| format!("{} sends {change:?} for {state:?}", world.agents[agent].me));
            }
            Request::Tolerate(uid) => {
                self.counts.other_writes += 1;
                self.counts.tolerations += 1;
                self.log(|world| format!("{} tolerates for {uid}", world.agents[agent].me));
            }
        }
    }

    pub fn arrive(&mut self, agent: usize, request: Request, sent: Duration) -> Result<(), String> {
        let reached = self.reaches(agent);
        let answer = match request {
            Request::PatchNode { resource_version, change, state, truth } => {
                let node = self.agents[agent].node;
                let refused = || Err(Refused::Lost);
                let before = Rc::clone(&self.api.nodes[node]);
                let result = if reached { self.api.patch_node(node, &resource_version, &change) } else { refused() };
                if result.is_ok() {
                    self.check_patch(agent, &before, &change, &state, truth)?;
                    self.note_taint(node);
                    self.notify_node(node);
                }
                self.counts.conflicts += usize::from(result == Err(Refused::Conflict));
                Answer::Node(result)
            }
            Request::WriteLease(write) => {
                let before = self.api.lease.clone();
                if reached {
                    let renews = before.as_ref().is_some_and(|word| word.record.holder.as_ref() == Some(&write.holder));
                    *(if renews { &mut self.counts.renewals } else { &mut self.counts.takings }) += 1;
                }
                let result = if reached { self.api.write_lease(&write, self.now) } else { Err(Refused::Lost) };
                if result.is_ok() {
                    self.check_lease(before.as_deref(), &write.holder, write.transitions)?;
                    let changed = before.as_ref().and_then(|word| word.record.verdict.as_ref()) != Some(&write.verdict);
                    if changed || before.is_none_or(|word| word.record.holder.as_ref() != Some(&write.holder)) {
                        self.log(|_| format!("{} publishes {}", write.holder, write.verdict));
                    }
                    self.notify_lease();
                }
                self.counts.conflicts += usize::from(matches!(result, Err(Refused::Conflict)));
                Answer::Lease(write.number, result.map(|word| word.record.clone()))
            }
            Request::Look => Answer::Look(if reached { self.look() } else { Found::nothing() }),
            Request::Tolerate(uid) => {
                if reached {
                    self.tolerate(&uid);
                }
                Answer::Tolerate(uid)
            }
        };
        let after = self.latency();
        self.schedule(self.now + after, Event::Respond { agent, answer, sent });
        Ok(())
    }

    pub fn tolerate(&mut self, uid: &str) {
        for pod in &mut self.pods {
            if pod.view.uid == uid {
                pod.view.tolerations.get_or_insert_default().push(essential::toleration(TAINT_KEY));
            }
        }
        self.refresh_cluster();
    }

    /// What a dry-run pod and the prover's watches show at this instant.
    pub fn look(&mut self) -> Found {
        if !self.webhook_present {
            let absent = || ProbeResult::unknown("there is no webhook");
            return Found {
                installation: LinkerdInstallation::Absent,
                webhook: ProbeResult::not_ready("there is none"),
                injector: absent(),
                injection: ProbeResult::not_ready("came back bare"),
                identity: absent(),
            };
        }
        let ready = |up: bool, why: &str| if up { ProbeResult::Ready } else { ProbeResult::not_ready(why.to_owned()) };
        let injects = self.injects();
        if injects {
            self.injected_at = Some(self.now);
        }
        Found {
            installation: LinkerdInstallation::Present,
            webhook: ready(!self.webhook_placeholder, "its CA bundle is a placeholder"),
            // Endpoints are what etcd remembers: they may call an injector ready that lost its power.
            injector: ready(injects || (self.now.as_secs() / 20).is_multiple_of(2), "no endpoint is ready"),
            injection: ready(injects, "came back bare"),
            identity: ready(self.identity_up(), "refused"),
        }
    }
}

/// The same answer, had it never come.
pub fn lost(answer: Answer) -> Answer {
    match answer {
        Answer::Node(_) => Answer::Node(Err(Refused::Lost)),
        Answer::Lease(number, _) => Answer::Lease(number, Err(Refused::Lost)),
        Answer::Look(_) => Answer::Look(Found::nothing()),
        Answer::Tolerate(uid) => Answer::Tolerate(uid),
    }
}
